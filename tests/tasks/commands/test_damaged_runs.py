"""One damaged line or image costs its sample, at every command that reads runs."""

from pathlib import Path
from typing import Any

import pytest
from inspect_ai.log import read_eval_log
from inspect_ai.model import ContentImage, ContentText
from PIL import Image
from records import record, run_of, store_of
from typer.testing import CliRunner

from visreplay.tasks.commands.cli import app
from visreplay.tools import ImageStore


def visreplay(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    return result.exit_code, " ".join(result.output.split())


def images(*references: str) -> tuple[dict[str, Any], ...]:
    content = [{"type": "image", "image": reference} for reference in references]
    return ({"role": "user", "content": content},)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of four samples, of which the second has two images."""
    folder = tmp_path / "run"
    store = store_of(folder)
    one, two = (store.put(Image.new("RGB", (8, 6), colour)) for colour in ("red", "blue"))
    run_of(
        folder,
        *(record("1", True, messages=images(one)), record("2", False, messages=images(one, two))),
        *(record("3", True), record("4", True)),
    )
    return folder


def commands(folder: Path) -> list[list[str | Path]]:
    return [
        ["table", folder],
        ["compare", folder, folder.parent / "other"],
        ["view", folder, "--no-open"],
        ["export", folder, "--to", "vlmevalkit", "--out", folder.parent / "a.tsv"],
        ["export", folder, "--to", "inspect", "--out", folder.parent / "a.json"],
    ]


@pytest.mark.parametrize("damage", [b"garbage", b"", b"\0\0", b'{"sample_id": "3", "rollouts": 7}'])
def test_a_damaged_line_is_told_and_left_out(folder: Path, damage: bytes) -> None:
    path = folder / "run.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:3], damage, *lines[4:], b""]))
    run_of(folder.parent / "other", *(record(str(n), True) for n in range(1, 5)))
    before = path.read_bytes()
    for command in commands(folder):
        code, out = visreplay(*command)
        assert code == 0, out
        assert "run: line 4 of run.jsonl is damaged and left out" in out
        assert "plays its missing samples again" in out
    assert path.read_bytes() == before
    assert "| samples | 3 |" in visreplay("table", folder, "--markdown")[1]


def test_a_damaged_image_is_told_and_left_out(folder: Path) -> None:
    run_of(folder.parent / "other", *(record(str(n), True) for n in range(1, 5)))
    blue = ImageStore(folder.parent / "x").put(Image.new("RGB", (8, 6), "blue"))
    path = folder / "images" / f"{blue}.png"
    path.write_bytes(path.read_bytes()[:30])
    for command in commands(folder):
        code, out = visreplay(*command)
        assert code == 0, out
        assert "run: images of 1 sample are missing or damaged (2)" in out
        assert "--retry-errors" in out
        assert ("1 images are missing or damaged in the runs' folders" in out) == (
            command[0] == "view"
        )
    (_, second, *_) = read_eval_log(str(folder.parent / "a.json"), resolve_attachments=True).samples  # type: ignore[misc]
    whole, lost = second.messages[0].content
    assert isinstance(whole, ContentImage) and isinstance(lost, ContentText)
    assert lost.text == f"[the image {blue} is missing or damaged]"


def test_exports_of_texts_that_utf_8_does_not_have(tmp_path: Path) -> None:
    message = {"role": "assistant", "content": [{"type": "text", "text": "\udc00"}]}
    odd = [
        record(f"x{half}", True, question=half, answer=half, messages=(message,))
        for half in ("\ud800", "\ud801")
    ]
    run_of(tmp_path / "run", *odd, policy="\ud800")
    for to, name in (("vlmevalkit", "a.tsv"), ("inspect", "a.json"), ("inspect", "a.eval")):
        code, out = visreplay("export", tmp_path / "run", "--to", to, "--out", tmp_path / name)
        assert code == 0, out
    assert r"x\ud801" in (tmp_path / "a.tsv").read_text("utf-8")
    log = read_eval_log(str(tmp_path / "a.eval"))
    assert [sample.id for sample in log.samples or ()] == [r"x\ud800", r"x\ud801"]


@pytest.mark.parametrize("command", ["view", "vlmevalkit", "inspect"])
def test_what_cannot_be_written_leaves_no_part_of_itself(folder: Path, command: str) -> None:
    suffix = {"view": ".html", "vlmevalkit": ".tsv", "inspect": ".json"}[command]
    out = folder.parent / "file" / f"out{suffix}"
    out.parent.touch()
    arguments = ["view"] if command == "view" else ["export", "--to", command]
    code, text = visreplay(*arguments, folder, "--out", out)
    assert code == 2 and text.startswith("error: ") and str(out.parent) in text
    assert not list(folder.parent.rglob("*.tmp"))
