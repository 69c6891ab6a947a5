"""How steps, progress and errors look in a terminal."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from visreplay.agent.state import Step
from visreplay.replay_core.errors import ReplayError
from visreplay.tools.types import ToolError


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
    except (ToolError, ReplayError, OSError, ValueError, ImportError) as error:
        line = " ".join(str(error).split())
        console = Console(stderr=True, highlight=False)
        console.print(f"[red]error:[/] {escape(line)}", soft_wrap=True)
        raise typer.Exit(2) from error
