"""The command `visreplay compare`: two runs on the same samples."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from visreplay.tasks.commands.options import MarkdownOption, mistakes_told
from visreplay.tasks.evaluation.comparison import RunComparison
from visreplay.tasks.evaluation.comparison import compare as compare_runs
from visreplay.tasks.evaluation.runs import open_runs
from visreplay.tasks.evaluation.tables import TextTable


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
    grid = TextTable(
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


def told(found: RunComparison, first: str, second: str) -> list[str]:
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
