import json
import re
import textwrap
from pathlib import Path

import pytest
from shared import write_json, write_picture
from typer.testing import CliRunner

from visreplay.tasks.commands.cli import app
from visreplay.tasks.datasets.file_task import FileTask
from visreplay.tasks.registry import SYNTHETIC_TASKS, TASK_INFOS, get_task, select
from visreplay.tasks.scoring.scorers import Scorer
from visreplay.tasks.types import Sample, Split


def test_the_command_lists_every_task() -> None:
    result = CliRunner().invoke(app, ["tasks"], env={"COLUMNS": "160"})
    assert result.exit_code == 0
    for entry in TASK_INFOS:
        assert entry.name in result.stdout
    assert "hr_bench_4k.tsv" in result.stdout
    printed = json.loads(CliRunner().invoke(app, ["tasks", "--json"]).stdout)
    assert [entry["name"] for entry in printed] == [entry.name for entry in TASK_INFOS]
    assert printed[0] == {"name": "visual-search-easy", "scorer": "text", "files": ""}


def test_names_are_unique() -> None:
    assert len({entry.name for entry in TASK_INFOS}) == len(TASK_INFOS) >= 20


@pytest.mark.parametrize("name", SYNTHETIC_TASKS)
def test_synthetic_tasks_have_ids(name: str) -> None:
    task = get_task(name)
    ids = task.sample_ids()
    assert len(set(ids)) == 1000
    assert ids[3] == f"{name}-{Split.HELD_OUT + 3}"
    sample = task.load(ids[3])
    assert sample.sample_id == ids[3]
    assert task.is_right(sample, f"The answer is **{sample.answer}**.")
    assert not task.is_right(sample, "?")
    assert not task.is_right(sample, None)
    for other in (f"{name}-x", f"{name}-", f"other-{ids[3]}", "3", "", f"{name}-²"):
        with pytest.raises(ValueError, match=f"is no sample of {name}"):
            task.load(other)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("chess", None, "there is no task 'chess': see `visreplay tasks`"),
        ("hr-bench", None, r"no task 'hr-bench' .did you mean hr-bench-[48]k or hr-bench-"),
        ("hr-bench-4k", None, "hr-bench-4k needs its file, --data: hr_bench_4k.tsv"),
        ("video-search", Path("a.tsv"), "is synthetic and reads no file: leave out --data a.tsv"),
    ],
)
def test_mistakes_are_explained(name: str, data: Path | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_task(name, data)


IDS = [f"s{number}" for number in range(30)]


def test_samples_are_selected() -> None:
    assert select(IDS) == IDS
    assert select(IDS, limit=2) == ["s0", "s1"]
    assert select(IDS, limit=99) == IDS
    assert select(IDS, sample_ids=["s7", "s2"]) == ["s7", "s2"]
    assert select(IDS, sample_ids=["s7", "s2"], limit=1) == ["s7"]


def test_shuffling_depends_on_its_seed_alone() -> None:
    shuffled = select(IDS, shuffle=3)
    assert shuffled == select(IDS, shuffle=3) != IDS
    assert sorted(shuffled) == sorted(IDS)
    assert select(IDS, shuffle=4) != shuffled
    assert select(IDS, shuffle=3, limit=5) == shuffled[:5]
    assert shuffled[:3] == FIRST


FIRST = ["s26", "s21", "s9"]
"""The same on every machine."""


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"sample_ids": ["s1", "s1O"]}, "no sample 's1O' .did you mean s1"),
        ({"sample_ids": ["x", "y", "z"]}, "no sample 'x' .and 2 more.; its first is 's0'"),
        ({"sample_ids": ["s1", "s2", "s1"]}, "the sample 's1' is named twice"),
        ({"limit": 0}, "--limit is 0; it must be at least 1"),
    ],
)
def test_impossible_selections_are_refused(choice: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(IDS, **choice)  # type: ignore[arg-type]


def test_the_example_in_contributing_is_a_task(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text("utf-8")
    section = text.partition("## A new task")[2].partition("\n## ")[0]
    code = textwrap.dedent("".join(re.findall(r"^(?: {4}.*)?\n", section, re.MULTILINE)))
    names = {
        "FileTask": FileTask,
        "Sample": Sample,
        "Scorer": Scorer,
    }
    exec(code, names)
    write_picture(tmp_path / "a.png", "red")
    row = {"id": 1, "image": "a.png", "question": "How many oars?", "count": 4}
    task = names["Count"]("count", write_json(tmp_path / "count.json", [row]))  # type: ignore[operator]
    sample = task.load("1")
    assert (sample.question, len(sample.images)) == ("How many oars?", 1)
    assert task.is_right(sample, "There are 4 oars.")
    with pytest.raises(ValueError, match="item 1, field 'count'"):
        names["Count"]("count", write_json(tmp_path / "bad.json", [row | {"count": None}]))  # type: ignore[operator]
