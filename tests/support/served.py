"""What the tests of the servers share: a server on a socket, and clients of MCP."""

import base64
import io
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from threading import Thread
from typing import Any

import anyio
import httpx
import uvicorn
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, ImageContent, TextContent
from PIL import Image, ImageChops

from visreplay.agent.serving.auth import App
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Split

SCENE = get_task("visual-search-medium").sample(Split.TUNING + 1)
PICTURE = SCENE.images[0]
COMMAND = [sys.executable, "-c", "from visreplay.tasks.commands.cli import main; main()", "mcp"]
ENVIRONMENT = {name: os.environ[name] for name in ("PYTHONPATH", "PATH") if name in os.environ}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

Scenario = Callable[[ClientSession], Awaitable[None]]


@contextmanager
def served(application: App, http: Any = "auto", send_buffer: int | None = None) -> Iterator[str]:
    """A server on a free port; gives its URL, without a path."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        if send_buffer is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        config = uvicorn.Config(
            application, http=http, ws="none", log_config=None, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@asynccontextmanager
async def over_http(url: str, **headers: str) -> AsyncIterator[ClientSession]:
    async with (
        httpx.AsyncClient(headers=headers, timeout=120) as http,
        streamable_http_client(url, http_client=http) as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        yield session


def with_session(url: str, scenario: Scenario, **headers: str) -> None:
    async def play() -> None:
        async with over_http(url, **headers) as session:
            await scenario(session)

    anyio.run(play)


def call(url: str, tool: str, **arguments: object) -> CallToolResult:
    """The result of one tool call."""
    results = []

    async def scenario(session: ClientSession) -> None:
        results.append(await session.call_tool(tool, arguments))

    with_session(url, scenario)
    return results[0]


def text(result: CallToolResult) -> str:
    block = result.content[0]
    assert isinstance(block, TextContent)
    return block.text


def images(result: CallToolResult) -> list[Image.Image]:
    shown = [block for block in result.content if isinstance(block, ImageContent)]
    opened = [Image.open(io.BytesIO(base64.b64decode(block.data))) for block in shown]
    assert [Image.MIME[str(image.format)] for image in opened] == [b.mimeType for b in shown]
    return opened


def structured(result: CallToolResult) -> dict[str, Any]:
    assert not result.isError, text(result)
    assert result.structuredContent is not None
    return result.structuredContent


def same(left: Image.Image, right: Image.Image) -> bool:
    return left.size == right.size and ImageChops.difference(left, right).getbbox() is None


def wait_for(port: int) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"nothing listens at port {port}")
