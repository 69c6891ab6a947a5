"""The command `visreplay compare`: two runs on the same samples."""

from pathlib import Path
from typing import Annotated

import typer

from visreplay.tasks.commands.console import Console, print_damage
from visreplay.tasks.commands.options import MarkdownOption
from visreplay.tasks.evaluation.comparison import RunComparison
from visreplay.tasks.evaluation.comparison import compare as compare_runs
from visreplay.tasks.evaluation.runs import open_runs
from visreplay.tasks.evaluation.tables import TextTable, counted


def compare(
    run_a: Annotated[Path, typer.Argument(help="Folder of a run.")],
    run_b: Annotated[Path, typer.Argument(help="Folder of the run to compare it with.")],
    markdown: MarkdownOption = False,
) -> None:
    """Compare two runs of one task sample by sample: differences, intervals and flips."""
    console = Console(highlight=False)
    first, second = open_runs([run_a, run_b])
    print_damage(console, [first, second])
    comparison = compare_runs(first, second)
    grid = TextTable(
        f"{len(comparison.paired)} samples of {first.settings['task']} in both, in %; "
        "the difference with its 95 % interval",
        ["metric", first.name, second.name, f"{second.name} - {first.name}"],
        [
            [metric, f"{100 * a:.1f}", f"{100 * b:.1f}", difference.percent]
            for metric, (a, b, difference) in comparison.metrics.items()
        ]
        + [["errors", *map(str, comparison.errors), ""]],
    )
    grid.show(console, markdown=markdown)
    for line in summary_lines(comparison, first.name, second.name):
        console.print(line, markup=False, soft_wrap=True)


def summary_lines(pairs: RunComparison, first: str, second: str) -> list[str]:
    """Write the lines below the table: flips, test, samples left out, settings that differ."""
    lines = [
        f"right in {second} only   {len(pairs.gained)}: {', '.join(pairs.gained) or 'none'}",
        f"right in {first} only   {len(pairs.lost)}: {', '.join(pairs.lost) or 'none'}",
    ]
    if pairs.p is not None:
        lines.append(f"McNemar's exact p, two-sided   {pairs.p:.3g}")
    else:
        lines.append("a sample counts as right if more than half of its rollouts are")
    for name, alone, errors in zip((first, second), pairs.alone, pairs.errors, strict=True):
        if alone or errors:
            lines.append(
                f"left out   {counted(alone, 'sample')} in {name} only, "
                f"{counted(errors, 'error')} in {name}"
            )
    lines += [f"{name}   {a!r} -> {b!r}" for name, a, b in pairs.settings]
    if not pairs.settings:
        lines.append("all settings are the same")
    return lines
