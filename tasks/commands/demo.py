"""The command `visreplay demo`: two episodes with replay, tables and an HTML page."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

import visreplay.agent as agents
from visreplay.tasks.commands.console import Console, print_step, progress_bar
from visreplay.tasks.evaluation.comparison import compare
from visreplay.tasks.evaluation.evaluate import evaluate
from visreplay.tasks.evaluation.runs import Run, SampleRecord, record_of, rollout_of
from visreplay.tasks.evaluation.summary import Summary, summarise
from visreplay.tasks.evaluation.tables import TextTable, counted
from visreplay.tasks.registry import get_task
from visreplay.tasks.statistics import Estimate
from visreplay.tasks.types import Sample, Task
from visreplay.tasks.viewer.page import write_page
from visreplay.tools import ImageStore
from visreplay.tools.disk import write_file

if TYPE_CHECKING:
    from visreplay.agent import VisualAgent

EPISODES = ("visual-search-medium", "video-search")
"""The tasks of the first episodes, which the embedded pair plays."""

TABLE = {"embedded": ("visual-search-easy", "visual-search-medium", "video-search")}
"""The tasks of the tables, by pair."""

Runs = Mapping[str, Run]
"""Runs of one task, by system."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table.

    Attributes:
        pair: The embedded pair.
        task: The task.
        system: What answered.
        summary: How it did.
        change: The difference from the policy's accuracy, for a system with replay.
    """

    pair: str
    task: str
    system: str
    summary: Summary
    change: Estimate | None


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the page and the numbers.")] = Path(
        "runs/demo"
    ),
    samples: Annotated[
        int, typer.Option(min=1, max=1000, help="Number of held-out samples of each task.")
    ] = 50,
) -> None:
    """Play two episodes on the embedded pair, measure what replay changes, and write a page.

    Writes OUT/summary.json, OUT/index.html and the episodes. Takes some minutes.
    """
    from visreplay.agent.episode.embedded_agent import prepare_process

    console = Console(highlight=False)
    prepare_process()
    out.mkdir(parents=True, exist_ok=True)
    first = [(task, task.load(task.sample_ids()[0])) for task in map(get_task, EPISODES)]
    shown = [_played(console, out, "embedded", "policy+token", first)]
    measured = {
        (pair, name): _measured(console, pair, get_task(name), samples)
        for pair, tasks in TABLE.items()
        for name in tasks
    }
    page = out / "index.html"
    write_page(shown, page)
    rows = [row for (pair, name), runs in measured.items() for row in _rows(pair, name, runs)]
    content = {"rows": [asdict(row) for row in rows]}
    write_file(out / "summary.json", json.dumps(content, indent=1).encode())
    for table in _tables(rows):
        table.show(console)
    console.print(f"episodes  {page}\nnumbers   {out / 'summary.json'}")


def _played(
    console: Console, out: Path, pair: str, row: str, samples: Sequence[tuple[Task, Sample]]
) -> Run:
    """Play some samples with one system, printing each step as it ends, and save the episodes."""
    from visreplay.agent.episode.embedded_agent import embedded_agent

    store = ImageStore(out / "images")
    agent = embedded_agent(row, store, pair=pair)
    records = [
        _episode(console, agent, task, sample, out / f"{pair}-{row}" / task.name)
        for task, sample in samples
    ]
    agent.close()
    run = Run(out, _settings(agent), {record["sample_id"]: record for record in records})
    return replace(run, label=run.system)


def _episode(
    console: Console, agent: "VisualAgent", task: Task, sample: Sample, folder: Path
) -> SampleRecord:
    """Play one sample, printing each step as it ends, and save it."""
    console.rule(f"[bold]{sample.sample_id}")
    console.print(f"{' + '.join(filter(None, agent.names))}\n{sample.question}\n", markup=False)
    state = agent.start(sample.question, images=sample.images, video=sample.video)
    for event in agent.stream(state):
        for step in agents.completed_steps(event, state):
            observations = [use["observation"] for use in step["tool_calls"] if use["observation"]]
            images = [image for each in observations for image in each["images"]]
            paths = [agent.store.path(image) for image in images]
            print_step(console, step, [path for path in paths if path])
        state = event
    trajectory = agent.trajectory(state)
    trajectory.save(folder, agent.store)
    right = task.is_right(sample, trajectory.answer)
    verdict = "[green]right[/]" if right else f"[red]wrong[/], it is {sample.answer}"
    console.print(f"[bold]answer   {escape(trajectory.answer or 'none')}[/]  {verdict}\n")
    return record_of(sample, [rollout_of(trajectory, right=right)])


def _measured(console: Console, pair: str, task: Task, samples: int) -> Runs:
    """Evaluate every system on one task, with a progress bar."""
    from visreplay.agent.episode.embedded_agent import ROWS, embedded_agent

    runs, ids = {}, task.sample_ids()[:samples]
    with progress_bar(console) as progress:
        for row in ROWS:
            agent = embedded_agent(row, pair=pair)
            played = progress.track(
                evaluate(agent, task, ids),
                total=len(ids),
                description=f"{pair}  {task.name}  {row}",
            )
            records = {record["sample_id"]: record for record in played}
            runs[row] = Run(Path(), {"task": task.name, **_settings(agent)}, records)
            agent.close()
    return runs


def _settings(agent: "VisualAgent") -> dict[str, object]:
    policy, base = agent.names
    return {"policy": policy, "base": base, "replay": asdict(agent.replay)}


def _rows(pair: str, task: str, runs: Runs) -> list[Row]:
    """Make a row for each system of a task."""
    changes = {}
    for system, run in runs.items():
        if system.startswith("policy+") and run.scored.keys() & runs["policy"].scored.keys():
            (_, _, difference), *_ = compare(runs["policy"], run).metrics.values()
            changes[system] = difference
    return [
        Row(pair, task, system, summarise(run.records.values()), changes.get(system))
        for system, run in runs.items()
    ]


def _tables(rows: Sequence[Row]) -> Iterator[TextTable]:
    """Lay out the accuracy of every system, a table for each task."""
    for (pair, task), section in groupby(rows, lambda row: (row.pair, row.task)):
        cells = []
        for row in section:
            summary = row.summary
            errors = f", {counted(summary.errors, 'error')}" if summary.errors else ""
            change = row.change.percent if row.change else ""
            times = (f"{summary.mean_steps:.2f}", f"{summary.seconds:.2f}")
            cells.append((row.system, summary.accuracy.percent + errors, change, *times))
        yield TextTable(
            f"{pair} pair, {task}: held-out accuracy in %, n = {summary.n} (95 % interval)",
            ("system", "accuracy", "change by replay", "steps", "seconds"),
            cells,
        )
