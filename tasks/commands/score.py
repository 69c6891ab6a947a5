"""The command `visreplay score`: how answers are judged, and by which rule."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from visreplay.tasks.commands.console import Console, json_line
from visreplay.tasks.commands.options import OUTPUT, DataOption
from visreplay.tasks.evaluation.judged_answers import JudgedAnswer, judge_file, judge_run
from visreplay.tasks.evaluation.runs import Run

_MAX_TEXT = 300
"""The most characters of a text that are printed; --json has all of them."""


def score(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="JSON Lines with scorer or task, options, expected and answer; or a run's folder.",
        ),
    ],
    data: DataOption = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print a JSON object a line.", rich_help_panel=OUTPUT),
    ] = False,
) -> None:
    """Show how each answer of a file or a run is judged, and by which rule.

    A verdict that stands in the file or the run already is compared. Exits with code 1 if a line
    could not be read.
    """
    if data is not None and not source.is_dir():
        raise ValueError(f"--data is for the folder of a run, and {source} is a file")
    judged = judge_run(Run.open(source), data) if source.is_dir() else judge_file(source)
    unreadable = print_json(judged) if as_json else print_lines(judged)
    if unreadable:
        raise typer.Exit(1)


def print_json(judged: Iterable[JudgedAnswer]) -> int:
    """Print an object for each answer; gives the number of lines that could not be read."""
    unreadable = 0
    for each in judged:
        verdict: dict[str, Any] = {"right": None, "rule": None, "reading": None}
        if each.verdict is not None:
            verdict = asdict(each.verdict)
        fields = asdict(each)
        del fields["verdict"]
        print(json_line({"label": fields.pop("label"), **verdict, **fields}))
        unreadable += each.error is not None
    return unreadable


def print_lines(judged: Iterable[JudgedAnswer]) -> int:
    """Print two lines for each answer; gives the number of lines that could not be read."""
    console = Console(highlight=False)
    counts: Counter[str] = Counter()
    for each in judged:
        if each.verdict is None:
            counts["unreadable"] += 1
            line = Text.assemble(("error", "red"), f"  {_plain(each.error or '')}")
            console.print(line, soft_wrap=True)
            continue
        right, recorded = each.verdict.right, each.recorded
        counts["right" if right else "wrong"] += 1
        head = Text.assemble(
            ("right", "green") if right else ("wrong", "red"),
            f"  {_plain(each.label)}, expected {_plain(_expected(each))}, "
            f"read {_plain(each.verdict.reading or 'nothing')}: {_plain(each.verdict.rule)}",
        )
        if recorded is not None:
            counts["recorded"] += 1
            if recorded != right:
                counts["other"] += 1
                head.append(f"; recorded as {'right' if recorded else 'wrong'}", "yellow")
        console.print(head, soft_wrap=True)
        console.print(Text(f"       {_plain(each.answer or 'no answer')}", "dim"), soft_wrap=True)
    console.print(
        f"{counts['right'] + counts['wrong']} answers: {counts['right']} right, "
        f"{counts['wrong']} wrong"
    )
    if counts["recorded"]:
        same = counts["recorded"] - counts["other"]
        console.print(f"{same} of {counts['recorded']} verdicts are as recorded")
    if counts["unreadable"]:
        console.print(f"{counts['unreadable']} could not be read", style="red")
    return counts["unreadable"]


def _expected(judged: JudgedAnswer) -> str:
    one = isinstance(judged.expected, str)
    return str(judged.expected) if one else " or ".join(judged.expected)


def _plain(text: str) -> str:
    """Bring what a model wrote into one line, without control characters."""
    line = " ".join(text.split())
    line = "".join(character if character.isprintable() else "\ufffd" for character in line)
    return line if len(line) <= _MAX_TEXT else f"{line[:_MAX_TEXT]}..."
