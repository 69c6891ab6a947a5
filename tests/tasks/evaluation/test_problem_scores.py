import random
from pathlib import Path
from typing import Any, cast

import pytest
from records import record, run_of
from typer.testing import CliRunner

from visreplay.tasks.commands.cli import app
from visreplay.tasks.evaluation.problem_scores import strict_scores
from visreplay.tasks.evaluation.runs import SampleRecord
from visreplay.tasks.evaluation.summary import summarise


def problem(name: str, *rights: bool | tuple[bool, ...]) -> list[dict[str, Any]]:
    """The records of a problem: its steps, then the whole; with several rollouts, a tuple each."""
    steps = len(rights) - 1
    parts = [*map(str, range(1, steps + 1)), "multi"]
    return [
        record(
            f"{steps}/{name}/{part}",
            *(right if isinstance(right, tuple) else (right,)),
            category=f"{steps}steps_{part}",
            group=f"{steps}steps/{name}",
        )
        for part, right in zip(parts, rights, strict=True)
    ]


def scores(*records: dict[str, Any]) -> list[float]:
    return [float(each) for each in strict_scores(cast(tuple[SampleRecord, ...], records))]


@pytest.mark.parametrize(
    ("rights", "score"),
    [
        ((True, True, True), 1.0),
        ((True, True, False), 0.5),
        ((True, False, True), 0.0),
        ((False, False, True), 0.0),
        ((False, True, False), 0.0),
        ((True, True, True, True), 1.0),
        ((True, True, True, False), 0.5),
        ((True, True, False, True), 0.0),
    ],
)
def test_the_four_cases(rights: tuple[bool, ...], score: float) -> None:
    assert scores(*problem("1", *rights)) == [score]


def test_the_mean_is_the_published_formula() -> None:
    rng = random.Random(0)
    problems = [
        [rng.random() < 0.8 for _ in range(steps + 1)] for steps in (2, 3) for _ in range(100)
    ]
    inadequate = sum(all(steps) and not whole for *steps, whole in problems)
    rote = sum(not all(steps) and whole for *steps, whole in problems)
    insufficient = sum(not all(steps) and not whole for *steps, whole in problems)
    published = (200 - 0.5 * inadequate - rote - insufficient) / 200
    records = [
        each for number, rights in enumerate(problems) for each in problem(str(number), *rights)
    ]
    rng.shuffle(records)
    summary = summarise(cast(list[SampleRecord], records), task="we-math")
    strict = summary.metrics["strict score"]
    assert strict.value == pytest.approx(published)
    assert strict.low < published < strict.high
    assert summary.accuracy.value == pytest.approx(sum(map(sum, problems)) / len(records))


def test_only_whole_problems_count_and_rollouts_are_averaged() -> None:
    first, *rest = problem("1", True, True, True)
    assert scores(*rest) == scores(first) == []
    several = problem("2", (True, True), (True, False), (True, True))
    assert scores(*rest, *several) == [0.5]


def test_the_table_shows_the_strict_score(tmp_path: Path) -> None:
    run = run_of(
        tmp_path / "w", *problem("1", True, True, False), task="we-math", data="WeMath.tsv"
    )
    result = CliRunner().invoke(app, ["table", str(run.folder), "--markdown"])
    assert result.exit_code == 0
    assert "| system | WeMath, strict score |" in result.stdout
    assert "| strict score | 50.0 (" in result.stdout
