"""An MCP server on standard input and output, where nothing but the protocol may be written."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.fastmcp import FastMCP
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp.types import PARSE_ERROR, JSONRPCMessage

from visreplay.agent.mcp.errors import error_message


def serve_stdio(server: FastMCP) -> None:
    """Serve the program that started this one, until it closes standard input."""

    async def serve() -> None:
        # FastMCP's own method does not let the caller choose the file.
        protocol = server._mcp_server
        options = protocol.create_initialization_options()
        with _protocol_alone_on_stdout() as out:
            async with stdio_server(stdout=anyio.wrap_file(out)) as (read, write):
                messages, readable = anyio.create_memory_object_stream[SessionMessage | Exception]()
                async with anyio.create_task_group() as group:
                    group.start_soon(_pass_on, read, messages, write)
                    await protocol.run(readable, write, options)

    anyio.run(serve)


async def _pass_on(
    read: MemoryObjectReceiveStream[SessionMessage | Exception],
    messages: MemoryObjectSendStream[SessionMessage | Exception],
    write: MemoryObjectSendStream[SessionMessage],
) -> None:
    """Pass messages on to the protocol; a line that is none is answered with an error."""
    async with read, messages:
        async for message in read:
            if isinstance(message, Exception):
                error = error_message(PARSE_ERROR, "a line is no message of JSON-RPC")
                await write.send(SessionMessage(JSONRPCMessage(error)))
            else:
                await messages.send(message)


@contextmanager
def _protocol_alone_on_stdout() -> Iterator[TextIO]:
    """Keep standard output for the protocol alone, and yield a file for it.

    Whatever libraries print, those in C included, goes to standard error.
    """
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n") as out:
        os.dup2(2, 1)
        try:
            yield out
        finally:
            sys.stdout.flush()
            os.dup2(out.fileno(), 1)
