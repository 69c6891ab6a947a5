import re
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any, cast

import pytest
from records import SETTINGS, record, run_of
from rich.console import Console
from typer.testing import CliRunner

from visreplay.replay_core.config import Method, ReplayConfig
from visreplay.tasks.commands.cli import app
from visreplay.tasks.evaluation.comparison import compare
from visreplay.tasks.evaluation.runs import Run, SampleRecord
from visreplay.tasks.evaluation.summary import summarise
from visreplay.tasks.evaluation.tables import TextTable, details, layout, paper_tables


def hr_bench(folder: Path, right: int, *, errors: int = 0, **settings: Any) -> Run:
    """400 questions across instances, of which so many are right, and one about a single one."""
    records = [
        *(record(f"cross-{n}", n < right, category="FCP") for n in range(400 - errors)),
        *(record(f"away-{n}", error="OSError: away", category="FCP") for n in range(errors)),
        record("single-0", True, category="FSP"),
    ]
    by_id = {each["sample_id"]: each for each in records}
    sampling = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 8192}
    return Run(
        folder, {**SETTINGS, "sampling": sampling, **settings}, cast(dict[str, SampleRecord], by_id)
    )


def test_a_figure_of_the_paper_stands_beside_the_run_that_it_is_of(tmp_path: Path) -> None:
    other = run_of(tmp_path / "v", record("1", True), task="vstar", data="vstar.jsonl")
    state = {**asdict(ReplayConfig.paper(Method.STATE)), "alignment": "reference"}
    runs = [hr_bench(tmp_path / "a", 200), hr_bench(tmp_path / "b", 240, replay=state), other]
    grid = layout(runs)
    assert grid.headings == ["system", "HR-Bench 4K FCP", "vstar"]
    (note,) = grid.notes
    assert note.startswith(
        "[1] HR-Bench 4K FCP: the released script takes the first capital letter"
    )
    plain, replay = grid.rows
    assert plain[0] == "DeepEyes-7B"
    assert plain[1] == "50.0 (45.1 to 54.9); paper 53.7 [1]"
    assert plain[2].startswith("100.0")
    assert replay[0] == "DeepEyes-7B + state replay"
    assert replay[1] == "60.0 (55.1 to 64.7); paper 56.3 [1]"
    assert replay[2] == "-"


def test_another_run_has_a_note_in_the_figure_s_place(tmp_path: Path) -> None:
    token = {"replay": asdict(ReplayConfig()), "rollouts": 1}
    runs = [hr_bench(tmp_path / name, 200, **token) for name in "ab"]
    grid = layout([*runs, hr_bench(tmp_path / "c", 200, errors=3)])
    assert [row[1] for row in grid.rows] == [
        "50.0 (45.1 to 54.9) [1]", "50.0 (45.1 to 54.9) [1]", "50.4 (45.5 to 55.3), 3 errors [2]"
    ]  # fmt: skip
    assert grid.notes == [
        "[1] not the run of the paper's 56.3: replay state (here token)",
        "[2] not the run of the paper's 53.7: errors 0 (here 3)",
    ]


def test_a_sample_that_could_not_be_loaded_counts_in_every_column(tmp_path: Path) -> None:
    run = hr_bench(tmp_path, 200)
    run.records["lost"] = cast(
        SampleRecord, {**record("lost", error="OSError: lost"), "question": None}
    )
    assert layout([run]).rows[0][1].startswith("50.0 (45.1 to 54.9), 1 error")


def test_two_runs_of_one_system_are_two_rows(tmp_path: Path) -> None:
    runs = [hr_bench(tmp_path / name, 5, replay={"method": "token"}) for name in ("a", "b")]
    systems = [row[0] for row in layout(runs).rows]
    assert systems == ["DeepEyes-7B + token replay", "DeepEyes-7B + token replay (b)"]


def test_cycles_of_a_question_widen_the_interval_and_have_no_mcnemar(tmp_path: Path) -> None:
    def cycles(folder: Path, *, grouped: bool) -> Run:
        return run_of(
            folder,
            *(
                record(f"{n}-{cycle}", n % 2 == 0, group=str(n) if grouped else None)
                for n in range(20)
                for cycle in range(4)
            ),
        )

    grouped, single = (
        summarise(cycles(tmp_path / str(is_grouped), grouped=is_grouped).records.values()).accuracy
        for is_grouped in (True, False)
    )
    assert grouped.value == single.value == 0.5
    assert grouped.high - grouped.low > 1.5 * (single.high - single.low)
    one, other = (cycles(tmp_path / name, grouped=True) for name in "ab")
    assert compare(one, other).p is None


def test_all_metrics_of_a_run_and_of_its_categories(tmp_path: Path) -> None:
    run = run_of(
        tmp_path / "k",
        record("1", (True, True), (True, False), category="algebra"),
        record("2", (False, None), (True, True), category="geometry"),
        record("3", (False, None), (False, None), category="geometry"),
        record("4", error="OSError: away", category="graphs"),
        rollouts=2, cot_checker="judge:check",
    )  # fmt: skip
    everything, categories = details(run)
    cells = {name: value.split(" ")[0] for name, value in everything.rows}
    assert cells == {
        "samples": "3", "errors": "1", "avg@2": "50.0", "pass@1": "50.0", "pass@2": "66.7",
        "CoT-pass@1": "33.3", "CoT-pass@2": "66.7", "turns an episode": "1.00",
        "seconds a sample": "0.50",
    }  # fmt: skip
    assert categories.headings == (
        "category", "samples", "errors", "avg@2", "pass@2", "CoT-pass@2"
    )  # fmt: skip
    assert [[cell.split(" ")[0] for cell in row] for row in categories.rows] == [
        ["algebra", "1", "0", "100.0", "100.0", "100.0"],
        ["geometry", "2", "0", "25.0", "50.0", "50.0"],
        ["graphs", "0", "1", "-", "-", "-"],
    ]


def test_markdown_and_a_run_of_errors(tmp_path: Path) -> None:
    run = run_of(tmp_path / "x", record("1", error="OSError: a|way"), record("2", error="x"))
    arguments = ["table", str(run.folder), "--markdown"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "2 of 2 samples of x ended in an error" in " ".join(result.stderr.split())
    result = CliRunner().invoke(app, [*arguments, "--allow-errors"])
    assert result.exit_code == 0
    assert "| DeepEyes-7B | 2 errors |" in result.stdout
    assert "| errors | 2 |" in result.stdout
    assert "accuracy |" not in result.stdout
    result = CliRunner().invoke(app, ["table", str(tmp_path / "nowhere")])
    assert result.exit_code == 2
    assert "not the folder of a run" in " ".join(result.stderr.split())


def test_notes_stand_below_the_table(tmp_path: Path) -> None:
    sampling = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 8192}
    run = run_of(tmp_path / "x", record("1", True, category="FCP"), sampling=sampling)
    for more in ([], ["--markdown"]):
        result = CliRunner().invoke(app, ["table", str(run.folder), *more])
        assert "[1] not the run of the paper's 53.7: samples 400 (here 1)\n" in result.stdout


def test_a_cell_of_several_rollouts_says_so(tmp_path: Path) -> None:
    run = run_of(tmp_path, record("1", True, False), task="vstar", data=None, rollouts=2)
    assert layout([run]).rows[0][1].endswith("), avg@2")


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_table_of_the_paper_breaks_a_word(width: int) -> None:
    console = Console(width=width, file=StringIO())
    for grid in paper_tables():
        grid.show(console)
    lines = cast(StringIO, console.file).getvalue().splitlines()
    cells = [cell for line in lines for cell in re.split(r"\s{2,}", line.strip())]
    for grid in paper_tables():
        for text in (*grid.headings, *(cell for row in grid.rows for cell in row)):
            # A cell may take several lines, but every line of it is made of whole words.
            words = set(text.split())
            assert any(cell and set(cell.split()) <= words for cell in cells), text
            assert all(any(word in cell.split() for cell in cells) for word in words), text
    tables = [line for line in lines if line.startswith("  ") or line.startswith(" ─")]
    assert max(map(len, tables)) <= width


def test_every_part_of_a_wide_table_names_its_rows() -> None:
    console = Console(width=80, file=StringIO())
    wide = TextTable("wide", ["who", *(f"heading-{n}" for n in range(9))], [["me", *"abcdefghi"]])
    wide.show(console)
    lines = cast(StringIO, console.file).getvalue().splitlines()
    rows = [line.split() for line in lines if line.startswith("  me")]
    assert rows == [["me", *"abcdef"], ["me", *"ghi"]]


def test_tables_in_markdown_are_apart(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        TextTable("title", ["a"], [["b"]], ["note"]).show(Console(), markdown=True)
    assert "note\n\ntitle\n\n| a |" in capsys.readouterr().out


def test_the_command_prints_the_paper_s_tables() -> None:
    result = CliRunner().invoke(app, ["paper", "--markdown"])
    assert result.exit_code == 0
    for line in (
        "| Qwen2.5-VL-7B-Instruct | 52.2 | 51.8 | 72.0 | 67.9 |",
        "| DeepEyes-7B + state replay | 56.3 | 53.8 | 84.7 | 75.9 |",
        "| MM-Eureka-Qwen-32B | 50.5 | 35.2 | 72.1 | 62.1 | 36.9 | 52.8 | 59.3 | 49.6 |",
        "| MM-Eureka-Qwen-32B + token replay "
        "| 52.4 | 35.5 | 74.0 | 61.8 | 37.6 | 54.6 | 63.2 | 51.0 |",
        "| VL-Rethinker-7B + state replay, high entropy | 44.4 | 29.7 | 34.3 |",
        "| MM-Eureka-Qwen-7B + token replay, tau 0.4, rate 10 | 47.1 |",
        "Not comparable with any run, Qwen2.5-VL-7B-Instruct: how the base was asked",
        "VisualProbe Medium and VisualProbe Hard: the released script compares the first capital",
    ):
        assert line in result.stdout
