from pathlib import Path

import pytest
from records import record, run_of
from typer.testing import CliRunner

from visreplay.tasks.commands.cli import app
from visreplay.tasks.evaluation.comparison import compare


def test_two_runs_are_paired(tmp_path: Path) -> None:
    plain = run_of(
        tmp_path / "plain",
        *(record(f"same-{n}", n % 2 == 0) for n in range(20)),
        record("won", False), record("lost", True), record("only here", True),
        record("away", error="OSError: away"), record("gone", True),
    )  # fmt: skip
    replay = run_of(
        tmp_path / "replay",
        record("gone", error="OSError: gone"), record("lost", False), record("won", True),
        *(record(f"same-{n}", n % 2 == 0) for n in reversed(range(20))),
        record("won too", True), record("away", True),
        replay={"method": "token"}, versions={"visreplay": "0.2.0"},
    )  # fmt: skip
    result = compare(plain, replay)
    assert len(result.paired) == 22
    assert (result.gained, result.lost, result.p) == (["won"], ["lost"], 1.0)
    assert result.alone == (1, 1)
    assert result.errors == (1, 1)
    before, after, difference = result.metrics["accuracy"]
    assert before == after == 0.5
    assert difference.value == 0
    assert -0.2 < difference.low < 0 < difference.high < 0.2
    assert result.settings == [
        ("replay.method", "none", "token"),
        ("versions.visreplay", "0.1.0", "0.2.0"),
    ]
    result = CliRunner().invoke(app, ["compare", str(plain.folder), str(replay.folder)])
    assert result.exit_code == 0
    for message in (
        "right in replay only   1: won",
        "right in plain only   1: lost",
        "McNemar's exact p, two-sided   1",
        "left out   1 sample in plain only, 1 error in plain",
        "errors     1       1",
        "replay.method   'none' -> 'token'",
    ):
        assert message in result.stdout


def test_a_difference_on_every_sample_is_not_certain(tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", *(record(str(n), False) for n in range(6)))
    other = run_of(tmp_path / "other", *(record(str(n), True) for n in range(6)))
    result = compare(one, other)
    difference = result.metrics["accuracy"][2]
    # Of 6 samples, a kind that none of them is may have a share of 1 - 0.025 ** (1 / 6).
    assert difference.low == pytest.approx(1 - 2 * (1 - 0.025 ** (1 / 6)))
    assert (difference.value, difference.high) == (1, 1)
    assert result.p == pytest.approx(2 / 2**6)


def test_several_rollouts_flip_by_majority(tmp_path: Path) -> None:
    one = run_of(tmp_path / "1", record("a", True, False), record("b", True, True), rollouts=2)
    other = run_of(tmp_path / "2", record("a", True, True), record("b", False, True), rollouts=2)
    result = compare(one, other)
    assert (result.gained, result.lost, result.p) == (["a"], ["b"], None)
    assert list(result.metrics) == ["avg@k = pass@1", "pass@2"]
    assert result.metrics["avg@k = pass@1"][:2] == (0.75, 0.75)
    assert result.metrics["pass@2"][:2] == (1, 1)


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", record("a", True))
    for name, message, records, settings in (
        ("task", "of hr-bench-4k and task of vstar", [record("a", True)], {"task": "vstar"}),
        ("none", "no sample in common", [record("b", True), record("a", error="x")], {}),
        ("file", "'a' has another question", [record("a", True, question="What?")], {}),
    ):
        other = run_of(tmp_path / name, *records, **settings)
        with pytest.raises(ValueError, match=message):
            compare(one, other)
