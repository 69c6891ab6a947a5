"""The command `visreplay serve` as a process: it answers, and stops after the last answer."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from inspect import signature
from typing import Any, get_args

import pytest
from openai_served import MODELS, client_of, prompt, read_all, sent
from served import COMMAND, ENVIRONMENT
from typer.testing import CliRunner

from visreplay.agent.mcp import stdio
from visreplay.replay_core.errors import ConfigError
from visreplay.tasks.commands.cli import app
from visreplay.tasks.commands.pair_choice import PairChoice

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


@pytest.mark.parametrize("command", [["serve"], ["mcp", "--http"]])
def test_an_empty_key_is_refused(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one from a file that has a line break alone, or a variable with nothing in it."""
    monkeypatch.delenv("VISREPLAY_API_KEY", raising=False)
    for given in ("", " ", "\n"):
        result = CliRunner().invoke(app, [*command, "--api-key", given])
        assert result.exit_code == 2 and "the API key is empty" in result.stderr
    for variable in ("", " ", "\r\n"):
        result = CliRunner().invoke(app, command, env={"VISREPLAY_API_KEY": variable})
        assert result.exit_code == 2 and "is empty" in result.stderr


@pytest.mark.parametrize("command", [["serve"], ["mcp", "--http"]])
def test_a_port_that_is_taken_is_told_before_models_are_loaded(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PairChoice, "load", fails)
    monkeypatch.setattr(PairChoice, "of", fails)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(app, [*command, "--port", port])
    assert result.exit_code == 2
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ") and f"port {port}" in line and "choose another" in line


def fails(*_: object, **__: object) -> None:
    raise AssertionError("models are loaded")


def number_options(command: str) -> list[str]:
    function = getattr(import_module(f"visreplay.tasks.commands.{command}"), command)
    hints = {
        name: get_args(parameter.annotation)[0]
        for name, parameter in signature(function).parameters.items()
    }
    numbers = [name for name, hint in hints.items() if {int, float} & {hint, *get_args(hint)}]
    return [f"--{name.replace('_', '-')}" for name in numbers]


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e400", "-1", "1e300", "9" * 400])
@pytest.mark.parametrize("command", ["serve", "mcp"])
def test_numbers_that_make_no_sense(
    command: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused in a line, or they go with all other settings up to the models."""
    monkeypatch.delenv("VISREPLAY_API_KEY", raising=False)
    ready = "the settings were taken"

    def stop(*_: object, **__: object) -> None:
        raise ConfigError(ready)

    monkeypatch.setattr(PairChoice, "load", stop)
    monkeypatch.setattr(stdio, "serve_stdio", stop)
    options = number_options(command)
    assert len(options) > 15
    for option in options:
        result = CliRunner().invoke(app, [command, f"{option}={value}"])
        assert isinstance(result.exception, SystemExit), (option, result.exception)
        assert result.exit_code == 2, option
        if value in ("inf", "-inf", "nan", "1e400"):
            assert ready not in result.stderr, option


def test_replay_that_the_policy_cannot_run_is_told_at_the_start() -> None:
    result = CliRunner().invoke(app, ["serve", "--port", "0", "--replay-layers", "99"])
    assert result.exit_code == 2
    assert "replay_layers is 99, but the policy has" in result.stderr


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
