"""The command `visreplay perturb`: answers under noise on the policy's visual activations.

Each sample's result is a line of `records.jsonl`; `report.json` and the figure are made from it.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from visreplay.tasks.commands.settings import KNOBS
from visreplay.tasks.evaluation.journal import Journal
from visreplay.tasks.registry import get_task
from visreplay.tools.disk import write_file

if TYPE_CHECKING:
    from visreplay.agent import VisualAgent
    from visreplay.replay_core import Segment
    from visreplay.tasks.types import Sample

NOISE = "Noise"
ANSWERS = "Answers"
HELP = {name: knob.help for name, knob in KNOBS[ReplayConfig].items()}
SIZES = (0.05, 0.1, 0.2)


class Turn(StrEnum):
    """The turn of the policy in whose place the answers stand."""

    FIRST = "first"
    """The first: the question and its pictures alone."""
    LAST = "last"
    """The last of an episode that the plain policy plays, with its calls and their results."""


@with_options
def perturb(
    task: Annotated[str, typer.Argument(help="Name of a task: see `visreplay tasks`.")],
    pair: PairOptions,
    noise: Annotated[
        list[float] | None,
        typer.Option(
            help="Length of the noise, as a share of the activation's; may be given several "
            f"times. Default: {', '.join(map(str, SIZES))}.",
            rich_help_panel=NOISE,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of noise and options.", rich_help_panel=NOISE)
    ] = 0,
    replay_layers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of first decoder layers that get noise, and in which the KL is measured. "
            "Default: token replay's.",
            rich_help_panel=NOISE,
        ),
    ] = None,
    threshold: Annotated[
        Threshold | None, typer.Option(help=HELP["threshold"], rich_help_panel=NOISE)
    ] = None,
    tau: Annotated[float | None, typer.Option(help=HELP["tau"], rich_help_panel=NOISE)] = None,
    turn: Annotated[
        Turn,
        typer.Option(
            help="Turn in whose place the answers stand: the first, or the last of an episode.",
            rich_help_panel=ANSWERS,
        ),
    ] = Turn.LAST,
    form: Annotated[
        str | None,
        typer.Option(
            help="Text of a turn with {} in the answer's place. Default: the protocol's tags.",
            rich_help_panel=ANSWERS,
        ),
    ] = None,
    wrong: Annotated[
        int,
        typer.Option(min=1, help="Wrong answers to each sample, at most.", rich_help_panel=ANSWERS),
    ] = 3,
    data: DataOption = None,
    samples: SamplesOption = 100,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the results. Default: runs/perturb/TASK.", rich_help_panel=OUTPUT
        ),
    ] = None,
    markdown: MarkdownOption = False,
) -> None:
    """Measure how probable right and wrong answers are under noise on visual activations.

    The noise is added at the low-entropy visual tokens, or at high, random or all ones. Measured
    are KL(base || policy) at the low-entropy tokens, and the perplexity of the right answer and of
    wrong ones (other options, or the answers of other samples). The same command again resumes a
    run that was stopped.
    """
    from visreplay.agent.episode.agent import versions
    from visreplay.tasks.analysis.answers import Candidates, WrongAnswers, answer_form
    from visreplay.tasks.analysis.noise import conditions, measure_noise, summarise_noise
    from visreplay.tasks.analysis.result_shapes import noise_mismatch
    from visreplay.tasks.analysis.tables import correlation_line, noise_table

    console = Console(highlight=False)
    plots = import_plots("noise_plots")
    sizes = noise or SIZES
    if not all(0 < size < float("inf") for size in sizes):
        raise ValueError(f"--noise is {sizes}, but every size must be positive and finite")
    if form is not None and "{}" not in form:
        raise ValueError(f"--form is {form!r}, but needs {{}} in the place of the answer")
    source = get_task(task, data)
    choice = PairChoice.of(pair, console)
    if choice.base is None:
        raise ValueError("the policy is compared with its base: name it with --base")
    given = {"replay_layers": replay_layers, "threshold": threshold, "tau": tau}
    settings = {name: value for name, value in given.items() if value is not None}
    config = choice.config({**settings, "method": Method.TOKEN})
    out = out or Path("runs/perturb") / task
    perturbations = conditions(sizes)
    run_settings = {
        **settings_of(source, data, choice, pair),
        "replay": asdict(config),
        "conditions": [asdict(each) for each in perturbations],
        "seed": seed,
        "turn": turn,
        "form": form,
        "wrong": wrong,
        "versions": versions(),
    }
    with Journal(out / "records.jsonl", run_settings, noise_mismatch) as journal:
        agent, context = _contexts(choice, turn)
        form = form or answer_form(agent.protocol)
        others = WrongAnswers(source, seed)
        ids = source.sample_ids()[:samples]

        def measure(number: int, sample: "Sample") -> dict[str, Any]:
            answers = [sample.answer, *others.of(sample, wrong)]
            candidates = Candidates.of(answers, form, agent.pair.tokenizer)
            result = measure_noise(
                agent.pair, context(sample), candidates, perturbations, config, (seed, number)
            )
            return {"answers": answers, **result}

        results = measure_samples(journal, source, ids, console, measure)
        report = {"settings": run_settings, **summarise_noise(results, perturbations)}
        write_file(out / "report.json", json.dumps(report, indent=1).encode())
        figure = plots.draw_noise(report, out)
    noise_table(report).show(console, markdown=markdown)
    console.print(correlation_line(report), soft_wrap=True)
    for path in (out / "report.json", figure):
        console.print(str(path), markup=False, soft_wrap=True)


def _contexts(
    choice: PairChoice, turn: Turn
) -> tuple["VisualAgent", Callable[["Sample"], "Segment"]]:
    """Load the pair; return an agent of the plain policy, and what encodes a sample's context."""
    from visreplay.agent import VisualAgent, get_protocol
    from visreplay.agent.policy.encoder import ContextEncoder, token_grid
    from visreplay.tasks.analysis.answers import context_before_last_turn
    from visreplay.tasks.analysis.prompt import Prompt
    from visreplay.tools import ImageStore

    models = choice.load()
    protocol = get_protocol(choice.recipe, token_grid(models.processor), ImageStore())
    plain = VisualAgent(models, protocol, ReplayConfig(Method.NONE), names=choice.names)

    def context(sample: "Sample") -> "Segment":
        if turn is Turn.FIRST:
            return Prompt.of(sample, choice.recipe, models).segment
        # A store in memory never forgets, and a run has many samples.
        agent = plain.with_store(ImageStore())
        video = None if sample.video is None else str(sample.video)
        question = sample.parts or sample.question
        episode = agent.run(question, images=sample.images, video=video)
        agent.close()
        grid = agent.protocol.grid
        encoder = ContextEncoder(models.processor, agent.store, models.policy, grid=grid)
        return context_before_last_turn(episode.messages, encoder)

    return plain, context
