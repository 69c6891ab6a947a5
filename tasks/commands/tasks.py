"""The command `visreplay tasks`: the tasks, their scorers and their files."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from visreplay.tasks.commands.console import Console
from visreplay.tasks.registry import TASK_INFOS


def tasks(
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of JSON objects.")] = False,
) -> None:
    """List the tasks, how their answers are scored, and the files that they need."""
    if as_json:
        print(json.dumps([asdict(entry) for entry in TASK_INFOS], indent=1))
        return
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("task", no_wrap=True)
    table.add_column("scored by")
    table.add_column("--data")
    for entry in TASK_INFOS:
        table.add_row(entry.name, entry.scorer, entry.files or "none: it is synthetic")
    Console(highlight=False).print(table)
