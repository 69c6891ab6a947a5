"""The command `visreplay analyze`: what RLVR did to the visual tokens, before and after replay.

One result a sample goes into `records.jsonl`; `report.json` and the pictures are made of them.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from visreplay.agent.episode.embedded_agent import prepare_process
from visreplay.agent.episode.visual_agent import versions
from visreplay.replay_core import Method, ReplayConfig, load_pair
from visreplay.tasks.analysis.prompt import Prompt
from visreplay.tasks.analysis.shifts import PLAIN, measure_shifts, summarise_shifts, verdict
from visreplay.tasks.commands.console import progress_bar
from visreplay.tasks.commands.options import (
    PairChoice,
    PairOptions,
    ReplayOptions,
    mistakes_told,
    with_options,
)
from visreplay.tasks.evaluation.journal import Journal
from visreplay.tasks.registry import get_task

MAPS = 3
"""The first so many samples are shown as pictures."""


@with_options
def analyze(
    task: Annotated[str, typer.Argument(help="One of `visreplay tasks`.")],
    options: PairOptions,
    replay: ReplayOptions,
    method: Annotated[
        list[Method] | None,
        typer.Option(help="How to replay; may be given twice. Default: token and state."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The task's file, where it has one.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="The first so many samples.")] = 100,
    layer: Annotated[
        int | None,
        typer.Option(min=0, help="To show on pictures. Default: the last replayed, or 0."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results. Default: runs/analyze/TASK.")
    ] = None,
) -> None:
    """Measure KL(base || policy) by layer and base entropy, before and after replay.

    What is looked at are the visual tokens of the first turn's context. A run that was stopped
    goes on where it was.
    """
    console = Console(highlight=False)
    with mistakes_told(), ExitStack() as stack:
        plots = _plots()
        source = get_task(task, data)
        names = PairChoice.of(options.policy, options.base, console)
        if names.base is None:
            raise ValueError("the policy is compared with its base: name it with --base")
        if names.embedded:
            prepare_process()
        configs = {PLAIN: ReplayConfig(Method.NONE)}
        for each in method or (Method.TOKEN, Method.STATE):
            if each is not Method.NONE:
                configs[f"{PLAIN}+{each}"] = replay.config(names, each)
        out = out or Path("runs/analyze") / task
        # Neither the device nor the number of samples: a run may be moved, and lengthened.
        settings = {
            "task": task,
            "data": data and str(data),
            "policy": names.names[0],
            "base": names.names[1],
            "processor": options.processor,
            "protocol": options.protocol.value,
            "dtype": options.dtype,
            "replay": {name: asdict(config) for name, config in configs.items()},
            "versions": versions(),
        }
        journal = stack.enter_context(Journal(out / "records.jsonl", settings))
        pair = load_pair(
            names.policy,
            names.base,
            device=options.device,
            base_device=options.base_device,
            dtype=options.dtype,
            processor=options.processor,
        )
        depth = min(pair.policy.depth, pair.base.depth if pair.base else 0)
        if layer is None:
            layer = min(max(config.depth for config in configs.values()) or 1, depth) - 1
        if not 0 <= layer < depth:
            raise ValueError(f"--layer is {layer}, but the pair has layers 0 to {depth - 1}")

        def prompt(sample_id: str) -> Prompt:
            sample = source.load(sample_id)
            dialect = names.protocol(options.protocol)
            return Prompt.of(sample, dialect, pair)

        ids = source.sample_ids()[:samples]
        with progress_bar(console) as progress:
            for number, sample_id in enumerate(progress.track(ids, description=task)):
                if sample_id not in journal.results:
                    result = measure_shifts(pair, prompt(sample_id), configs, maps=number < MAPS)
                    journal.add(sample_id, result)
        results = [journal.results[sample_id] for sample_id in ids]
        report = {"settings": settings, **summarise_shifts(results, pair.policy.head.out_features)}
        (out / "report.json").write_text(json.dumps(report, indent=1), "utf-8")
        maps = [
            (prompt(sample_id).pictures[0], result["maps"][0])
            for sample_id, result in zip(ids[:MAPS], results, strict=False)
        ]
        files = plots.draw_plots(report, maps, layer, out)
    console.print(_table(report))
    console.print(verdict(report))
    for path in (out / "report.json", *files):
        console.print(str(path), soft_wrap=True)


def _plots() -> ModuleType:
    """The module that draws.

    Raises:
        ImportError: matplotlib is not installed; says how to.
    """
    try:
        from visreplay.tasks.analysis import plots
    except ImportError as error:
        raise ImportError(
            f"the plots need matplotlib ({error}): pip install 'visreplay[analysis]'"
        ) from error
    return plots


def _table(report: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"KL(base || policy) in nats at {report['visual_tokens']} visual tokens of "
        f"{report['n']} samples (95 % intervals)\nlowest and highest: quarters by base entropy; "
        "changed: another top entry than the base's",
        box=box.SIMPLE,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading in ("system", "layer", "lowest", "highest", "lowest - highest", "changed"):
        table.add_column(heading)
    for name, system in report["systems"].items():
        difference = system["kl_lowest_minus_highest"]
        for layer in range(report["layers"]):
            lowest, *_, highest = system["kl"]["mean"][layer]
            mean, low, high = (difference[key][layer] for key in ("mean", "low", "high"))
            table.add_row(
                name,
                str(layer),
                f"{lowest:.5f}",
                f"{highest:.5f}",
                f"{mean:.5f} ({low:.5f}, {high:.5f})",
                f"{100 * system['changed_of_all']['mean'][layer]:.1f} %",
            )
        table.add_section()
    return table
