"""The command `visreplay serve` as a process: it answers, and stops after the last answer."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from openai_served import MODELS, client_of, prompt, read_all, sent
from served import COMMAND, ENVIRONMENT
from typer.testing import CliRunner

from visreplay.tasks.commands.cli import app

SERVE = [*COMMAND[:-1], "serve", "--port", "0"]


@pytest.fixture(scope="module")
def process() -> Iterator[tuple[subprocess.Popen[str], str]]:
    environment = {**ENVIRONMENT, "VISREPLAY_API_KEY": "secret"}
    command = [*SERVE, "--max-new-tokens", "400"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"at (http://\S+)/v1$", line):
                break
        yield process, found[1]  # type: ignore[index]
    finally:
        process.kill()
        process.communicate()


def test_it_serves_and_ends_what_was_begun(process: tuple[subprocess.Popen[str], str]) -> None:
    running, address = process
    with client_of(address, api_key="secret") as client:
        assert [model.id for model in client.models.list()] == [*MODELS]
        create: Any = client.chat.completions.create
        assert create(model="base", messages=prompt(), max_tokens=3).choices[0].message.content
    body = {"model": "policy", "messages": prompt(), "temperature": 2, "n": 8, "stream": True}
    stream = sent(address, body, Authorization="Bearer secret")
    begun = stream.recv(1000)
    assert b"chat.completion.chunk" in begun or b"200 OK" in begun
    running.terminate()
    port = int(address.rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        for _ in range(3000):
            socket.create_connection(("127.0.0.1", port)).close()
            time.sleep(0.01)
    rest = read_all(stream)
    assert rest.count("[DONE]") == 1
    assert rest.count('"finish_reason": "') == 8
    assert running.wait(60) == 0
    assert running.stderr is not None and running.stderr.read() == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.1", "::"])
def test_other_addresses_need_a_key(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISREPLAY_API_KEY", raising=False)
    result = CliRunner().invoke(app, ["serve", "--host", host])
    assert result.exit_code == 2
    assert "give --api-key" in result.stderr
    empty = CliRunner().invoke(app, ["serve", "--api-key", " "])
    assert empty.exit_code == 2 and "the API key is empty" in empty.stderr


def test_without_its_extra_it_says_what_to_install() -> None:
    hide = "import sys; sys.modules['fastapi'] = None; "
    code = hide + "from visreplay.tasks.commands.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", code, "serve"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 2
    assert "pip install 'visreplay[serve]'" in run.stderr
