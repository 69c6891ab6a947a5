"""`visreplay eval --tools`, on the embedded pair."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from visreplay.agent.protocols.turns import NOTHING_TO_CALL
from visreplay.tasks.commands.cli import app
from visreplay.tasks.evaluation.runs import Run

CELLS = ("plain-without-tools", "plain-with-tools", "state-without-tools", "state-with-tools")


def evaluation(out: Path, *more: str, method: str = "state") -> tuple[int, str, str]:
    arguments = ["eval", "visual-search-easy", "--out", str(out), "--replay", method, *more]
    result = CliRunner().invoke(app, [*arguments, "--device", "cpu"], env={"COLUMNS": "150"})
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def test_the_same_samples_are_played_without_and_with_tools_and_replay(tmp_path: Path) -> None:
    out = tmp_path / "crossed"
    code, printed, err = evaluation(out, "--tools", "none,all", "--limit", "2")
    assert code == 0, err
    runs = [Run.open(out / name) for name in CELLS]
    assert [run.has_tools for run in runs] == [False, True, False, True]
    assert [run.settings["replay"]["method"] for run in runs] == ["none", "none", "state", "state"]
    assert [run.system for run in runs][2:] == [
        "embedded policy + state replay, without tools",
        "embedded policy + state replay",
    ]
    for run in runs:
        assert list(run.records) == list(runs[0].records)
        steps = [
            step
            for each in run.records.values()
            for step in each["rollouts"][0]["trajectory"]["steps"]
        ]
        assert any(step["tool_calls"] for step in steps) == run.has_tools
        assert any(step["error"] == NOTHING_TO_CALL for step in steps) != run.has_tools
        assert all(reference.is_file() for reference in (run.folder / "images").iterdir())
    effects = json.loads((out / "tools.json").read_text("utf-8"))
    assert effects["samples"] == list(runs[0].records)
    for row, (without, with_tools) in zip(effects["rows"], (runs[:2], runs[2:]), strict=True):
        rights = [
            {key for key, each in run.records.items() if each["rollouts"][0]["right"]}
            for run in (without, with_tools)
        ]
        assert set(row["transitions"]["gain"]) == rights[1] - rights[0]
        assert set(row["transitions"]["harm"]) == rights[0] - rights[1]
        assert row["calls"] > 0
    for text in ("state replay - no replay", "gain: right with tools only", "calls an episode"):
        assert text in printed
    # The pair calls the tools that it knows, whether they are offered or not.
    assert "no replay: without tools, the policy tried to call one all the same" in printed

    before = {name: (out / name / "run.jsonl").read_bytes() for name in CELLS}
    (out / "plain-with-tools" / "run.jsonl").write_bytes(
        b"".join(before["plain-with-tools"].splitlines(keepends=True)[:-1])
    )
    code, _, err = evaluation(out, "--tools", "none,all", "--limit", "2")
    assert code == 0, err
    for name in CELLS:
        assert len(Run.open(out / name).records) == 2
        if name != "plain-with-tools":
            assert (out / name / "run.jsonl").read_bytes() == before[name]
    assert json.loads((out / "tools.json").read_text("utf-8"))["rows"] == effects["rows"]


def test_the_plain_policy_alone_has_one_row(tmp_path: Path) -> None:
    code, printed, err = evaluation(
        tmp_path, "--tools", "none,all", "--limit", "1", "--max-new-tokens", "8", method="none"
    )
    assert code == 0, err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*CELLS[:2], "tools.json"])
    assert "no replay: the policy never called a tool" in printed  # 8 tokens end in a thought
    assert "no replay - " not in printed


def test_a_run_without_tools_is_no_run_with_them(tmp_path: Path) -> None:
    given = ("--limit", "1", "--max-new-tokens", "8")
    code, _, err = evaluation(tmp_path, "--tools", "none", *given, method="none")
    assert code == 0, err
    run = Run.open(tmp_path)
    assert not run.has_tools and run.settings["recipe"]["tools"] is False
    code, _, err = evaluation(tmp_path, *given, method="none")
    assert code == 2 and "recipe.tools was False and is True" in err


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (("--protocol", "boxed"), "the recipe boxed has no section tool_free"),
        (
            ("--user-suffix", "SUFFIX"),
            "--system-prompt and --user-suffix are texts for a policy wi",
        ),
    ],
)
def test_what_cannot_be_without_tools_is_refused(
    tmp_path: Path, given: tuple[str, str], error: str
) -> None:
    suffix = tmp_path / "suffix.txt"
    suffix.write_text("Call a tool.", "utf-8")
    options = [str(suffix) if each == "SUFFIX" else each for each in given]
    code, _, err = evaluation(tmp_path / "run", "--tools", "none", *options)
    assert code == 2 and error in err
    assert not (tmp_path / "run").exists()
