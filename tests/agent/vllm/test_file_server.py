"""Files of keys and values over HTTP, for engines on other machines."""

from pathlib import Path

import httpx
import pytest

from visreplay.agent.vllm.file_server import FileServer
from visreplay_connector.fetching import KEY_VARIABLE, Fetcher
from visreplay_connector.handles import HandleError

NAME = f"{'a' * 32}.safetensors"


@pytest.fixture
def served(tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / NAME).write_bytes(b"keys and values")
    (tmp_path / "secret").write_text("no")
    return folder


def fetched(fetcher: Fetcher, source: str, name: str = NAME) -> None:
    fetcher.begin("request", {"source": source}, [name])
    while not fetcher.arrived("request"):
        pass


def test_a_file_is_fetched_once(served: Path, tmp_path: Path) -> None:
    with FileServer(served) as server:
        fetcher = Fetcher(tmp_path, {"sources": [server.url]})
        fetched(fetcher, server.url)
        assert (tmp_path / NAME).read_bytes() == b"keys and values"
        assert not fetcher.begin("another", {"source": server.url}, [NAME])


@pytest.mark.parametrize("path", ["../secret", "", "secret", f"{NAME}/..", "%2e%2e/secret"])
def test_nothing_else_is_served(served: Path, path: str) -> None:
    with FileServer(served) as server:
        assert httpx.get(f"{server.url}/{path}").status_code == 404


def test_a_key_keeps_others_out(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sesame")
    with FileServer(served) as server:
        assert httpx.get(f"{server.url}/{NAME}").status_code == 401
        fetched(Fetcher(tmp_path, {"sources": [server.url]}), server.url)
        monkeypatch.setenv(KEY_VARIABLE, "open")
        other = Fetcher(tmp_path / "served" / "..", {"sources": [server.url]})
        (tmp_path / NAME).unlink()
        with pytest.raises(HandleError, match="a file cannot be fetched: HTTP Error 401"):
            fetched(other, server.url)


def test_a_source_that_was_not_allowed_is_refused(served: Path, tmp_path: Path) -> None:
    with FileServer(served) as server, pytest.raises(HandleError, match="none of the connector's"):
        fetched(Fetcher(tmp_path, {}), server.url)


def test_what_was_fetched_stays_within_a_bound(served: Path, tmp_path: Path) -> None:
    others = [f"{digit * 32}.safetensors" for digit in "bcd"]
    for name in others:
        (served / name).write_bytes(b"x" * 60)
    with FileServer(served) as server:
        fetcher = Fetcher(tmp_path, {"sources": [server.url], "max_bytes": 100})
        for name in others:
            fetched(fetcher, server.url, name)
            fetcher.end("request")
        assert [name for name in others if (tmp_path / name).exists()] == others[-1:]
        (served / NAME).write_bytes(b"x" * 101)
        with pytest.raises(HandleError, match="has 101 bytes, but 100 are kept"):
            fetched(fetcher, server.url)
