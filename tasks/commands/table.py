"""The command `visreplay table`: runs in the paper's layout."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from visreplay.tasks.commands.options import MarkdownOption, mistakes_told
from visreplay.tasks.evaluation.runs import open_runs
from visreplay.tasks.evaluation.tables import tables


def table(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    markdown: MarkdownOption = False,
) -> None:
    """Print runs as the paper's table has them, beside the paper's figures, and all they found.

    Shares are in percent, with 95 % intervals.
    """
    console = Console(highlight=False)
    with mistakes_told():
        grids = tables(open_runs(runs))
    for grid in grids:
        grid.show(console, markdown=markdown)
