"""The command `visreplay analyze`: what training did inside of the models, before and after replay.

Each sample's result is a line of `records.jsonl`; `report.json` and the figures are made from it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from visreplay.replay_core.config import Method, ReplayConfig, Threshold
from visreplay.tasks.commands.console import Console
from visreplay.tasks.commands.option_groups import with_options
from visreplay.tasks.commands.options import (
    OUTPUT,
    DataOption,
    MarkdownOption,
    PairOptions,
    SamplesOption,
)
from visreplay.tasks.commands.pair_choice import PairChoice
from visreplay.tasks.commands.sample_runs import import_plots, measure_samples, settings_of
from visreplay.tasks.commands.settings import PANELS, Overrides
from visreplay.tasks.evaluation.journal import Journal
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Sample
from visreplay.tools.disk import write_file

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
    samples: SamplesOption = 100,
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
    markdown: MarkdownOption = False,
) -> None:
    """Measure KL(base || policy) by layer and base entropy, before and after replay.

    The measurements are taken at the visual and text tokens of the first turn's context, with the
    words that the logit lens predicts there. Beside them stands the objective of the released code,
    and the share of it that is there without RLVR. The same command again resumes a run that was
    stopped.
    """
    from visreplay.agent.episode.agent import versions
    from visreplay.tasks.analysis.prompt import Prompt
    from visreplay.tasks.analysis.result_shapes import shifts_mismatch
    from visreplay.tasks.analysis.shifts import (
        KINDS,
        PLAIN,
        measure_shifts,
        summarise_shifts,
        verdict,
    )
    from visreplay.tasks.analysis.tables import analysis_tables

    console = Console(highlight=False)
    plots = import_plots("plots")
    source = get_task(task, data)
    choice = PairChoice.of(pair, console)
    if choice.base is None:
        raise ValueError("the policy is compared with its base: name it with --base")
    configs = {PLAIN: ReplayConfig(Method.NONE)}
    for method in replay or (Method.TOKEN, Method.STATE):
        if method is not Method.NONE:
            configs[f"{PLAIN}+{method}"] = choice.config({**settings.values, "method": method})
    objective = choice.config(objective_settings(settings.values))
    out = out or Path("runs/analyze") / task
    run_settings = {
        **settings_of(source, data, choice, pair),
        "replay": {name: asdict(config) for name, config in configs.items()},
        "objective": asdict(objective),
        "versions": versions(),
    }
    with Journal(out / "records.jsonl", run_settings, shifts_mismatch) as journal:
        models = choice.load()
        depth = min(models.policy.depth, models.base.depth if models.base else 0)
        if layer is None:
            layer = min(max(config.depth for config in configs.values()) or 1, depth) - 1
        if not 0 <= layer < depth:
            raise ValueError(f"--layer is {layer}, but the pair has layers 0 to {depth - 1}")

        def prompt(sample: Sample) -> Prompt:
            return Prompt.of(sample, choice.recipe, models)

        ids = source.sample_ids()[:samples]
        results = measure_samples(
            journal,
            source,
            ids,
            console,
            lambda number, sample: measure_shifts(
                models, prompt(sample), configs, objective, maps=number < MAPS
            ),
        )
        vocabulary = models.policy.head.out_features
        summary = summarise_shifts(results, vocabulary, models.tokenizer)
        report = {"settings": run_settings, **summary}
        write_file(out / "report.json", json.dumps(report, indent=1).encode())
        maps = [
            (prompt(source.load(sample_id)).pictures[0], result["maps"][0])
            for sample_id, result in zip(ids[:MAPS], results, strict=False)
            if result.get("maps")
        ]
        files = plots.draw_plots(report, maps, layer, out)
    for table in analysis_tables(report):
        table.show(console, markdown=markdown)
    for kind in KINDS:
        console.print(verdict(report, kind), soft_wrap=True)
    for path in (out / "report.json", *files):
        console.print(str(path), markup=False, soft_wrap=True)


def objective_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Select the settings that count for the released objective, which has no fixed limits."""
    names = ("replay_layers", "threshold", "tau", "top_k", "memory_bytes", "query_chunk")
    chosen = {name: values[name] for name in names if name in values}
    if chosen.get("threshold") is Threshold.ABSOLUTE:
        del chosen["threshold"]
    return {**chosen, "method": Method.TOKEN}
