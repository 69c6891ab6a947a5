"""Runs on disks that fail, and of processes that are killed, at every place in turn.

Whatever happens, and however often, the finished run is the one that nothing disturbed.
"""

import errno
import io
import os
import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import typer
from disk_faults import Fault, fails, faulty_disk, killed
from fuzzing import LONG, fuzzing
from hypothesis import given
from hypothesis import strategies as st
from played import COUNT, ShadeAgent, ShadeTask
from records import SETTINGS, steady

from visreplay.tasks.commands.console import Console, errors_in_one_line
from visreplay.tasks.commands.eval import play_missing
from visreplay.tasks.evaluation.evaluate import evaluate
from visreplay.tasks.evaluation.runs import Run, SampleRecord

TASK = ShadeTask()
RUN = {**SETTINGS, "task": TASK.name, "rollouts": 2}
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)


def play(folder: Path, *, retry_errors: bool = False) -> None:
    """Do what `visreplay eval` does when it has read its options."""

    def episodes(ids: list[str]) -> Iterable[SampleRecord]:
        return evaluate(ShadeAgent(folder / "images"), TASK, ids, rollouts=2)  # type: ignore[arg-type]

    console = Console(file=io.StringIO())
    ids = TASK.sample_ids()
    play_missing(console, folder, RUN, ids, episodes, retry_errors=retry_errors)
    Run.open(folder)


def play_on(
    folder: Path, at: int | None, fault: Fault, *, retry_errors: bool = False
) -> tuple[str, list[str]]:
    """Play on a disk with a fault: the message that is printed, and the operations."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, faulty_disk(folder, at, fault) as operations:
        patch.setattr("sys.stderr", printed)
        try:
            with errors_in_one_line():
                play(folder, retry_errors=retry_errors)
        except typer.Exit as end:
            assert end.exit_code == 2
    return printed.getvalue(), operations


def play_killed(folder: Path, at: int, *, retry_errors: bool = False) -> bool:
    """Play in a child that is killed at an operation; tell whether it came so far."""
    child = os.fork()
    if child == 0:
        try:
            play_on(folder, at, killed, retry_errors=retry_errors)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def content(folder: Path) -> tuple[Any, dict[str, bytes], int]:
    """All that a finished run consists of: records, images, and the number of lines."""
    images = {path.name: path.read_bytes() for path in (folder / "images").iterdir()}
    lines = (folder / "run.jsonl").read_bytes().count(b"\n")
    return steady(Run.open(folder).records), images, lines


def assert_same(folder: Path, undisturbed: tuple[Any, Any, int], played_again: bool) -> None:
    """A sample with a damaged image is played again, and its last line is the one that counts."""
    assert not list(folder.rglob("*.tmp"))
    records, images, lines = content(folder)
    assert (records, images) == undisturbed[:2]
    assert played_again or lines == undisturbed[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    play(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(whole: Path) -> tuple[Any, dict[str, bytes], int]:
    records, images, lines = content(whole)
    assert len(records) == COUNT and lines == COUNT + 1 and len(images) == 2 * COUNT + 1
    return records, images, lines


def start(folder: Path, *, whole: Path, damaged: bool) -> Path:
    """Leave a folder to be made, or make one whose run has a damaged line and a damaged image."""
    if damaged:
        shutil.copytree(whole, folder)
        disturb(folder, "damage a line", 1)
        disturb(folder, "damage an image", 2)
    return folder


@pytest.mark.parametrize("damaged", [False, True])
def test_every_operation_fails_once_and_the_run_is_resumed(
    tmp_path: Path, whole: Path, undisturbed: tuple[Any, Any, int], damaged: bool
) -> None:
    folder = start(tmp_path / "count", whole=whole, damaged=damaged)
    _, operations = play_on(folder, None, killed, retry_errors=True)
    assert {"os.open", "os.write", "os.fsync", "os.replace", "fcntl.flock"} <= {*operations}
    for at in range(len(operations)):
        for number in ERRORS if LONG else ERRORS[at % 3 :][:1]:
            folder = start(tmp_path / f"{at}-{number}", whole=whole, damaged=damaged)
            message, done = play_on(folder, at, fails(number), retry_errors=True)
            assert len(done) > at, "the fault was not reached"
            if message:  # some faults harm nothing: an image that cannot be read is made again
                assert message.startswith("error: ") and message.count("\n") == 1
                assert str(folder) in message and os.strerror(number) in message, operations[at]
            assert not list(folder.rglob("*.tmp")), operations[at]
            play(folder, retry_errors=True)
            assert_same(folder, undisturbed, damaged)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_process_that_is_killed_at_every_operation_is_resumed(
    tmp_path: Path, whole: Path, undisturbed: tuple[Any, Any, int], damaged: bool
) -> None:
    at = 0
    while True:
        folder = start(tmp_path / str(at), whole=whole, damaged=damaged)
        if not play_killed(folder, at, retry_errors=True):
            break
        play(folder, retry_errors=True)
        assert_same(folder, undisturbed, damaged)
        at += 1
    assert at > 30


@st.composite
def disturbances(draw: st.DrawFn) -> list[tuple[str, int]]:
    kinds = st.sampled_from(["kill", "fail", "damage a line", "damage an image"])
    return draw(st.lists(st.tuples(kinds, st.integers(0, 120)), max_size=6))


def disturb(folder: Path, kind: str, at: int) -> None:
    """Kill a process that plays the run, let its disk fail, or damage what it has written."""
    lines, images = folder / "run.jsonl", sorted((folder / "images").glob("*.png"))
    if kind == "kill":
        play_killed(folder, at)
    elif kind == "fail":
        play_on(folder, at, fails(ERRORS[at % 3]))
    elif kind == "damage a line" and lines.exists():
        settings, *rest = lines.read_bytes().splitlines(keepends=True) or [b""]
        if rest:
            half = len(rest[at % len(rest)]) // 2
            rest[at % len(rest)] = b"\0" * half + rest[at % len(rest)][half:]
            lines.write_bytes(settings + b"".join(rest))
    elif kind == "damage an image" and images:
        image = images[at % len(images)]
        image.write_bytes(random.Random(at).choice([b"", image.read_bytes()[:30], b"\0" * 80]))


@fuzzing(12, 2000)
@given(events=disturbances())
def test_any_sequence_of_faults_ends_in_the_same_run(
    tmp_path_factory: pytest.TempPathFactory, undisturbed: tuple[Any, Any, int], events: Any
) -> None:
    folder = tmp_path_factory.mktemp("run")
    for kind, at in events:
        disturb(folder, kind, at)
    play(folder, retry_errors=True)
    assert_same(folder, undisturbed, "damage an image" in dict(events))
