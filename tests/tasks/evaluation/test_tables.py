import re
from pathlib import Path

from records import record, run_of
from typer.testing import CliRunner

from visreplay.tasks.commands.cli import app
from visreplay.tasks.evaluation.comparison import compare
from visreplay.tasks.evaluation.paper import BENCHMARKS, benchmark_of, reported_accuracy
from visreplay.tasks.evaluation.runs import Run
from visreplay.tasks.evaluation.summary import summarise
from visreplay.tasks.evaluation.tables import details, layout
from visreplay.tasks.registry import TASK_INFOS


def hr_bench(folder: Path, method: str, right: int) -> Run:
    """10 questions across instances, of which so many are right, and one about a single one."""
    return run_of(
        folder,
        *(record(f"cross-{n}", n < right, category="FCP") for n in range(10)),
        record("single-0", True, category="FSP"),
        replay={"method": method},
    )


def test_accuracies_stand_beside_those_of_the_paper(tmp_path: Path) -> None:
    other = run_of(tmp_path / "v", record("1", True), task="vstar", data="vstar.jsonl")
    runs = [hr_bench(tmp_path / "a", "none", 5), hr_bench(tmp_path / "b", "token", 6), other]
    grid = layout(runs)
    assert grid.headings == ["system", "HR-Bench 4K FCP", "vstar"]
    plain, replay = grid.rows
    assert plain[0] == "DeepEyes-7B"
    assert plain[1] == "50.0 (23.7 to 76.3); paper 53.7"
    assert plain[2].startswith("100.0")
    assert replay[0] == "DeepEyes-7B + token replay"
    assert replay[1] == "60.0 (31.3 to 83.2); paper 56.3"
    assert replay[2] == "-"


def test_two_runs_of_one_system_are_two_rows(tmp_path: Path) -> None:
    runs = [hr_bench(tmp_path / name, "token", 5) for name in ("a", "b")]
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
    result = CliRunner().invoke(app, ["table", str(run.folder), "--markdown"])
    assert result.exit_code == 0
    assert "| DeepEyes-7B | 2 errors |" in result.stdout
    assert "| errors | 2 |" in result.stdout
    assert "accuracy |" not in result.stdout
    result = CliRunner().invoke(app, ["table", str(tmp_path / "nowhere")])
    assert result.exit_code == 2
    assert "not the folder of a run" in " ".join(result.stderr.split())


def test_accuracies_of_the_paper_are_found_by_task_or_file() -> None:
    mathverse = benchmark_of({"task": "image-qa", "data": "data/MathVerse_MINI_Vision_Only.tsv"})
    assert mathverse is not None and mathverse.label == "MathVerse(VO)"
    assert reported_accuracy("FanqingM/MM-Eureka-Qwen-7B", mathverse, replayed=True) == 47.7
    assert reported_accuracy("some/other", mathverse, replayed=True) is None
    assert benchmark_of({"task": "visual-search-easy", "data": None}) is None
    labels = [each.label for each in BENCHMARKS]
    mmmu, pro = (BENCHMARKS[labels.index(name)] for name in ("MMMU", "MMMU-Pro"))
    assert reported_accuracy("MMR1-Math-v0-7B", mmmu, replayed=False) == 56.7
    assert reported_accuracy("MMR1-Math-v0-7B", pro, replayed=True) == 41.3
    assert benchmark_of({"task": "video-mmmu", "data": "videommmu.json"}) not in (mmmu, pro)


def test_categories_of_the_paper_match_those_of_the_data_sets() -> None:
    parts = {each.label: each for each in BENCHMARKS if each.category}
    assert parts["HR-Bench 4K FCP"].covers("FCP") and not parts["HR-Bench 4K FCP"].covers("FSP")
    assert parts["MMVU(mc)"].covers("multiple-choice")
    assert not parts["MMVU(mc)"].covers("open-ended")


def test_the_benchmarks_of_the_paper_are_tasks() -> None:
    tasks = {re.sub("[^a-z0-9]", "", entry.name) for entry in TASK_INFOS}
    # Of these the common table is read, by the name of its file.
    by_file = {"DynaMath", "WeMath", "MMMU-Pro", "MathVerse(VO)"}
    for benchmark in BENCHMARKS:
        assert bool(benchmark.names & tasks) or benchmark.label in by_file, benchmark.label
