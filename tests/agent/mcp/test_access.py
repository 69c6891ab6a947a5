"""Who reaches the MCP server over HTTP."""

import socket
import subprocess
from pathlib import Path

import httpx
import pytest
from mcp import ClientSession
from served import COMMAND, ENVIRONMENT, served, wait_for, with_session
from shared import MakeAgent
from typer.testing import CliRunner

from visreplay.agent.mcp.server import client_media, http_app, mcp_server
from visreplay.agent.serving.auth import check_access
from visreplay.tasks.commands.cli import app


def test_with_a_key_only_those_come_in_who_send_it(root: Path, make_agent: MakeAgent) -> None:
    application = http_app(mcp_server(client_media([root]), make_agent), "secret")
    with served(application) as address:
        url = f"{address}/mcp"
        for headers in ({}, {"Authorization": "Bearer Secret"}, {"Authorization": "Basic secret"}):
            response = httpx.post(url, headers=headers, json={})
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"

        async def scenario(session: ClientSession) -> None:
            assert not (await session.call_tool("zoom", {"image": "scene.png"})).isError

        with_session(url, scenario, Authorization="Bearer secret")


def test_a_web_page_cannot_reach_a_server_on_loopback(url: str) -> None:
    assert httpx.post(url, json={}, headers={"Host": "example.org"}).status_code == 421
    assert httpx.post(url, json={}, headers={"Origin": "http://example.org"}).status_code == 403


def test_a_large_body_is_refused(url: str) -> None:
    assert httpx.post(url, content=b" " * (18 * 2**20)).status_code == 413


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.1", "::"])
def test_other_addresses_need_a_key(host: str) -> None:
    result = CliRunner().invoke(app, ["mcp", "--http", "--host", host])
    assert result.exit_code == 2
    assert "give --api-key" in result.stderr
    check_access(host, "secret")
    with pytest.raises(ValueError, match="empty"):
        check_access(host, " ")


def test_the_command_serves_http(root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*COMMAND, "--http", "--port", str(port), "--root", str(root)]
    environment = {**ENVIRONMENT, "VISREPLAY_API_KEY": "secret"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)

        async def scenario(session: ClientSession) -> None:
            assert not (await session.call_tool("zoom", {"image": "scene.png"})).isError

        with_session(f"http://127.0.0.1:{port}/mcp", scenario, Authorization="Bearer secret")
    finally:
        process.terminate()
        assert process.wait(30) in (0, -15)
