"""The command `visreplay`. Each command's module is imported when that command runs."""

from dataclasses import dataclass
from importlib.metadata import version
from inspect import getdoc
from pkgutil import resolve_name
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


@dataclass(frozen=True)
class CommandInfo:
    """A line of `visreplay --help`.

    Attributes:
        name: Name of the command, and of its module in this folder.
        panel: Heading above the command.
        summary: What the command does; the function's docstring says more.
        function: Name of the function in the module; None takes the command's name.
    """

    name: str
    panel: str
    summary: str
    function: str | None = None


START = "First steps"
EVALUATION = "Evaluation"
ANALYSIS = "Analysis"
CHECKPOINTS = "Checkpoints"
SERVERS = "Servers"
SETUP = "Set-up"

COMMANDS = (
    CommandInfo("run", START, "Ask a question about an image or a video."),
    CommandInfo("demo", START, "Try the embedded pair: two episodes, tables and a page."),
    CommandInfo("tasks", EVALUATION, "List the tasks for eval and analyze."),
    CommandInfo("eval", EVALUATION, "Evaluate an agent on a task.", "evaluation"),
    CommandInfo("score", EVALUATION, "Show how answers are judged, and by which rule."),
    CommandInfo("table", EVALUATION, "Print runs beside the paper's figures."),
    CommandInfo("paper", EVALUATION, "Print the paper's own figures."),
    CommandInfo("compare", EVALUATION, "Compare two runs sample by sample."),
    CommandInfo("view", EVALUATION, "Show runs on one HTML page."),
    CommandInfo("export", EVALUATION, "Write a run for Inspect or VLMEvalKit."),
    CommandInfo("analyze", ANALYSIS, "Measure how training moved a prompt's tokens."),
    CommandInfo("diagnose", ANALYSIS, "Find out whether replay can help a pair."),
    CommandInfo("perturb", ANALYSIS, "Measure answers under noise on visual tokens."),
    CommandInfo("calibrate", ANALYSIS, "Derive entropy limits for state replay."),
    CommandInfo("graft", CHECKPOINTS, "Put a base's first layers under a policy."),
    CommandInfo("merge", CHECKPOINTS, "Write the weighted mean of base and policy."),
    CommandInfo("serve", SERVERS, "Serve chat completions to OpenAI's clients."),
    CommandInfo("mcp", SERVERS, "Serve the visual tools to MCP clients."),
    CommandInfo("doctor", SETUP, "Check this installation."),
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

    def __init__(self, info: CommandInfo) -> None:
        super().__init__(info.name, help=info.summary, rich_help_panel=info.panel)
        self._function = f"visreplay.tasks.commands.{info.name}:{info.function or info.name}"

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Import the command's module and go on with the command itself."""
        alone = typer.Typer(add_completion=False)
        function = resolve_name(self._function)
        # Typer would keep the docstring's own line breaks.
        paragraphs = (getdoc(function) or "").split("\n\n")
        help_text = "\n\n".join(each.replace("\n", " ") for each in paragraphs)
        alone.command(self.name, cls=Command, help=help_text)(function)
        return get_command(alone).make_context(*args, **options)


class Group(TyperGroup):
    """The commands by name."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {info.name: LazyCommand(info) for info in COMMANDS}


app = typer.Typer(cls=Group, add_completion=False, no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"visreplay {version('visreplay')}")
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
