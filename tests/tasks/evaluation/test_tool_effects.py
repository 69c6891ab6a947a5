from pathlib import Path
from typing import Any

import pytest
from records import record, run_of

from visreplay.agent.protocols.turns import NOTHING_TO_CALL
from visreplay.tasks.evaluation.runs import Run
from visreplay.tasks.evaluation.tool_effects import effect_tables, tool_effects

CALL = {"name": "zoom", "arguments": {}, "observation": None, "error": "no box", "seconds": 0.1}


def played(sample: str, right: bool, calls: int = 0, *, error: str | None = None) -> dict[str, Any]:
    """The record of an episode with some calls, or with an error of its turn."""
    made = record(sample, right)
    (step,) = made["rollouts"][0]["trajectory"]["steps"]
    step["tool_calls"] = [CALL] * calls
    step["error"] = error
    return made


def row(folder: Path, method: str, without: str, with_tools: str, calls: str) -> tuple[Run, Run]:
    """Two runs by a letter a sample, "x" for right; and by the calls of each with tools."""
    runs = []
    for name, answers in (("without", without), ("with", with_tools)):
        records = [
            played(str(n), answer == "x", int(calls[n]) if name == "with" else 0)
            for n, answer in enumerate(answers)
        ]
        runs.append(run_of(folder / f"{method}-{name}", *records, replay={"method": method}))
    return runs[0], runs[1]


def test_gain_and_harm_are_told_apart_by_calls(tmp_path: Path) -> None:
    effects = tool_effects([row(tmp_path, "none", "xx--x---", "xxxx----", "01210001")])
    (plain,) = effects.rows
    assert plain.transitions == {
        "right both ways": ["0", "1"],
        "gain": ["2", "3"],
        "harm": ["4"],
        "wrong both ways": ["5", "6", "7"],
    }
    assert plain.called == ["1", "2", "3", "7"]
    assert (plain.without.value, plain.with_tools.value) == (3 / 8, 4 / 8)
    # With one rollout a sample, the difference is gain less harm.
    assert plain.difference.value == plain.gain.value - plain.harm.value == 1 / 8
    assert plain.difference.low < 0 < plain.difference.high
    assert plain.calls == 5 / 8
    assert effects.replay is effects.interaction is None
    assert not effects.warnings


def test_the_interaction_is_the_difference_of_differences(tmp_path: Path) -> None:
    plain = row(tmp_path, "none", "xx------", "xxx-----", "11111111")
    replay = row(tmp_path, "state", "x-------", "xxxxxx--", "11111111")
    effects = tool_effects([plain, replay])
    assert [each.name for each in effects.rows] == ["no replay", "state replay"]
    assert effects.replay is not None and effects.interaction is not None
    assert [each.value for each in effects.replay] == [-1 / 8, 3 / 8]
    assert effects.interaction.value == 4 / 8
    assert -2 <= effects.interaction.low < 4 / 8 < effects.interaction.high <= 2
    table, transitions = effect_tables(effects)
    assert [cells[0] for cells in table.rows] == [
        "no replay",
        "state replay",
        "state replay - no replay",
    ]
    assert table.rows[2][3] == effects.interaction.percent
    assert transitions.rows[1][1:] == ["1 (1 with a call)", "5 (5 with a call)"]


def test_samples_that_one_run_has_not_scored_are_left_out_of_all(tmp_path: Path) -> None:
    without, with_tools = row(tmp_path, "none", "x-x-", "xx--", "1111")
    failed = run_of(
        tmp_path / "failed", *(played(str(n), True, 1) for n in range(3)),
        record("3", error="OSError: away"), replay={"method": "none"},
    )  # fmt: skip
    effects = tool_effects([(without, failed)])
    assert (effects.samples, effects.left_out) == (["0", "1", "2"], 1)
    assert "Left out: 1 sample not scored in every run." in effect_tables(effects)[0].notes
    other = run_of(tmp_path / "other", *(played(str(n), True) for n in range(3)), task="vstar")
    with pytest.raises(ValueError, match="is of hr-bench-4k and other of vstar"):
        tool_effects([(without, other)])
    assert with_tools.has_tools


def test_a_policy_that_never_calls_or_calls_for_nothing_is_told(tmp_path: Path) -> None:
    tries = run_of(
        tmp_path / "tries", played("0", True), played("1", False, error=NOTHING_TO_CALL),
        recipe={"tools": False},
    )  # fmt: skip
    silent = run_of(tmp_path / "silent", played("0", True), played("1", True))
    effects = tool_effects([(tries, silent)])
    assert not tries.has_tools and tries.system == "DeepEyes-7B, without tools"
    assert effects.rows[0].calls == 0 and effects.rows[0].calls_for_nothing == 0.5
    never, nothing = effects.warnings
    assert never.startswith("no replay: the policy never called a tool")
    assert nothing.startswith("no replay: without tools, the policy tried to call one all the same")
    assert effects.to_json()["warnings"] == effects.warnings


def test_of_several_rollouts_most_decide(tmp_path: Path) -> None:
    mostly, seldom = (True, True, False), (False, True, False)
    one = run_of(tmp_path / "one", record("0", *mostly), record("1", *seldom), rollouts=3)
    always = record("1", True, True, True)
    other = run_of(tmp_path / "other", record("0", *seldom), always, rollouts=3)
    (change,) = tool_effects([(one, other)]).rows
    assert (change.transitions["harm"], change.transitions["gain"]) == (["0"], ["1"])
    assert (change.without.value, change.with_tools.value) == (0.5, pytest.approx(4 / 6))
