"""The command `visreplay export`: a run in the formats of other tools."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from visreplay.tasks.commands.options import mistakes_told
from visreplay.tasks.evaluation.export import write_inspect, write_predictions
from visreplay.tasks.evaluation.runs import Run


class Format(StrEnum):
    """What a run can be exported to."""

    INSPECT = "inspect"
    VLMEVALKIT = "vlmevalkit"


def export(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    to: Annotated[Format, typer.Option(help="Whose format.")],
    out: Annotated[
        Path, typer.Option(help="File to write: .eval or .json for inspect, .tsv for vlmevalkit.")
    ],
    rollout: Annotated[
        int, typer.Option(min=0, help="Which rollout vlmevalkit gets, which knows one a sample.")
    ] = 0,
) -> None:
    """Write a run as a log of inspect_ai, or as predictions for VLMEvalKit."""
    console = Console(highlight=False)
    with mistakes_told():
        found = Run.open(run)
        suffixes = (".eval", ".json") if to is Format.INSPECT else (".tsv",)
        if out.suffix not in suffixes:
            raise ValueError(f"--out is {str(out)!r}, but must end in {' or '.join(suffixes)}")
        out.parent.mkdir(parents=True, exist_ok=True)
        if to is Format.INSPECT:
            write_inspect(found, out)
        else:
            write_predictions(found, out, rollout)
    console.print(f"{len(found.scored)} samples  {out}", soft_wrap=True)
    if found.errors:
        kept = "kept as one" if to is Format.INSPECT else "left out"
        console.print(f"{len(found.errors)} with an error, {kept}", style="red")
