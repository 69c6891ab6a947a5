from collections.abc import Iterator
from pathlib import Path

import pytest
from served import PICTURE, served
from shared import MakeAgent, write_clip

from visreplay.agent.mcp.server import client_media, http_app, mcp_server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What the server may read; beside it lies what it may not."""
    folder = tmp_path / "root"
    folder.mkdir()
    for path in (folder / "scene.png", tmp_path / "private.png"):
        PICTURE.save(path)
    (folder / "link.png").symlink_to(tmp_path / "private.png")
    (folder / "broken.png").write_bytes((folder / "scene.png").read_bytes()[:500])
    write_clip(folder / "clip.mp4", [0] * 10 + [250] * 10)
    return folder


@pytest.fixture
def url(root: Path, make_agent: MakeAgent) -> Iterator[str]:
    """A server on a socket, whose questions the embedded pair answers."""
    with served(http_app(mcp_server(client_media([root]), make_agent))) as address:
        yield f"{address}/mcp"
