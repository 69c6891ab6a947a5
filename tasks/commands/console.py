"""How steps, progress and errors look in a terminal.

Texts of data files and models are printed as text: what would steer the terminal is spelled out.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.console
import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from visreplay.agent.state import Step
from visreplay.replay_core.errors import ReplayError
from visreplay.tools.types import ToolError

if TYPE_CHECKING:
    from visreplay.tasks.evaluation.runs import Run

UNPRINTABLE = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f"  # controls: ESC begins a sequence that steers the terminal
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that turn the order of letters around
    "\ud800-\udfff]"  # surrogates: halves of characters, which UTF-8 does not have
)
"""Characters of which a terminal would do something else than show them."""


class Console(rich.console.Console):
    """A console that shows every character of a text, and obeys none.

    Every command prints through it; styles and progress bars are rich's own.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"emoji": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string, any string that is printed, to what is rendered."""
        return super().render_str(printable(text), **options)


def printable(text: str) -> str:
    """Spell out the characters of which a terminal would do something else than show them."""

    def spell(match: re.Match[str]) -> str:
        code = ord(match[0])
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"

    return UNPRINTABLE.sub(spell, text.replace("\r\n", "\n"))


def json_line(value: object) -> str:
    """Write JSON in one line that a terminal may be shown: `printable`, in JSON's own way."""
    return UNPRINTABLE.sub(
        lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False)
    )


def print_damage(console: Console, runs: "Sequence[Run]") -> None:
    """Print what is damaged in the files of runs."""
    from visreplay.tasks.evaluation.runs import damage

    for run in runs:
        for line in damage(run):
            console.print(line, style="yellow", markup=False, soft_wrap=True)


def print_step(console: Console, step: Step, paths: Sequence[Path] = ()) -> None:
    """Print one step: its thought, calls, observations, replay and time.

    Args:
        console: Where to print it.
        step: A completed step.
        paths: Files of its observations' images, in order.
    """
    console.print(f"[bold]step {step['index'] + 1}[/]   {replay_line(step)}", soft_wrap=True)
    rows = [("thought", step["thought"] or "-")]
    files = iter(paths)
    for use in step["tool_calls"]:
        rows.append(("call", f"{use['name']} {json.dumps(use['arguments'])}"))
        if use["error"] is not None:
            rows.append(("error", use["error"]))
        elif use["observation"] is not None:
            rows.append(("result", use["observation"]["text"]))
            rows += [("", str(path)) for path in islice(files, len(use["observation"]["images"]))]
    if step["error"] is not None:
        rows.append(("error", step["error"]))
    for name, value in rows:
        # What a model wrote is text, never markup.
        console.print(f"  {name:8} {value}", markup=False, soft_wrap=True)


def replay_line(step: Step) -> str:
    """Describe in a line what replay did in a step."""
    replay = step["replay"]
    took = f"{step['seconds']:.2f} s"
    if replay is None:
        return f"no replay, {took}"
    if not replay["new_visual_tokens"]:
        return f"no new visual tokens, {took}"
    line = f"{replay['method']} replay over {replay['new_visual_tokens']} new visual tokens: "
    if replay["kl_before"] is None:
        return line + f"no low-entropy position, {took}"
    line += f"KL {replay['kl_before']:.4f} -> {replay['kl_after']:.4f} nats"
    if replay["optimisation_steps"]:
        line += f" in {replay['optimisation_steps']} steps"
    return f"{line}, {replay['seconds']:.2f} s of {took}"


def progress_bar(console: Console) -> Progress:
    """A progress bar with counts and the time that remains."""
    return Progress(
        TextColumn("{task.description:34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Print an error that the user can mend in one line, without a traceback; exit with code 2."""
    try:
        yield
    except BrokenPipeError:  # `visreplay tasks | head`
        raise
    except (ToolError, ReplayError, OSError, ValueError, ImportError, RecursionError) as error:
        line = " ".join(str(error).split())
        console = Console(stderr=True, highlight=False)
        console.print(f"[red]error:[/] {escape(line)}", soft_wrap=True)
        raise typer.Exit(2) from error
