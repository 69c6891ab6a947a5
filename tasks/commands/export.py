"""The command `visreplay export`: a run in the format of another tool."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from visreplay.tasks.commands.console import Console, print_damage
from visreplay.tasks.commands.options import OUTPUT
from visreplay.tasks.evaluation.export import write_inspect, write_predictions
from visreplay.tasks.evaluation.runs import Run


class Format(StrEnum):
    """Formats that a run can be exported to."""

    INSPECT = "inspect"
    VLMEVALKIT = "vlmevalkit"


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run of `visreplay eval`.")],
    to: Annotated[Format, typer.Option(help="Format of the file.", rich_help_panel=OUTPUT)],
    out: Annotated[
        Path,
        typer.Option(
            help="File to write: .eval or .json for inspect, .tsv for vlmevalkit.",
            rich_help_panel=OUTPUT,
        ),
    ],
    rollout: Annotated[
        int,
        typer.Option(
            min=0,
            help="Number of the rollout for vlmevalkit, which takes one a sample.",
            rich_help_panel=OUTPUT,
        ),
    ] = 0,
) -> None:
    """Write a run as a log of inspect_ai, or as predictions for VLMEvalKit."""
    console = Console(highlight=False)
    source = Run.open(run)
    print_damage(console, [source])
    suffixes = (".eval", ".json") if to is Format.INSPECT else (".tsv",)
    if out.suffix not in suffixes:
        raise ValueError(f"--out is {str(out)!r}, but must end in {' or '.join(suffixes)}")
    if to is Format.INSPECT:
        write_inspect(source, out)
    else:
        write_predictions(source, out, rollout)
    console.print(f"{len(source.scored)} samples  {out}", markup=False, soft_wrap=True)
    if source.errors:
        kept = "kept as errors" if to is Format.INSPECT else "left out"
        console.print(f"{len(source.errors)} with an error, {kept}", style="red")
