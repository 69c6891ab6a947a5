"""The command `visreplay`."""

from pathlib import Path
from typing import Annotated

import typer

from visreplay.tasks.commands.analyze import analyze
from visreplay.tasks.commands.calibrate import calibrate
from visreplay.tasks.commands.compare import compare
from visreplay.tasks.commands.eval import evaluation
from visreplay.tasks.commands.export import export
from visreplay.tasks.commands.mcp import mcp
from visreplay.tasks.commands.run import run
from visreplay.tasks.commands.serve import serve
from visreplay.tasks.commands.table import table
from visreplay.tasks.commands.tasks import tasks
from visreplay.tasks.commands.view import view

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
app.command("eval")(evaluation)
app.command()(table)
app.command()(compare)
app.command()(export)
app.command()(analyze)
app.command()(calibrate)
app.command()(tasks)
app.command()(view)
app.command()(serve)
app.command()(mcp)
app.command()(run)


@app.callback()
def callback() -> None:
    """Agents that think with images, steered by Activation Replay."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the page and the numbers go.")] = Path(
        "runs/demo"
    ),
    samples: Annotated[int, typer.Option(min=1, max=1000, help="Held-out samples a task.")] = 50,
) -> None:
    """Run the main job on the embedded pair: two episodes, a table, a page."""
    from visreplay.tasks.commands.demo import run_demo

    run_demo(out, samples)


def main() -> None:
    """Entry point of the command."""
    app()
