"""Messages as a bad client might send them over HTTP: an answer of JSON-RPC, and no traceback."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fuzzing import fuzzing
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.fastmcp import FastMCP
from mcp_sessions import HEADERS, layered, opened
from served import served

from visreplay.agent.serving.json_bounds import JsonBounds

FUZZING = fuzzing(30, 20_000)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The layers of `http_app` around a server without models."""
    fast: FastMCP = FastMCP("test", log_level="ERROR")

    @fast.tool()
    def look(image: str, bbox: list[float] | None = None) -> str:
        """Do nothing."""
        return image[:5]

    with served(layered(fast, 4, 2**18, JsonBounds(2**16, values=1000))) as address:
        yield f"{address}/mcp"


ODD = st.sampled_from(
    [
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"\\ud83d\\ude00"',
        '"\\\\ud800"',
        "1" * 5000,
        "-" + "9" * 401,
        "1e999",
        "NaN",
        "null",
        "true",
        "1.5",
        "[" * 2000,
        "[" * 200 + "]" * 200,
        "[" + "1," * 2000 + "1]",
        '{"a":' * 150 + "1" + "}" * 150,
        '"\x00"',
        '"' + "x" * 70_000 + '"',
        '"data:image/png;base64,' + "A" * 100_000 + '"',
    ]
) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
).map(json.dumps)
METHODS = ['"ping"', '"tools/call"', '"tools/list"', '"notifications/cancelled"', '"x"']


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """The JSON of a call with an odd value in some place, or with bytes of it replaced."""
    odd, place = draw(ODD), draw(st.integers(0, 5))
    of = [odd if number == place else None for number in range(6)]
    arguments = of[3] or f'{{"image": {of[4] or "null"}, "bbox": {of[5] or "[1]"}}}'
    params = of[2] or f'{{"name": "look", "arguments": {arguments}}}'
    method = of[1] or draw(st.sampled_from(METHODS))
    body = f'{{"jsonrpc": "2.0", "id": {of[0] or "1"}, "method": {method}, "params": {params}}}'
    whole = body.encode("utf-8", "surrogatepass")
    if draw(st.booleans()):
        return whole
    start = draw(st.integers(0, min(len(whole), 200)))
    return whole[:start] + draw(st.binary(max_size=3)) + whole[start + 1 :]


@given(bodies())
@FUZZING
def test_every_message_is_answered(url: str, caplog: pytest.LogCaptureFixture, body: bytes) -> None:
    caplog.clear()
    with caplog.at_level(logging.ERROR):
        headers = {**HEADERS, "mcp-session-id": opened(url)}
        response = httpx.post(url, headers=headers, content=body, timeout=30)
    assert response.status_code in (200, 202, 400, 413), response.text
    if response.status_code == 200:
        (line,) = [line for line in response.text.splitlines() if line.startswith("data: ")]
        answer: Any = json.loads(line.removeprefix("data: "))
        assert "result" in answer or "error" in answer
    elif response.status_code != 202:
        assert response.json()["error"]["code"] in (-32700, -32600, -32602)
    assert not [record for record in caplog.records if record.exc_info]
