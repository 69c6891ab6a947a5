"""The command `visreplay diagnose`: can replay help this pair?

Each sample's result is a line of `records.jsonl`; `report.json` is made from it.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from visreplay.replay_core.config import Method, ReplayConfig
from visreplay.tasks.commands.console import Console
from visreplay.tasks.commands.option_groups import with_options
from visreplay.tasks.commands.options import (
    OUTPUT,
    DataOption,
    EpisodeOptions,
    MarkdownOption,
    PairOptions,
    SamplesOption,
)
from visreplay.tasks.commands.pair_choice import PairChoice
from visreplay.tasks.commands.sample_runs import measure_samples, settings_of
from visreplay.tasks.evaluation.journal import Journal
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Sample
from visreplay.tools.disk import write_file


@with_options
def diagnose(
    task: Annotated[str, typer.Argument(help="Name of a task: see `visreplay tasks`.")],
    pair: PairOptions,
    episode: EpisodeOptions,
    data: DataOption = None,
    samples: SamplesOption = 40,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the results. Default: runs/diagnose/TASK.", rich_help_panel=OUTPUT
        ),
    ] = None,
    markdown: MarkdownOption = False,
) -> None:
    """Find out whether replay can help a pair, before an evaluation is paid for.

    Which weights differ from the base's; how far the visual activations moved; and how many more
    samples the policy answers, greedily, with all of the base's visual features and activations in
    the place of its own: the most that the replay of visual activations can repair. The same
    command again resumes a run that was stopped.
    """
    from visreplay.agent import Sampling, VisualAgent, get_protocol
    from visreplay.agent.episode.agent import versions
    from visreplay.agent.policy.encoder import token_grid
    from visreplay.tasks.analysis import diagnosis
    from visreplay.tasks.analysis.prompt import Prompt
    from visreplay.tasks.analysis.result_shapes import diagnosis_mismatch
    from visreplay.tools import ImageStore

    console = Console(highlight=False)
    source = get_task(task, data)
    choice = PairChoice.of(pair, console)
    if choice.base is None:
        raise ValueError("the policy is compared with its base: name it with --base")
    own = Sampling(**{"temperature": 0.0, **episode.sampling.values})
    sampling = choice.sampling(own, ReplayConfig(Method.NONE))
    recipe, limits = episode.worded(choice.recipe), episode.limits.build()
    out = out or Path("runs/diagnose") / task
    run_settings = {
        **settings_of(source, data, choice, pair, recipe),
        "sampling": asdict(sampling),
        "limits": asdict(limits),
        "versions": versions(),
    }
    with Journal(out / "records.jsonl", run_settings, diagnosis_mismatch) as journal:
        models = choice.load()
        protocol = get_protocol(recipe, token_grid(models.processor), ImageStore())
        agents = {
            name: VisualAgent(models, protocol, config, sampling=sampling, limits=limits)
            for name, config in diagnosis.systems(models).items()
        }

        def measure(number: int, sample: Sample) -> dict[str, Any]:
            segment = Prompt.of(sample, recipe, models).segment
            return diagnosis.measure_sample(source, sample, segment, agents)

        results = measure_samples(journal, source, source.sample_ids()[:samples], console, measure)
    report = diagnosis.summarise(results, diagnosis.changed_parts(models))
    write_file(
        out / "report.json", json.dumps({"settings": run_settings, **report}, indent=1).encode()
    )
    for table in diagnosis.tables(report):
        table.show(console, markdown=markdown)
    console.print(diagnosis.verdict(report), soft_wrap=True)
    console.print(str(out / "report.json"), markup=False, soft_wrap=True)
