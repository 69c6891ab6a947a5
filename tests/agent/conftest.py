from collections.abc import Iterator

import pytest
from openai import OpenAI
from openai_served import client_of, post, service, until
from served import served
from shared import write_picture

from visreplay.agent.openai.routes import openai_app
from visreplay.replay_core import ModelPair
from visreplay.tools.fetch import Fetcher


@pytest.fixture(scope="session")
def openai_url(embedded_pair: ModelPair) -> Iterator[str]:
    """An OpenAI-compatible server on a socket."""
    with served(openai_app(service(embedded_pair))) as address:
        yield address


@pytest.fixture(scope="session")
def limited_url(
    embedded_pair: ModelPair, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A server that takes little: a picture of 200 x 200, or a clip of 4 frames."""
    root = tmp_path_factory.mktemp("served") / "root"
    write_picture(root / "red.png", "red")
    write_picture(root.parent / "private.png", "red")
    (root / "link.png").symlink_to(root.parent / "private.png")
    limited = service(
        embedded_pair,
        body_bytes=400_000,
        body_seconds=1,
        pixels=40_000,
        frames=4,
        video_seconds=400,
        context=600,
        max_new_tokens=8,
        running=2,
        roots=(root,),
        fetch=Fetcher(),
    )
    with served(openai_app(limited)) as address:
        yield f"{address}/v1/chat/completions#{root}"


@pytest.fixture
def limited(limited_url: str) -> Iterator[str]:
    """The server that takes little, which is expected to answer afterwards."""
    yield limited_url
    response = post(limited_url, {"max_tokens": 2})
    assert response.status_code == 200 and response.json()["choices"]
    until(limited_url.partition("/v1")[0], running=0)


@pytest.fixture
def client(openai_url: str) -> Iterator[OpenAI]:
    """A client of it."""
    with client_of(openai_url) as client:
        yield client
