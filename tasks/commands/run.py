"""The command `visreplay run`: one question about one picture or clip."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from visreplay.agent import Trajectory, completed_steps
from visreplay.replay_core import Method
from visreplay.tasks.commands.console import print_step
from visreplay.tasks.commands.options import (
    VIDEO_SUFFIXES,
    EpisodeOptions,
    PairChoice,
    PairOptions,
    ReplayOptions,
    mistakes_told,
    with_options,
)


@with_options
def run(
    media: Annotated[Path, typer.Argument(help="A picture or a clip.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    pair: PairOptions,
    replay: ReplayOptions,
    episode: EpisodeOptions,
    method: Annotated[Method, typer.Option(help="How to replay.")] = Method.TOKEN,
    save: Annotated[
        Path | None, typer.Option(help="Folder for the trajectory and its images.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Ask one question about one picture or clip."""
    console = Console(stderr=as_json, highlight=False)
    with mistakes_told():
        checkpoints = PairChoice.of(pair.policy, pair.base, console)
        config = replay.config(checkpoints, method)
        is_video = media.suffix.lower() in VIDEO_SUFFIXES
        protocol = checkpoints.protocol(pair.protocol)
        agent = episode.agent(pair, checkpoints, config, protocol, save and save / "images")
        state = agent.start(
            question,
            images=[] if is_video else [media],
            video=media if is_video else None,
            seed=episode.seed,
        )
        for event in agent.stream(state):
            for step in completed_steps(event, state):
                print_step(console, step)
            state = event
        trajectory = agent.trajectory(state)
    if save:
        path = trajectory.save(save, agent.store)
        console.print(f"[dim]saved {path}[/]")
    if as_json:
        print(json.dumps(public_record(trajectory), ensure_ascii=False))
    else:
        verdict = trajectory.answer if trajectory.answer is not None else "no answer"
        console.print(f"[bold]{escape(verdict)}[/] [dim]({trajectory.stop_reason})[/]")


def public_record(trajectory: Trajectory) -> dict[str, Any]:
    """What `--json` prints: the record without the conversation's tokens."""
    record = trajectory.to_json()
    fields = ("answer", "stop_reason", "policy", "base", "protocol", "seed", "steps", "settings")
    return {name: record[name] for name in fields}
