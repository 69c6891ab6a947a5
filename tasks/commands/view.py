"""The command `visreplay view`: runs as one HTML page."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from visreplay.tasks.commands.console import Console, print_damage
from visreplay.tasks.commands.options import OUTPUT
from visreplay.tasks.evaluation.runs import open_runs
from visreplay.tasks.viewer.page import write_page


def view(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs of `visreplay eval`.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for the page. Default: view.html in the first folder.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    open_page: Annotated[
        bool | None,
        typer.Option(
            "--open/--no-open",
            help="Open the page in a browser. Default: only from a terminal.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> None:
    """Show runs side by side on one self-contained HTML page."""
    console = Console(highlight=False)
    path = out or runs[0] / "view.html"
    opened = open_runs(runs)
    print_damage(console, opened)
    written = write_page(opened, path)
    console.print(str(path), markup=False, soft_wrap=True)
    console.print(
        f"[dim]{written.samples} samples, {written.trajectories} trajectories, "
        f"{written.images} images, {written.size / 1e6:.1f} MB[/]"
    )
    if written.missing:
        console.print(
            f"[yellow]{written.missing} images are missing or damaged in the runs' folders, and "
            "not on the page: the command of a run makes them again with --retry-errors[/]",
            soft_wrap=True,
        )
    if console.is_terminal if open_page is None else open_page:
        webbrowser.open(path.resolve().as_uri())
