"""The command `visreplay table`: runs in the layout of the paper's table."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from visreplay.tasks.commands.options import MarkdownOption
from visreplay.tasks.evaluation.runs import open_runs
from visreplay.tasks.evaluation.tables import tables


def table(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs of `visreplay eval`.")],
    markdown: MarkdownOption = False,
) -> None:
    """Print runs in the layout of the paper's table, beside its figures, and all other scores.

    Shares are in percent, with 95 % intervals.
    """
    console = Console(highlight=False)
    for grid in tables(open_runs(runs)):
        grid.show(console, markdown=markdown)
