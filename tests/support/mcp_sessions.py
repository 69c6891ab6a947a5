"""Sessions of MCP over HTTP, message by message, with the layers of `http_app` and no model."""

import json
from typing import Any

import httpx
from mcp.server.fastmcp import FastMCP

from visreplay.agent.mcp.errors import WholeCharacters, error_response
from visreplay.agent.mcp.sessions import SessionLimit
from visreplay.agent.serving.http import BodyLimit
from visreplay.agent.serving.json_bounds import JsonBounds

HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
SESSION = "mcp-session-id"
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


def layered(server: FastMCP, sessions: int, max_bytes: int, bounds: JsonBounds) -> BodyLimit:
    """The layers of `http_app` around a server, with small limits."""
    app = WholeCharacters(SessionLimit(server.streamable_http_app(), sessions))
    return BodyLimit(app, max_bytes, 60, error_response, bounds=bounds)


def post(url: str, body: Any, session: str | None = None) -> httpx.Response:
    """Send a message: text and bytes as they are, anything else as JSON."""
    headers = {**HEADERS, SESSION: session} if session else HEADERS
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    return httpx.post(url, headers=headers, content=content, timeout=30)


def opened(url: str) -> str:
    """Open a session, and return its id."""
    response = post(url, INITIALIZE)
    assert response.status_code == 200, response.text
    return str(response.headers[SESSION])
