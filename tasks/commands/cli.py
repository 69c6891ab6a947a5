"""The command `visreplay`. Each command's module is imported when that command runs."""

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from visreplay import __version__


@dataclass(frozen=True)
class Entry:
    """A line of `visreplay --help`.

    Attributes:
        name: Name of the command.
        panel: Heading that it stands below.
        summary: What it does.
        function: Module in this folder and function, as "module:function".
    """

    name: str
    panel: str
    summary: str
    function: str


START = "First steps"
EVALUATION = "Evaluation"
ANALYSIS = "Analysis"
SERVERS = "Servers"
SETUP = "Set-up"

ENTRIES = (
    Entry("run", START, "Ask a question about an image or a video.", "run:run"),
    Entry("demo", START, "Show everything on the embedded pair, in some minutes.", "demo:demo"),
    Entry("tasks", EVALUATION, "List the tasks for eval and analyze.", "tasks:tasks"),
    Entry("eval", EVALUATION, "Evaluate an agent on a task.", "eval:evaluation"),
    Entry("table", EVALUATION, "Print runs beside the paper's figures.", "table:table"),
    Entry("compare", EVALUATION, "Compare two runs sample by sample.", "compare:compare"),
    Entry("view", EVALUATION, "Show runs on one HTML page.", "view:view"),
    Entry("export", EVALUATION, "Write a run for Inspect or VLMEvalKit.", "export:export"),
    Entry("analyze", ANALYSIS, "Measure how training moved the visual tokens.", "analyze:analyze"),
    Entry("calibrate", ANALYSIS, "Derive entropy limits for state replay.", "calibrate:calibrate"),
    Entry("serve", SERVERS, "Serve chat completions to OpenAI's clients.", "serve:serve"),
    Entry("mcp", SERVERS, "Serve the visual tools to MCP clients.", "mcp:mcp"),
    Entry("doctor", SETUP, "Check this installation.", "doctor:doctor"),
)


class Command(TyperCommand):
    """A command whose mistakes are printed in one line."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        from visreplay.tasks.commands.console import errors_in_one_line

        with errors_in_one_line():
            return super().invoke(ctx)


class LazyCommand(TyperCommand):
    """A command that stands for one whose module is not imported yet."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.name, help=entry.summary, rich_help_panel=entry.panel)
        self._function = entry.function

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Import the command's module and go on with the command itself."""
        alone = typer.Typer(add_completion=False)
        function = resolve_name(f"visreplay.tasks.commands.{self._function}")
        alone.command(self.name, cls=Command)(function)
        return get_command(alone).make_context(*args, **options)


class Group(TyperGroup):
    """The commands by name."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {entry.name: LazyCommand(entry) for entry in ENTRIES}


app = typer.Typer(cls=Group, add_completion=False, no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"visreplay {__version__}")
        raise typer.Exit


@app.callback()
def visreplay(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Agents that think with images, steered by Activation Replay (arXiv 2511.19972)."""


def main() -> None:
    """Run the command line."""
    app()
