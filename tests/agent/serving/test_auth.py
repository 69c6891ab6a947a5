"""Without a key, programs of this machine are answered, and no web page."""

import httpx
import pytest

MODELS = "/v1/models"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost"},
        {"Host": "LOCALHOST:8000"},
        {"Host": "[::1]:8000"},
        {"Host": "127.0.0.1", "Origin": "http://localhost:3000"},
    ],
)
def test_a_request_that_names_this_machine_is_answered(
    openai_url: str, headers: dict[str, str]
) -> None:
    assert httpx.get(openai_url + MODELS, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": "evil.example:localhost"},
        {"Host": "127.0.0.1@evil.example"},
        {"Host": ""},
        {"Host": "192.168.0.7"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[evil"},
    ],
)
def test_a_request_that_names_another_machine_is_refused(
    openai_url: str, headers: dict[str, str]
) -> None:
    response = httpx.get(openai_url + MODELS, headers=headers)
    assert response.status_code == 403
    assert "must name this machine" in response.json()["error"]["message"]
