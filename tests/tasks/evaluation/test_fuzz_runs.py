"""Whatever is in a run's file, every reader of runs prints an error of one line, or goes on."""

import copy
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from fuzzing import fuzzing
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from records import SETTINGS, record, run_of, store_of
from typer.testing import CliRunner

from visreplay.tasks.commands.cli import app
from visreplay.tasks.commands.console import Console, errors_in_one_line
from visreplay.tasks.commands.eval import play_missing

FUZZING = fuzzing(10, 3000)
RICH = {
    "base": "Qwen/Qwen2.5-VL-7B-Instruct",
    "replay": {"method": "state", "theta": [0.1, 0.2], "threshold": "absolute", "optimizer": "sgd"},
    "sampling": {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 64, "top_k": 0},
    "limits": {"max_steps": 11},
    "recipe": {
        "pixels": {"image": {"min": 1, "max": None}},
        "frames": {"count": 16, "choice": "ends"},
        "expects": ["system"],
    },
}
"""Settings that a run's table compares with those of a figure."""


def step(reference: str) -> dict[str, Any]:
    """A step with everything that a step may have."""
    return {
        "index": 0,
        "text": "Look.",
        "thought": "Look.",
        "tool_calls": [
            {
                "name": "crop",
                "arguments": {"bbox": [1, 2, 3, 4]},
                "observation": {
                    "text": "",
                    "images": [reference],
                    "times": [0.5],
                    "box": [0, 0, 2, 2],
                    "source": reference,
                },
                "error": None,
                "seconds": 0.1,
            }
        ],
        "error": None,
        "replay": {
            "method": "state",
            "new_visual_tokens": 4,
            "kl_before": 0.5,
            "kl_after": None,
            "optimisation_steps": 0,
            "seconds": 0.1,
            "blocks": [{"kind": "image", "grid": [1, 2, 2], "max_entropy": 1.0, "map": reference}],
        },
        "seconds": 0.5,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two samples and an error, with all that records may have."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    reference = store_of(folder).put(Image.new("RGB", (4, 4), "red"))
    messages = (
        {"role": "user", "content": [{"type": "image", "image": reference}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Look."}]},
        {"role": "user", "content": [{"type": "video", "frames": [reference], "times": [0.5]}]},
        {"role": "assistant", "content": [{"type": "text", "text": "B."}]},
    )
    samples = [
        record("1", True, category="2steps_1", group="2steps-7", messages=messages),
        record("2", False, category="2steps_multi", group="2steps-7", messages=messages),
        record("3", error="OSError: away"),
    ]
    for sample in samples[:2]:
        trajectory = sample["rollouts"][0]["trajectory"]
        trajectory |= {"steps": [step(reference)], "images": [reference]}
    run_of(folder, *samples, **RICH)
    return folder


ODD = st.sampled_from(
    [
        *(
            None,
            True,
            "yes",
            "",
            "\ud800",
            "\x1b[2J",
            "../../etc/passwd",
            -1,
            0,
            2,
            10**30,
            10**400,
        ),
        *(0.5, float("nan"), float("inf"), [], [1], ["a"], [[]], {}, {"a": 1}, [{}], {"type": 7}),
        *({"type": "video", "frames": [], "times": [1]}, "we-math", "visual-probe-easy", 10**400),
    ]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Go through the paths to all parts of a JSON value."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(child, (*path, key))


@st.composite
def edited(draw: st.DrawFn, line: bytes) -> bytes:
    """A line with a few of its JSON values replaced, removed or added."""
    value = json.loads(line)
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(list(places(value)))) if value else ["a"]
        parent = value
        for key in parents:
            parent = parent[key]
        match draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"])):
            case "replace":
                parent[last] = copy.deepcopy(draw(ODD))
            case "remove":
                del parent[last]
            case "add" if isinstance(parent, dict):
                parent[draw(st.sampled_from(["x", "\ud800", "error"]))] = copy.deepcopy(draw(ODD))
            case "add":
                parent.append(copy.deepcopy(draw(ODD)))
    return json.dumps(value).encode() + b"\n"


@st.composite
def damaged(draw: st.DrawFn, line: bytes) -> bytes:
    """A line with some of its bytes replaced, cut out or put in."""
    data = bytearray(line)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        new = draw(st.sampled_from([b"", b"\0", b"\n", b'"', b"\xff", b"[" * 5000, b"9" * 5000]))
        data[at : at + draw(st.sampled_from([0, 1, 7, 100]))] = new
    return bytes(data)


@st.composite
def journals(draw: st.DrawFn, whole: bytes) -> bytes:
    """The file of a run, of which one or two lines are edited, damaged, doubled or taken away."""
    originals = whole.splitlines(keepends=True)
    lines = list(originals)
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["edit", "edit", "edit", "damage", "double", "remove"])):
            case "edit" if lines[at] in originals:
                lines[at] = draw(edited(lines[at]))
            case "damage":
                lines[at] = draw(damaged(lines[at]))
            case "double":
                lines.append(lines[at])
            case "remove" if len(lines) > 1:
                del lines[at]
    return b"".join(lines)


def visreplay(*arguments: str | Path) -> None:
    """Run a command: its errors are one line, whatever happened."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 2), result.output
    assert (result.exit_code == 2) == result.stderr.startswith("error: "), result.output
    assert result.stderr.count("\n") == (result.exit_code == 2), result.stderr
    assert "\x1b" not in result.output


def resume(folder: Path) -> None:
    """Do what `visreplay eval` does with a run that is finished, as far as anybody knows."""
    given_settings = {**SETTINGS, **RICH}
    console = Console(file=io.StringIO())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", io.StringIO())
        try:
            with errors_in_one_line():
                again = lambda ids: [record(each, error="Again") for each in ids]  # noqa: E731
                play_missing(console, folder, given_settings, ["1", "2", "3"], again)  # type: ignore[arg-type]
        except typer.Exit as end:
            assert end.exit_code == 2
            return
    visreplay("table", folder, "--allow-errors")


@FUZZING
@given(data=st.data())
def test_no_file_of_a_run_gives_a_traceback(
    data: st.DataObject, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = (folder / "run.jsonl").read_bytes()
    place = tmp_path_factory.mktemp("fuzz")
    other = shutil.copytree(folder, place / "other")
    (other / "run.jsonl").write_bytes(data.draw(journals(whole)))
    visreplay("table", other, "--allow-errors")
    visreplay("table", other, folder, "--allow-errors", "--markdown")
    visreplay("compare", other, folder)
    visreplay("view", folder, other, "--out", place / "view.html", "--no-open")
    visreplay("export", other, "--to", "vlmevalkit", "--out", place / "a.tsv")
    visreplay("export", other, "--to", "inspect", "--out", place / "a.json")
    resume(other)
    shutil.rmtree(place)
