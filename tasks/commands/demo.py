"""The command `visreplay demo`: two episodes with replay, a table and an HTML page."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

import visreplay.agent as agents
from visreplay.tasks.commands.console import Console, print_step, progress_bar
from visreplay.tasks.evaluation.evaluate import evaluate
from visreplay.tasks.evaluation.runs import Run, SampleRecord, record_of, rollout_of
from visreplay.tasks.evaluation.summary import Summary, summarise
from visreplay.tasks.evaluation.tables import counted
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Sample, Task
from visreplay.tasks.viewer.page import write_page
from visreplay.tools import ImageStore
from visreplay.tools.disk import write_file

if TYPE_CHECKING:
    from visreplay.agent import VisualAgent

EPISODES = ("visual-search-medium", "video-search")
TABLE = ("visual-search-easy", "visual-search-medium", "video-search")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the page and the numbers.")] = Path(
        "runs/demo"
    ),
    samples: Annotated[
        int, typer.Option(min=1, max=1000, help="Number of held-out samples of each task.")
    ] = 50,
) -> None:
    """Play two episodes on the embedded pair, measure its accuracy, and write a page.

    Writes OUT/summary.json, OUT/index.html and the episodes. Takes some minutes.
    """
    from visreplay.agent.episode.embedded_agent import embedded_agent, prepare_process

    console = Console(highlight=False)
    prepare_process()
    out.mkdir(parents=True, exist_ok=True)
    store = ImageStore(out / "images")
    agent = embedded_agent("policy+token", store)
    records = []
    for name in EPISODES:
        task = get_task(name)
        sample = task.load(task.sample_ids()[0])
        records.append(_play(console, agent, task, sample, out / name))
    settings = {"policy": agent.names[0], "base": agent.names[1], "replay": asdict(agent.replay)}
    agent.close()
    page = out / "index.html"
    write_page([Run(out, settings, {record["sample_id"]: record for record in records})], page)

    summary = {task: dict(_rows(console, task, samples)) for task in TABLE}
    tasks = {t: {r: asdict(s) for r, s in rows.items()} for t, rows in summary.items()}
    write_file(out / "summary.json", json.dumps({"tasks": tasks}, indent=1).encode())
    console.print(_table(summary, samples))
    console.print(f"episodes  {page}\nnumbers   {out / 'summary.json'}")


def _play(
    console: Console, agent: "VisualAgent", task: Task, sample: Sample, folder: Path
) -> SampleRecord:
    """Play one sample, printing each step as it ends, and save it."""
    console.rule(f"[bold]{sample.sample_id}")
    console.print(f"{sample.question}\n", markup=False)
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


def _rows(console: Console, task_name: str, samples: int) -> Iterator[tuple[str, Summary]]:
    """Evaluate every row of the table on one task, with a progress bar."""
    from visreplay.agent.episode.embedded_agent import ROWS, embedded_agent

    task = get_task(task_name)
    ids = task.sample_ids()[:samples]
    with progress_bar(console) as progress:
        for row in ROWS:
            agent = embedded_agent(row)
            played = evaluate(agent, task, ids)
            bar = progress.track(played, total=len(ids), description=f"{task_name}  {row}")
            yield row, summarise(bar)
            agent.close()


def _table(summary: dict[str, dict[str, Summary]], samples: int) -> Table:
    """Lay out the accuracy of every row on every task."""
    table = Table(title=f"held-out accuracy, {samples} samples a task (95 % interval)")
    for heading in ("task", "system", "accuracy", "steps", "seconds"):
        table.add_column(heading)
    for task, rows in summary.items():
        for row, s in rows.items():
            value, low, high = (
                100 * x for x in (s.accuracy.value, s.accuracy.low, s.accuracy.high)
            )
            table.add_row(
                task,
                row,
                f"{value:.0f} %  ({low:.0f} to {high:.0f})"
                + (f", {counted(s.errors, 'error')}" if s.errors else ""),
                f"{s.mean_steps:.2f}",
                f"{s.seconds:.2f}",
            )
        table.add_section()
    return table
