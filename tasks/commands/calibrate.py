"""The command `visreplay calibrate`: entropy limits for state replay, from sample inputs."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

import visreplay.replay_core as replay_core
from visreplay.replay_core.config import Method
from visreplay.tasks.commands.console import Console, progress_bar
from visreplay.tasks.commands.option_groups import with_options
from visreplay.tasks.commands.options import OUTPUT, PairOptions
from visreplay.tasks.commands.pair_choice import PairChoice
from visreplay.tasks.registry import SYNTHETIC_TASKS, get_task
from visreplay.tasks.types import Sample, Split, ids_of
from visreplay.tools import load_image, media_kind

if TYPE_CHECKING:
    from visreplay.replay_core import Calibration

CALIBRATION = "Calibration"
TASKS = ", ".join(SYNTHETIC_TASKS)


@with_options
def calibrate(
    inputs: Annotated[
        list[str],
        typer.Argument(help=f"Image and video files, or names of tasks: {TASKS}."),
    ],
    pair: PairOptions,
    layers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Decoder layers of state replay. Default: 7; 2 for the embedded pair.",
            rich_help_panel=CALIBRATION,
        ),
    ] = None,
    quantile: Annotated[
        float,
        typer.Option(
            help="Share of the visual tokens below the limits, in (0, 1].",
            rich_help_panel=CALIBRATION,
        ),
    ] = 0.4,
    samples: Annotated[
        int,
        typer.Option(min=1, help="Number of samples of each task.", rich_help_panel=CALIBRATION),
    ] = 100,
    out: Annotated[Path, typer.Option(help="File for the limits.", rich_help_panel=OUTPUT)] = Path(
        "theta.json"
    ),
) -> None:
    """Derive the limits (nats per layer) of state replay's absolute threshold.

    They are quantiles of the base's entropies at the visual tokens of the inputs, for use with
    `visreplay run --replay state --theta FILE`. The policy is not loaded: its name chooses the
    protocol.
    """
    from visreplay.tasks.analysis.prompt import Prompt

    console = Console(highlight=False)
    choice = PairChoice.of(replace(pair, policy=pair.policy or pair.base), console)
    if pair.policy is not None and choice.base is None:
        raise ValueError("the base is measured: name it with --base")
    count = sum(1 if is_file(name) else samples for name in inputs)
    models = choice.load_base()
    layers = layers or choice.config({"method": Method.STATE}).state_layers
    with progress_bar(console) as progress:
        bar = progress.track(read(inputs, samples), total=count, description="base entropies")
        segments = (Prompt.of(sample, choice.recipe, models).segment for sample in bar)
        measured = replay_core.calibrate(models, segments, layers=layers, quantile=quantile)
    content = {
        **asdict(measured),
        "layers": layers,
        "positions": "visual tokens",
        "policy": choice.names[0] if choice.embedded else pair.policy,
        "base": choice.names[1],
        "protocol": choice.recipe.protocol,
        "dtype": pair.dtype,
        "inputs": inputs,
        "samples": count,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1), "utf-8")
    console.print(_table(measured, count))
    console.print(f"limits  {out}", markup=False, soft_wrap=True)


def is_file(name: str) -> bool:
    """Tell whether an input is a file; otherwise it is a task.

    Raises:
        ValueError: It is neither.
    """
    if Path(name).is_file():
        return True
    if name in SYNTHETIC_TASKS:
        return False
    raise ValueError(f"{name!r} is neither a file nor one of the tasks {TASKS}")


def read(inputs: Sequence[str], samples: int) -> Iterator[Sample]:
    """Read the samples of all inputs, one at a time; a file is one sample without a question.

    Tasks are sampled from the tuning split: limits are settings, and settings must not be chosen
    on the samples that are then evaluated.
    """
    for name in inputs:
        path = Path(name)
        if not is_file(name):
            seeds = range(Split.TUNING, Split.TUNING + samples)
            yield from map(get_task(name).load, ids_of(name, seeds))
        elif media_kind(path) == "video":
            yield Sample(sample_id=name, question="", answer="", video=path)
        else:
            yield Sample(sample_id=name, question="", answer="", images=(load_image(path),))


def _table(measured: "Calibration", inputs: int) -> Table:
    """Lay out the statistics and the limit of each layer."""
    table = Table(
        title=f"base entropy in nats at {measured.count} visual tokens of {inputs} inputs"
    )
    for heading in ("layer", *measured.statistics[0], f"theta (q = {measured.quantile:g})"):
        table.add_column(heading, justify="right")
    rows = zip(measured.statistics, measured.theta, strict=True)
    for layer, (statistics, limit) in enumerate(rows):
        cells = [f"{value:.3f}" for value in (*statistics.values(), limit)]
        table.add_row(str(layer), *cells)
    return table
