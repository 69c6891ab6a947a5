"""The command `visreplay`."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from transformers.utils import logging

from visreplay.agent import Limits, Sampling, Trajectory, VisualAgent, completed
from visreplay.agent.protocols import PROTOCOLS
from visreplay.replay_core import (
    EMBEDDED,
    EMBEDDED_NAMES,
    Method,
    ReplayConfig,
    ReplayError,
    Threshold,
    embedded_config,
)
from visreplay.tasks.console import print_step
from visreplay.tools import ImageStore, ToolError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
VIDEO_SUFFIXES = {".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".gif"}

Protocols = StrEnum("Protocols", {name: name for name in ("auto", *PROTOCOLS)})  # type: ignore[misc]


class Optimizer(StrEnum):
    """Of token replay."""

    SGD = "sgd"
    ADAM = "adam"


@app.callback()
def callback() -> None:
    """Agents that think with images, steered by Activation Replay."""


@app.command()
def run(
    media: Annotated[Path, typer.Argument(help="A picture or a clip.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    policy: Annotated[
        str | None, typer.Option(help="Policy: local path or hub id. Default: the embedded pair.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The model that the policy was trained from.")
    ] = None,
    protocol: Annotated[
        Protocols, typer.Option(help="Dialect of the policy; auto goes by its name and the media.")
    ] = Protocols["auto"],
    method: Annotated[Method, typer.Option(help="How to replay.")] = Method.TOKEN,
    replay_layers: Annotated[int | None, typer.Option(help="L of token replay.")] = None,
    state_layers: Annotated[int | None, typer.Option(help="Layers of state replay.")] = None,
    threshold: Annotated[
        Threshold | None, typer.Option(help="Rule of the low-entropy set.")
    ] = None,
    tau: Annotated[float | None, typer.Option(help="Of the rule.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimisation steps of token replay.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of token replay.")] = None,
    optimizer: Annotated[Optimizer | None, typer.Option(help="Of token replay.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    processor: Annotated[
        str | None,
        typer.Option(help="Processor for both, where theirs differ: local path or hub id."),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Policy turns at most.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of a turn at most.")] = 2048,
    temperature: Annotated[float, typer.Option(min=0, help="0 decodes greedily.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of sampling.")] = 0,
    system_prompt: Annotated[
        Path | None, typer.Option(exists=True, help="File: the checkpoint's own system prompt.")
    ] = None,
    user_suffix: Annotated[
        Path | None,
        typer.Option(exists=True, help="File: what the checkpoint expects after a question."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Folder for the trajectory and its images.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Ask one question about one picture or clip."""
    console = Console(stderr=as_json, highlight=False)
    logging.set_verbosity_error()
    embedded = policy is None
    if policy is None:
        logging.disable_progress_bar()
        policy, base = str(EMBEDDED / "policy"), base or str(EMBEDDED / "base")
        console.print(
            "[dim]No --policy: using the embedded pair, a tiny model that knows only its "
            "two generated tasks.[/]"
        )
    replay: dict[str, Any] = {
        "replay_layers": replay_layers,
        "state_layers": state_layers,
        "threshold": threshold,
        "tau": tau,
        "steps": steps,
        "learning_rate": learning_rate,
        "optimizer": optimizer,
    }
    given = {name: value for name, value in replay.items() if value is not None}
    try:
        config = embedded_config(method, **given) if embedded else ReplayConfig(method, **given)
        is_video = media.suffix.lower() in VIDEO_SUFFIXES
        agent = VisualAgent.from_pretrained(
            policy,
            base,
            protocol=choose_protocol(protocol.value, policy, embedded, is_video),
            config=config,
            device=device,
            dtype=dtype,
            processor=processor,
            store=ImageStore(save / "images") if save else None,
            protocol_options={
                name: path.read_text("utf-8")
                for name, path in (("system_prompt", system_prompt), ("user_suffix", user_suffix))
                if path
            },
            sampling=Sampling(temperature, max_new_tokens=max_new_tokens),
            limits=Limits(max_steps),
            **({"names": EMBEDDED_NAMES} if embedded else {}),
        )
        state = agent.start(
            question,
            images=[] if is_video else [media],
            video=media if is_video else None,
            seed=seed,
        )
        for event in agent.stream(state):
            for step in completed(event, state):
                print_step(console, step)
            state = event
        trajectory = agent.trajectory(state)
    except (ToolError, ReplayError, OSError, ValueError) as error:
        Console(stderr=True, highlight=False).print(f"[red]error:[/] {escape(str(error))}")
        raise typer.Exit(2) from error
    if save:
        path = trajectory.save(save, agent.store)
        console.print(f"[dim]saved {path}[/]")
    if as_json:
        print(json.dumps(public_record(trajectory), ensure_ascii=False))
    else:
        verdict = trajectory.answer if trajectory.answer is not None else "no answer"
        console.print(f"[bold]{escape(verdict)}[/] [dim]({trajectory.stop_reason})[/]")


def choose_protocol(asked: str, policy: str, embedded: bool, is_video: bool) -> str:
    """The protocol to speak: as asked, or by the policy's name, or else by the media."""
    if asked != "auto":
        return asked
    if embedded:
        return "embedded"
    named = [name for name in PROTOCOLS if name in Path(policy).name.casefold()]
    if named:
        return named[0]
    return "video-r1" if is_video else "deepeyes"


def public_record(trajectory: Trajectory) -> dict[str, Any]:
    """What `--json` prints: the record without the conversation's tokens."""
    record = trajectory.to_json()
    fields = ("answer", "stop_reason", "policy", "base", "protocol", "seed", "steps", "settings")
    return {name: record[name] for name in fields}


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the page and the numbers go.")] = Path(
        "runs/demo"
    ),
    samples: Annotated[int, typer.Option(min=1, help="Held-out samples a task.")] = 50,
) -> None:
    """Run the main job on the embedded pair: two episodes, a table, a page."""
    from visreplay.tasks.demo import run_demo

    run_demo(out, samples)


def main() -> None:
    """Entry point of the command."""
    app()
