"""The command `visreplay analyze`: what training did to the visual tokens, before and after replay.

Each sample's result is a line of `records.jsonl`; `report.json` and the figures are made from it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from visreplay.replay_core.config import Method, ReplayConfig
from visreplay.tasks.commands.console import progress_bar
from visreplay.tasks.commands.option_groups import with_options
from visreplay.tasks.commands.options import OUTPUT, TASK, DataOption, PairOptions
from visreplay.tasks.commands.pair_choice import PairChoice
from visreplay.tasks.commands.settings import PANELS, Overrides
from visreplay.tasks.evaluation.journal import Journal
from visreplay.tasks.registry import get_task

MAPS = 3
"""Number of samples, from the first, that are drawn as figures."""


@with_options
def analyze(
    task: Annotated[str, typer.Argument(help="Name of a task: see `visreplay tasks`.")],
    pair: PairOptions,
    settings: Overrides[ReplayConfig],
    replay: Annotated[
        list[Method] | None,
        typer.Option(
            help="Replay method; may be given twice. Default: token and state.",
            rich_help_panel=PANELS[ReplayConfig],
        ),
    ] = None,
    data: DataOption = None,
    samples: Annotated[
        int, typer.Option(min=1, help="Number of samples, from the first.", rich_help_panel=TASK)
    ] = 100,
    layer: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Decoder layer that the figures show. Default: the last replayed one, or 0.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the results. Default: runs/analyze/TASK.", rich_help_panel=OUTPUT
        ),
    ] = None,
) -> None:
    """Measure KL(base || policy) by layer and base entropy, before and after replay.

    The measurements are taken at the visual tokens of the first turn's context. The same command
    again resumes a run that was stopped.
    """
    from visreplay.agent.episode.visual_agent import versions
    from visreplay.tasks.analysis.prompt import Prompt
    from visreplay.tasks.analysis.shifts import PLAIN, measure_shifts, summarise_shifts, verdict

    console = Console(highlight=False)
    plots = _plots()
    source = get_task(task, data)
    choice = PairChoice.of(pair, console)
    if choice.base is None:
        raise ValueError("the policy is compared with its base: name it with --base")
    configs = {PLAIN: ReplayConfig(Method.NONE)}
    for method in replay or (Method.TOKEN, Method.STATE):
        if method is not Method.NONE:
            configs[f"{PLAIN}+{method}"] = choice.config({**settings.values, "method": method})
    out = out or Path("runs/analyze") / task
    # Neither the device nor the number of samples: a run may be moved, and lengthened.
    run_settings = {
        "task": task,
        "data": data and str(data),
        "policy": choice.names[0],
        "base": choice.names[1],
        "processor": pair.processor,
        "recipe": choice.recipe.to_table(),
        "dtype": pair.dtype,
        "replay": {name: asdict(config) for name, config in configs.items()},
        "versions": versions(),
    }
    with Journal(out / "records.jsonl", run_settings) as journal:
        models = choice.load()
        depth = min(models.policy.depth, models.base.depth if models.base else 0)
        if layer is None:
            layer = min(max(config.depth for config in configs.values()) or 1, depth) - 1
        if not 0 <= layer < depth:
            raise ValueError(f"--layer is {layer}, but the pair has layers 0 to {depth - 1}")

        def prompt(sample_id: str) -> Prompt:
            return Prompt.of(source.load(sample_id), choice.recipe, models)

        ids = source.sample_ids()[:samples]
        with progress_bar(console) as progress:
            for number, sample_id in enumerate(progress.track(ids, description=task)):
                if sample_id not in journal.results:
                    result = measure_shifts(models, prompt(sample_id), configs, maps=number < MAPS)
                    journal.add(sample_id, result)
        results = [journal.results[sample_id] for sample_id in ids]
        vocabulary = models.policy.head.out_features
        report = {"settings": run_settings, **summarise_shifts(results, vocabulary)}
        (out / "report.json").write_text(json.dumps(report, indent=1), "utf-8")
        maps = [
            (prompt(sample_id).pictures[0], result["maps"][0])
            for sample_id, result in zip(ids[:MAPS], results, strict=False)
        ]
        files = plots.draw_plots(report, maps, layer, out)
    console.print(_table(report))
    console.print(verdict(report))
    for path in (out / "report.json", *files):
        console.print(str(path), markup=False, soft_wrap=True)


def _plots() -> ModuleType:
    """Import the module that draws.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from visreplay.tasks.analysis import plots
    except ImportError as error:
        raise ImportError(
            f"the plots need matplotlib ({error}): pip install 'visreplay[analysis]'"
        ) from error
    return plots


def _table(report: Mapping[str, Any]) -> Table:
    """Lay out the divergences by system and layer."""
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
