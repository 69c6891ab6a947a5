"""The command `visreplay calibrate`: entropy limits for state replay, from sample inputs."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from visreplay.agent.episode.embedded_agent import prepare_process
from visreplay.replay_core import Calibration, Method, load_pair
from visreplay.replay_core import calibrate as measure
from visreplay.tasks.analysis.prompt import Prompt
from visreplay.tasks.commands.console import progress_bar
from visreplay.tasks.commands.options import (
    VIDEO_SUFFIXES,
    PairChoice,
    PairOptions,
    mistakes_told,
    with_options,
)
from visreplay.tasks.registry import SYNTHETIC_TASKS, get_task
from visreplay.tasks.types import Sample, Split, ids_of
from visreplay.tools import load_image

TASKS = ", ".join(SYNTHETIC_TASKS)


@with_options
def calibrate(
    inputs: Annotated[
        list[str],
        typer.Argument(help=f"Pictures and clips, or a task: {TASKS}."),
    ],
    options: PairOptions,
    layers: Annotated[
        int | None,
        typer.Option(min=1, help="Layers of state replay: 7, or 2 of the embedded pair."),
    ] = None,
    quantile: Annotated[
        float, typer.Option(help="Share of the visual tokens below the limits, in (0, 1].")
    ] = 0.4,
    samples: Annotated[int, typer.Option(min=1, help="Samples of every task.")] = 100,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("theta.json"),
) -> None:
    """Derive the limits (nats per layer) of state replay's absolute threshold.

    They are quantiles of the base's entropies at the visual tokens of the inputs; for use with
    `visreplay run --method state --theta FILE`. The policy is not loaded: its name chooses the
    protocol.
    """
    console = Console(highlight=False)
    with mistakes_told():
        policy, base = options.policy, options.base
        if policy is not None and base is None:
            raise ValueError("the base is what is measured: name it with --base")
        names = PairChoice.of(policy or base, base, console)
        if names.embedded:
            prepare_process()
        count = sum(1 if is_file(name) else samples for name in inputs)
        pair = load_pair(
            names.base or names.policy,
            None,
            device=options.base_device or options.device,
            dtype=options.dtype,
            processor=options.processor or names.policy,
        )
        layers = layers or names.config(Method.STATE).state_layers
        with progress_bar(console) as progress:
            bar = progress.track(read(inputs, samples), total=count, description="base entropies")
            segments = (
                Prompt.of(sample, names.protocol(options.protocol), pair).segment for sample in bar
            )
            measured = measure(pair, segments, layers=layers, quantile=quantile)
        content = {
            **asdict(measured),
            "layers": layers,
            "positions": "visual tokens",
            "policy": names.names[0] if names.embedded else policy,
            "base": names.names[1],
            "protocol": options.protocol.value,
            "dtype": options.dtype,
            "inputs": inputs,
            "samples": count,
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(content, indent=1), "utf-8")
    console.print(_table(measured, count))
    console.print(f"limits  {out}", soft_wrap=True)


def is_file(name: str) -> bool:
    """Whether an input is a file, rather than a task.

    Raises:
        ValueError: it is neither.
    """
    if Path(name).is_file():
        return True
    if name in SYNTHETIC_TASKS:
        return False
    raise ValueError(f"{name!r} is neither a file nor one of the tasks {TASKS}")


def read(inputs: Sequence[str], samples: int) -> Iterator[Sample]:
    """The samples of all inputs, one at a time: of a file one, without a question.

    Tasks are sampled from the tuning split: limits are settings, and settings are not to be
    chosen on what is then evaluated.
    """
    for name in inputs:
        path = Path(name)
        if not is_file(name):
            seeds = range(Split.TUNING, Split.TUNING + samples)
            yield from map(get_task(name).load, ids_of(name, seeds))
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            yield Sample(sample_id=name, question="", answer="", video=path)
        else:
            yield Sample(sample_id=name, question="", answer="", images=(load_image(path),))


def _table(measured: Calibration, inputs: int) -> Table:
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
