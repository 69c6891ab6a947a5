"""Mistakes that a user can mend: one line on standard error and exit code 2, at every command."""

import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from PIL import Image
from shared import write_clip
from tampered import CODE, copied, own_bytes
from typer.testing import CliRunner

from visreplay.replay_core import EMBEDDED
from visreplay.tasks.commands.cli import app

TASK = "visual-search-easy"


def one_line(*arguments: str) -> str:
    """The only line of standard error of a command that fails with code 2.

    Whatever it asks on standard input is answered by "y".
    """
    result = CliRunner().invoke(app, list(arguments), input="y\n" * 99)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    # A note on the embedded pair is on standard output, or before the error.
    *notes, line = lines
    assert all("embedded pair" in note or "two generated tasks" in note for note in notes), lines
    assert line.startswith("error: ")
    return line


@pytest.fixture
def scene(tmp_path: Path) -> str:
    path = tmp_path / "scene.png"
    Image.new("RGB", (64, 64)).save(path)
    return str(path)


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every attempt to use a network, which fails."""
    attempts: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> NoReturn:
        attempts.append(arguments)
        raise socket.gaierror("there is no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return attempts


@pytest.mark.parametrize("policy", ["./nowhere", "/nowhere/at/all", "~/nowhere"])
@pytest.mark.parametrize("command", ["run", "eval"])
def test_a_local_policy_that_is_not_there_is_refused_without_the_network(
    command: str, policy: str, scene: str, tmp_path: Path, connections: list[Any]
) -> None:
    arguments = {"run": (scene, "?"), "eval": (TASK, "--out", str(tmp_path / "run"))}[command]
    line = one_line(command, *arguments, "--policy", policy, "--replay", "none")
    assert policy in line
    assert connections == []


@pytest.mark.parametrize("command", ["run", "eval"])
def test_a_hub_that_cannot_be_reached_is_one_short_line(
    command: str, scene: str, tmp_path: Path, connections: list[Any]
) -> None:
    arguments = {"run": (scene, "?"), "eval": (TASK, "--out", str(tmp_path / "run"))}[command]
    line = one_line(command, *arguments, "--policy", "nobody/no-such-model", "--replay", "none")
    assert "nobody/no-such-model" in line and len(line) < 500
    assert connections


def test_media_data_and_folders(scene: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("this is a file, and no folder")
    assert "nowhere.mp4" in one_line("run", "nowhere.mp4", "?")
    assert "nowhere.png" in one_line("run", "nowhere.png", "?")
    assert str(file) in one_line("run", scene, "?", "--save", str(file))
    assert str(file) in one_line("eval", TASK, "--limit", "1", "--out", str(file))
    assert "nowhere.tsv" in one_line("eval", "hr-bench-4k", "--data", "nowhere.tsv")
    assert str(file) in one_line("table", str(file))
    assert "nowhere" in one_line("compare", "nowhere", "nowhere-else")
    assert "nowhere" in one_line("view", "nowhere")
    assert "nowhere" in one_line("export", "nowhere", "--to", "inspect", "--out", "x.eval")
    assert "max_steps is 0" in one_line("run", scene, "?", "--max-steps", "0")


def test_too_little_memory_is_told_with_the_ways_out(scene: str) -> None:
    def too_much(*_: Any) -> None:
        torch.empty(2**60)

    hook = torch.nn.modules.module.register_module_forward_pre_hook(too_much)
    try:
        line = one_line("run", scene, "?", "--device", "cpu")
    finally:
        hook.remove()
    assert "memory ran out" in line and "--recompute on" in line


def test_attention_that_transformers_does_not_know_is_refused(scene: str) -> None:
    assert "nothing_else" in one_line("run", scene, "?", "--attention", "nothing_else")


@pytest.mark.parametrize("device", ["banana", "cuda:7", "cpu:x"])
@pytest.mark.parametrize("option", ["--device", "--base-device"])
def test_a_device_that_is_not_there(scene: str, option: str, device: str) -> None:
    assert f"device is '{device}'" in one_line("run", scene, "?", option, device)


def test_a_question_that_is_not_utf8(scene: str) -> None:
    line = one_line("run", scene, "what is \udcff here?")
    assert "'what is \\udcff here?' is not UTF-8 at character 9" in line


def test_limits_of_huge_numbers_or_depth(scene: str, tmp_path: Path) -> None:
    theta = tmp_path / "theta.json"
    for content in ('{"theta": [1' + "0" * 400 + "]}", '{"theta": ' * 99_999):
        theta.write_text(content)
        assert str(theta) in one_line("run", scene, "?", "--replay", "state", "--theta", str(theta))


def test_an_unfinished_download(scene: str, tmp_path: Path) -> None:
    folder = copied(EMBEDDED / "policy", tmp_path / "copy")
    whole = (folder / "model.safetensors").read_bytes()
    own_bytes(folder / "model.safetensors", whole[:-4096])
    line = one_line("run", scene, "?", "--policy", str(folder), "--replay", "none")
    assert str(folder / "model.safetensors") in line
    assert f"{len(whole) - 4096:,} bytes" in line and "download it again" in line


def test_code_of_a_checkpoint_is_not_run_whatever_is_on_standard_input(
    scene: str, tmp_path: Path
) -> None:
    own = {"processor_class": "Evil", "auto_map": {"AutoProcessor": "evil.Evil"}}
    folder = copied(EMBEDDED / "policy", tmp_path / "copy", processor_config=own)
    (folder / "evil.py").write_text(CODE, "utf-8")
    line = one_line("run", scene, "?", "--policy", str(folder), "--replay", "none")
    assert "AutoProcessor is 'evil.Evil' in processor_config.json" in line
    assert "--processor" in line and not (folder / "was-run").exists()


def test_media_are_told_apart_by_content(scene: str, tmp_path: Path) -> None:
    """A name of the other kind changes nothing: the embedded pair's protocol takes both."""
    picture = Path(scene).rename(tmp_path / "scene.mp4")
    clip = write_clip(tmp_path / "clip.mp4", [0, 80, 160, 240] * 3).rename(tmp_path / "clip.png")
    for media in (picture, clip):
        options = ("--max-steps", "1", "--max-new-tokens", "2", "--device", "cpu")
        result = CliRunner().invoke(app, ["run", str(media), "?", *options])
        assert result.exit_code == 0, result.output
    text = tmp_path / "text.png"
    text.write_text("this is a text")
    assert "neither an image nor a video" in one_line("run", str(text), "?")
