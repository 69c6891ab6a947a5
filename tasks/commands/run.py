"""The command `visreplay run`: one question about one image or video."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

import visreplay.agent as agents
from visreplay.agent.episode.trajectory import Trajectory
from visreplay.agent.protocols import Recipe
from visreplay.replay_core.config import ReplayConfig
from visreplay.tasks.commands.console import Console, json_line, print_step
from visreplay.tasks.commands.engine_options import EngineOptions
from visreplay.tasks.commands.option_groups import with_options
from visreplay.tasks.commands.options import (
    OUTPUT,
    EndpointOptions,
    EpisodeOptions,
    LargestOption,
    PairOptions,
    largest,
)
from visreplay.tasks.commands.remote_choice import choose_policy
from visreplay.tasks.commands.settings import Overrides
from visreplay.tools import load_image, media_kind


@with_options
def run(
    media: Annotated[Path, typer.Argument(help="An image or video file.")],
    question: Annotated[str, typer.Argument(help="The question about it.")],
    pair: PairOptions,
    replay: Overrides[ReplayConfig],
    episode: EpisodeOptions,
    endpoint: EndpointOptions,
    engine: EngineOptions,
    max_megapixels: LargestOption = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Folder for the trajectory and its images.", rich_help_panel=OUTPUT),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print one JSON object and nothing else.", rich_help_panel=OUTPUT
        ),
    ] = False,
) -> None:
    """Ask a question about an image or a video, and print each step of the episode.

    Which of the two a file is, its content says, and not its name.
    """
    console = Console(stderr=as_json, highlight=False)
    check_text(question)
    is_video = media_kind(media) == "video"
    choice = choose_policy(pair, endpoint, console)
    config = choice.config(replay.values)
    recipe = episode.worded(choice.recipe)
    if note := missing_texts(recipe):
        console.print(note, style="dim", markup=False, soft_wrap=True)
    with engine.writer(choice, config) as writer:
        visual_agent = choice.agent(
            config,
            recipe,
            episode.sampling.build(),
            episode.limits.build(),
            save and save / "images",
            writer,
        )
        state = visual_agent.start(
            question,
            images=[] if is_video else [load_image(media, max_pixels=largest(max_megapixels))],
            video=media if is_video else None,
            seed=episode.seed,
        )
        for event in visual_agent.stream(state):
            for step in agents.completed_steps(event, state):
                print_step(console, step)
            state = event
        trajectory = visual_agent.trajectory(state)
        if save:
            path = trajectory.save(save, visual_agent.store)
            console.print(f"[dim]saved {escape(str(path))}[/]", soft_wrap=True)
    if as_json:
        print(json_line(public_record(trajectory)))
    else:
        verdict = trajectory.answer if trajectory.answer is not None else "no answer"
        console.print(f"[bold]{escape(verdict)}[/] [dim]({trajectory.stop_reason})[/]")


def check_text(question: str) -> None:
    """Refuse a question whose bytes are no UTF-8: Python keeps such bytes as halves of pairs.

    Raises:
        ValueError: It is none.
    """
    try:
        question.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the question {question[:80]!a} is not UTF-8 at character {error.start + 1}: "
            "write it in UTF-8"
        ) from error


def missing_texts(recipe: Recipe) -> str | None:
    """Say which texts of the checkpoint's training are not there, and where to find them."""
    if not recipe.expects:
        return None
    *others, last = recipe.expects
    names = f"{', '.join(others)} and {last}" if others else last
    return (
        f"The recipe {recipe.name} has words of its own for texts that the checkpoint was trained "
        f"with ({names}): give them by --recipe; docs/guides/protocols.md says where they are."
    )


def public_record(trajectory: Trajectory) -> dict[str, Any]:
    """Build what `--json` prints: the record without the conversation's tokens."""
    record = trajectory.to_json()
    fields = ("answer", "stop_reason", "policy", "base", "protocol", "seed", "steps", "settings")
    return {name: record[name] for name in fields}
