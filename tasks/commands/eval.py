"""The command `visreplay eval`: an agent on a task, and a folder that the results grow in."""

import importlib
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from visreplay.agent.episode.embedded_agent import prepare_process
from visreplay.agent.episode.visual_agent import versions
from visreplay.replay_core import Method
from visreplay.tasks.commands.console import progress_bar
from visreplay.tasks.commands.options import (
    EpisodeOptions,
    PairChoice,
    PairOptions,
    ReplayOptions,
    mistakes_told,
    with_options,
)
from visreplay.tasks.evaluation.evaluate import Checker, evaluate
from visreplay.tasks.evaluation.journal import Journal, Line
from visreplay.tasks.evaluation.runs import IMAGES, LINES, Run, SampleRecord
from visreplay.tasks.evaluation.summary import right_count
from visreplay.tasks.evaluation.tables import details
from visreplay.tasks.registry import get_task, select


@with_options
def evaluation(
    task: Annotated[str, typer.Argument(help="One of `visreplay tasks`.")],
    pair: PairOptions,
    replay: ReplayOptions,
    episode: EpisodeOptions,
    data: Annotated[Path | None, typer.Option(help="The task's file, where it has one.")] = None,
    method: Annotated[Method, typer.Option(help="How to replay.")] = Method.TOKEN,
    rollouts: Annotated[int, typer.Option(min=1, help="Episodes a sample.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Samples at most.")] = None,
    sample_ids: Annotated[
        str | None, typer.Option(help="These samples only: ids with commas between them.")
    ] = None,
    shuffle: Annotated[
        int | None, typer.Option(min=0, help="Play in an order drawn with this seed.")
    ] = None,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Play samples again that ended in an error.")
    ] = False,
    cot_checker: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Python function that is given a sample and a trajectory with a right answer, and "
            "says whether the reasoning is right too: for CoT-pass@k.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. Default: runs/eval/TASK-METHOD.")
    ] = None,
) -> None:
    """Evaluate on a task. A run that was stopped goes on when the same command is given again.

    Writes a line a sample into OUT/run.jsonl as it ends, and every image into OUT/images once.
    Ends with code 1 where samples ended in an error.
    """
    console = Console(highlight=False)
    out = out or Path("runs/eval") / f"{task}-{method}"
    with mistakes_told():
        if rollouts > 1 and episode.temperature is None:
            episode = replace(episode, temperature=1.0)
        if rollouts > 1 and not episode.temperature:
            raise ValueError(
                f"--rollouts is {rollouts}, but at --temperature 0 all of them are the same: leave "
                "one of them out"
            )
        checker = load_checker(cot_checker) if cot_checker else None
        source = get_task(task, data)
        chosen = sample_ids.split(",") if sample_ids else None
        ids = select(source.sample_ids(), limit=limit, sample_ids=chosen, shuffle=shuffle)
        names = PairChoice.of(pair.policy, pair.base, console)
        if names.embedded:
            prepare_process()
        config = replay.config(names, method)
        protocol = names.protocol(pair.protocol)
        settings = {
            "task": source.name,
            "data": data and str(data),
            "data_digest": getattr(source, "digest", None),
            "policy": names.names[0],
            "base": names.names[1],
            "processor": pair.processor,
            "protocol": protocol,
            "texts": episode.texts,
            "dtype": pair.dtype,
            "replay": asdict(config),
            "sampling": asdict(episode.sampling),
            "limits": asdict(episode.limits),
            "rollouts": rollouts,
            "seed": episode.seed,
            "shuffle": shuffle,
            "cot_checker": cot_checker,
            "versions": versions(),
        }
        with Journal(out / LINES, settings) as journal:
            left = [each for each in ids if is_left(journal.results.get(each), retry_errors)]
            for stray in (out / IMAGES).glob("*.tmp"):  # was being written when a run was killed
                stray.unlink()
            if left:
                agent = episode.agent(pair, names, config, protocol, out / IMAGES)
                records = evaluate(
                    agent, source, left, rollouts=rollouts, seed=episode.seed, cot_checker=checker
                )
                grow(console, journal, records, len(left), len(ids))
                agent.close()
        run = Run.open(out)
    for grid in details(run):
        grid.show(console)
    console.print(f"run   {out}", soft_wrap=True)
    for line in errors_told(run):
        console.print(line, style="red", markup=False, soft_wrap=True)
    if run.errors:
        raise typer.Exit(1)


def grow(
    console: Console, journal: Journal, records: Iterable[SampleRecord], left: int, total: int
) -> None:
    """Write records as they come, and show how far it is.

    Args:
        console: Where to show it.
        journal: Where to write them.
        records: Of samples that are still to be played.
        left: How many these are.
        total: How many there are with those that were played before.

    Raises:
        typer.Exit: Ctrl-C was pressed; what has ended is in the file.
    """
    before = total - left
    right = episodes = errors = 0
    try:
        with progress_bar(console) as progress:
            bar = progress.add_task("", total=total, completed=before)
            for record in records:
                journal.add(record["sample_id"], record)
                right += right_count(record)
                episodes += len(record["rollouts"])
                errors += record["error"] is not None
                shown = f"right {right} of {episodes}, {errors} errors"
                progress.update(bar, advance=1, description=shown)
    except KeyboardInterrupt:
        console.print(f"stopped; {len(journal.results)} samples are in {journal.path}, and the "
                      "same command goes on", markup=False, soft_wrap=True)  # fmt: skip
        raise typer.Exit(130) from None


def errors_told(run: Run) -> list[str]:
    """How many samples ended in an error, which errors, and the way out."""
    kinds = Counter(record["error"] for record in run.errors.values())
    lines = [f"{count} x {error}" for error, count in kinds.most_common(5)]
    if len(kinds) > len(lines):
        lines.append(f"... and {len(kinds) - len(lines)} other errors")
    if lines:
        lines.append("samples with errors are not counted: --retry-errors plays them again")
    return lines


def is_left(line: Line | None, retry_errors: bool) -> bool:
    """Whether a sample is still to be played."""
    return line is None or (retry_errors and line["error"] is not None)


def load_checker(name: str) -> Checker:
    """The function of `--cot-checker`, from the working directory or an installed package.

    Raises:
        ValueError: there is none of that name.
        ImportError: its module cannot be imported.
    """
    module, _, function = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    found = getattr(importlib.import_module(module), function, None) if function else None
    if not callable(found):
        raise ValueError(f"--cot-checker is {name!r}, but must name a function: module:function")
    checker: Checker = found
    return checker
