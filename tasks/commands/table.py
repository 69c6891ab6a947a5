"""The command `visreplay table`: runs in the layout of the paper's table."""

from pathlib import Path
from typing import Annotated

import typer

from visreplay.tasks.commands.console import Console, print_damage
from visreplay.tasks.commands.options import OUTPUT, MarkdownOption
from visreplay.tasks.commands.sample_runs import import_plots
from visreplay.tasks.evaluation.runs import open_runs
from visreplay.tasks.evaluation.tables import tables


def table(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs of `visreplay eval`.")],
    markdown: MarkdownOption = False,
    allow_errors: Annotated[
        bool,
        typer.Option(
            "--allow-errors",
            help="Print runs with samples that ended in an error, and leave these out of scores.",
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="File for a plot of pass@1 to pass@K of the runs: .png, .pdf or .svg.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> None:
    """Print runs in the layout of the paper's table, and all their scores.

    The paper's figure stands beside a run with the settings that the figure is of; beside any
    other run, a note says what is different. Shares are in percent, with 95 % intervals.
    """
    console = Console(highlight=False)
    opened = open_runs(runs)
    print_damage(console, opened)
    if not allow_errors and (failed := next((run for run in opened if run.errors), None)):
        raise ValueError(
            f"{len(failed.errors)} of {len(failed.records)} samples of {failed.name} ended in an "
            "error, and a score without them is another score: play them again by the command of "
            "the run with --retry-errors, or leave them out with --allow-errors"
        )
    for grid in tables(opened):
        grid.show(console, markdown=markdown)
    if plot is not None:
        import_plots("pass_curves").save_pass_curves(opened, plot)
        console.print(f"plot   {plot}", markup=False, soft_wrap=True)
