"""The command `visreplay compare`: two runs on the same samples."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from visreplay.tasks.evaluate import groups_of, pass_rates
from visreplay.tasks.journal import differences
from visreplay.tasks.options import mistakes_told
from visreplay.tasks.runs import Run, open_runs
from visreplay.tasks.statistics import Estimate, estimates, mcnemar_p
from visreplay.tasks.table import Grid, MarkdownOption


@dataclass(frozen=True)
class Comparison:
    """What the second of two runs did otherwise on the samples that both have scored.

    Attributes:
        paired: Ids of these samples.
        alone: How many samples were played in the first run only, and in the second only.
        errors: How many ended in an error in the first run, and in the second.
        metrics: Values in the first run and in the second, and second - first with its interval.
        gained: Ids of samples that are right in the second run only; with several rollouts, by the
            majority of them.
        lost: Ids of samples that are right in the first run only.
        p: McNemar's, two-sided and exact; None with several rollouts, or samples in groups.
        settings: What differs: name, value in the first run, and in the second.
    """

    paired: list[str]
    alone: tuple[int, int]
    errors: tuple[int, int]
    metrics: dict[str, tuple[float, float, Estimate]]
    gained: list[str]
    lost: list[str]
    p: float | None
    settings: list[tuple[str, Any, Any]]


def compare(
    run_a: Annotated[Path, typer.Argument(help="Folder of a run.")],
    run_b: Annotated[Path, typer.Argument(help="Folder of the run to compare it with.")],
    markdown: MarkdownOption = False,
) -> None:
    """Pair the samples of two runs: the difference with its interval, and which ones flipped."""
    console = Console(highlight=False)
    with mistakes_told():
        first, second = open_runs([run_a, run_b])
        found = compare_runs(first, second)
    grid = Grid(
        f"{len(found.paired)} samples of {first.settings['task']} in both, in %; "
        "the difference with its 95 % interval (bootstrap over pairs)",
        ["metric", first.name, second.name, f"{second.name} - {first.name}"],
        [
            [metric, f"{100 * a:.1f}", f"{100 * b:.1f}", difference.percent]
            for metric, (a, b, difference) in found.metrics.items()
        ],
    )
    grid.show(console, markdown=markdown)
    for line in told(found, first.name, second.name):
        console.print(line, markup=False, soft_wrap=True)


def compare_runs(first: Run, second: Run) -> Comparison:
    """Pair two runs.

    Raises:
        ValueError: they are of different tasks, or of files that differ, or share no sample.
    """
    tasks = [run.settings["task"] for run in (first, second)]
    if tasks[0] != tasks[1]:
        raise ValueError(
            f"{first.name} is of {tasks[0]} and {second.name} of {tasks[1]}: only runs of one task "
            "can be compared"
        )
    a, b = first.scored, second.scored
    paired = [sample_id for sample_id in a if sample_id in b]
    if not paired:
        raise ValueError(f"{first.name} and {second.name} have scored no sample in common")
    for key in paired:
        if (a[key]["question"], a[key]["expected"]) != (b[key]["question"], b[key]["expected"]):
            raise ValueError(
                f"sample {key!r} has another question or answer in {second.name} than in "
                f"{first.name}: the runs are not of the same data"
            )
    ours, theirs = [a[key] for key in paired], [b[key] for key in paired]
    rollouts = min(len(record["rollouts"]) for record in (*ours, *theirs))
    columns = {
        f"pass@{k}": (pass_rates(ours, k), pass_rates(theirs, k)) for k in range(1, rollouts + 1)
    }
    name = "accuracy" if rollouts == 1 else "avg@k = pass@1"
    columns = {name if key == "pass@1" else key: pair for key, pair in columns.items()}
    groups = groups_of(ours)
    changes = np.stack([after - before for before, after in columns.values()], axis=1)
    drawn = estimates(changes, groups)
    metrics = {
        key: (float(before.mean()), float(after.mean()), difference)
        for (key, (before, after)), difference in zip(columns.items(), drawn, strict=True)
    }
    before, after = (pass_rates(records, 1) > 0.5 for records in (ours, theirs))
    gained = [key for key, was, is_ in zip(paired, before, after, strict=True) if is_ and not was]
    lost = [key for key, was, is_ in zip(paired, before, after, strict=True) if was and not is_]
    single = all(len(record["rollouts"]) == 1 for record in (*ours, *theirs))
    return Comparison(
        paired=paired,
        alone=(
            len(first.records.keys() - second.records.keys()),
            len(second.records.keys() - first.records.keys()),
        ),
        errors=(len(first.errors), len(second.errors)),
        metrics=metrics,
        gained=gained,
        lost=lost,
        p=mcnemar_p(len(gained), len(lost)) if single and groups is None else None,
        settings=differences(first.settings, second.settings),
    )


def told(found: Comparison, first: str, second: str) -> list[str]:
    """What stands below the table, line by line."""
    lines = [
        f"right in {second} only   {len(found.gained)}: {', '.join(found.gained) or 'none'}",
        f"right in {first} only   {len(found.lost)}: {', '.join(found.lost) or 'none'}",
    ]
    if found.p is not None:
        lines.append(f"McNemar's exact p, two-sided   {found.p:.3g}")
    else:
        lines.append("right is a sample with more than half of its rollouts right")
    for name, alone, errors in zip((first, second), found.alone, found.errors, strict=True):
        if alone or errors:
            lines.append(f"left out   {alone} samples in {name} only, {errors} errors in {name}")
    lines += [f"{name}   {a!r} -> {b!r}" for name, a, b in found.settings]
    if not found.settings:
        lines.append("all settings are the same")
    return lines
