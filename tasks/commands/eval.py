"""The command `visreplay eval`: an agent on a task, and a folder for the results."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import typer

import visreplay.agent as agents
from visreplay.replay_core.config import ReplayConfig
from visreplay.tasks.commands.console import Console, print_damage, progress_bar
from visreplay.tasks.commands.cot_checker import load_checker
from visreplay.tasks.commands.engine_options import EngineOptions
from visreplay.tasks.commands.option_groups import with_options
from visreplay.tasks.commands.options import (
    OUTPUT,
    TASK,
    DataOption,
    EndpointOptions,
    EpisodeOptions,
    LargestOption,
    PairOptions,
    largest,
)
from visreplay.tasks.commands.ray_options import EvaluationJob, PlayRun, RayOptions
from visreplay.tasks.commands.remote_choice import RemoteChoice, choose_policy
from visreplay.tasks.commands.sample_runs import settings_of
from visreplay.tasks.commands.settings import Overrides
from visreplay.tasks.commands.tool_runs import Cell, Tools, plan_runs, sharing_policy, show_effects
from visreplay.tasks.evaluation.evaluate import DRIVER, evaluate
from visreplay.tasks.evaluation.journal import Journal, Line, check_settings, read_journal
from visreplay.tasks.evaluation.record_shapes import record_mismatch
from visreplay.tasks.evaluation.runs import IMAGES, LINES, Run, SampleRecord, damaged_samples
from visreplay.tasks.evaluation.summary import right_count
from visreplay.tasks.evaluation.tables import counted, details
from visreplay.tasks.registry import get_task, select
from visreplay.tools.disk import DiskError, disk_errors

Play = Callable[[list[str]], Iterable[SampleRecord]]
"""Plays samples, and gives a record for each as it ends."""


@with_options
def evaluation(
    task: Annotated[str, typer.Argument(help="Name of a task: see `visreplay tasks`.")],
    pair: PairOptions,
    replay: Overrides[ReplayConfig],
    episode: EpisodeOptions,
    endpoint: EndpointOptions,
    engine: EngineOptions,
    ray: RayOptions,
    data: DataOption = None,
    max_megapixels: LargestOption = None,
    tools: Annotated[
        Tools,
        typer.Option(
            help="Tools that the policy is offered: all of its protocol, or none. Both play the "
            "same samples without and with tools, each without and with replay, and show what "
            "tools change.",
            rich_help_panel=TASK,
        ),
    ] = Tools.ALL,
    rollouts: Annotated[
        int,
        typer.Option(
            min=1,
            help="Rollouts of each sample; several are sampled at temperature 1 if decoding would "
            "be greedy by default.",
            rich_help_panel=TASK,
        ),
    ] = 1,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of samples at most.", rich_help_panel=TASK)
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option(
            min=1,
            help="Samples that are played at once, by each worker of --ray; worth it where another "
            "program writes the turns (--engine vllm, --policy-url).",
            rich_help_panel=TASK,
        ),
    ] = 1,
    sample_ids: Annotated[
        str | None,
        typer.Option(
            help="Play these samples only: ids with commas between them.", rich_help_panel=TASK
        ),
    ] = None,
    shuffle: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of a random order of the samples.", rich_help_panel=TASK),
    ] = None,
    cot_checker: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Python function for CoT-pass@k: takes a sample and a trajectory whose answer is "
            "right, and returns whether the reasoning is right too.",
            rich_help_panel=TASK,
        ),
    ] = None,
    retry_errors: Annotated[
        bool,
        typer.Option(
            "--retry-errors",
            help="Play the samples again that ended in an error, or of which an image is missing "
            "or damaged.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run, or of a folder for each run of --tools none,all. Default: "
            "runs/eval/TASK-REPLAY, with the tools behind it if they are not all.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> None:
    """Evaluate an agent on a task. The same command again resumes a run that was stopped.

    Writes a line for each sample into OUT/run.jsonl as it ends, and every image into OUT/images
    once. Exits with code 1 if a sample ended in an error, and with code 2 if the disk does not take
    what is to be written. A run that has all samples is only read. With --tools none,all, OUT has a
    folder for each run, and OUT/tools.json tells what tools changed, with the ids of the samples.
    """
    from visreplay.agent.episode.agent import versions

    console = Console(highlight=False)
    ray.check(engine)
    checker = load_checker(cot_checker) if cot_checker else None
    source = get_task(task, data, max_pixels=largest(max_megapixels))
    for note in getattr(source, "notes", ()):
        console.print(note, style="yellow", markup=False, soft_wrap=True)
    chosen = sample_ids.split(",") if sample_ids else None
    ids = select(source.sample_ids(), limit=limit, sample_ids=chosen, shuffle=shuffle)
    choice = choose_policy(pair, endpoint, console)
    config = choice.config(replay.values)
    if out is None:
        name = {Tools.ALL: "", Tools.NONE: "-without-tools", Tools.BOTH: "-tools"}[tools]
        out = Path("runs/eval") / f"{task}-{config.method}{name}"
    if tools is not Tools.ALL and (episode.system_prompt or episode.user_suffix):
        raise ValueError(
            f"--tools is {tools}, but --system-prompt and --user-suffix are texts for a policy "
            "with tools: write both kinds into a --recipe, in [texts] and [tool_free]"
        )
    recipe = episode.worded(choice.recipe)
    cells = plan_runs(tools, out, config, recipe)
    sampling = choice.sampling(episode.sampling.build(), config)
    if rollouts > 1 and sampling.greedy:
        # A policy that is published as greedy is sampled plainly.
        sampling = choice.sampling(episode.sampling.build(temperature=1.0), config)
    if rollouts > 1 and sampling.greedy:
        raise ValueError(
            f"--rollouts is {rollouts}, but at --temperature 0 or --top-k 1 all of them are the "
            "same: leave one of them out"
        )
    limits = episode.limits.build()
    settings = {
        **settings_of(source, data, choice, pair, recipe),
        **engine.record,
        "protocol": recipe.protocol,
        "replay": asdict(config),
        "sampling": asdict(sampling),
        "limits": asdict(limits),
        "rollouts": rollouts,
        "seed": episode.seed,
        "shuffle": shuffle,
        "cot_checker": cot_checker,
        "driver": DRIVER,
        "versions": versions(),
    }
    runs = []
    with ExitStack() as stack:

        def load() -> "agents.Agent":
            writer = stack.enter_context(engine.writer(choice, config))
            return choice.agent(config, recipe, sampling, limits, out / IMAGES, writer)

        agent_of = sharing_policy(load)

        def play_here(cell: Cell, left: list[str]) -> Iterable[SampleRecord]:
            agent = agent_of(cell)
            yield from evaluate(
                agent,
                source,
                left,
                rollouts=rollouts,
                seed=episode.seed,
                cot_checker=checker,
                concurrency=concurrency,
            )
            agent.close()

        play: PlayRun = play_here
        if ray.ray:
            job = EvaluationJob(
                # Workers ask no endpoint for the names of its models.
                replace(pair, policy=choice.model) if isinstance(choice, RemoteChoice) else pair,
                endpoint,
                engine,
                config,
                sampling,
                limits,
                cells,
                task=task,
                data=data,
                max_pixels=largest(max_megapixels),
                digest=getattr(source, "digest", None),
                rollouts=rollouts,
                seed=episode.seed,
                cot_checker=cot_checker,
                versions=versions(),
            )
            play = stack.enter_context(ray.playing(job, concurrency, console))
        for cell in cells:
            own = {"recipe": cell.recipe.to_table(), "replay": asdict(cell.config)}
            play_missing(
                console,
                cell.out,
                {**settings, **own},
                ids,
                partial(play, cell),
                retry_errors=retry_errors,
            )
            run = Run.open(cell.out)
            runs.append(run)
            print_damage(console, [run])
            for grid in details(run):
                grid.show(console)
            console.print(f"run   {cell.out}", markup=False, soft_wrap=True)
            for line in error_lines(run):
                console.print(line, style="red", markup=False, soft_wrap=True)
    console.print(f"driver   {DRIVER}", markup=False)
    if tools is Tools.BOTH:
        show_effects(console, out, runs)
    if any(run.errors for run in runs):
        raise typer.Exit(1)


def play_missing(
    console: Console,
    out: Path,
    settings: Mapping[str, Any],
    ids: Sequence[str],
    play: Play,
    *,
    retry_errors: bool = False,
) -> None:
    """Play the samples that a run does not have yet, if there are any.

    Args:
        console: Where to show the progress.
        out: The folder of the run.
        settings: Everything that its results depend on.
        ids: All samples of the run.
        play: Called with the samples that are to be played.
        retry_errors: Whether to play again what ended in an error or has lost an image.

    Raises:
        ValueError: The folder holds something else, or another process is writing the run.
        DiskError: The disk does not take the run; the samples that ended are in it.
        typer.Exit: Ctrl-C was pressed; the samples that ended are in the run.
    """
    path = out / LINES
    # To read a run takes neither a lock nor a disk that can be written.
    content = read_journal(path, record_mismatch)
    if content.results or content.damaged:
        check_settings(path, content.settings or {}, settings)
    left = samples_left(content.results, ids, out, retry_errors)
    if not left:
        return
    with Journal(path, settings, record_mismatch) as journal:
        if journal.damaged:
            lines = counted(len(journal.damaged), "damaged line")
            console.print(
                f"{lines} of {path}: moved to {path.name}.damaged, and the missing samples are "
                "played again",
                style="yellow",
                markup=False,
                soft_wrap=True,
            )
        if journal.results != content.results:  # another process has ended meanwhile
            left = samples_left(journal.results, ids, out, retry_errors)
        with disk_errors(out / IMAGES):
            for stray in (out / IMAGES).glob("*.tmp"):  # was being written when a run was killed
                stray.unlink()
        if left:
            grow(console, journal, play(left), len(left), len(ids))


def grow(
    console: Console, journal: Journal, records: Iterable[SampleRecord], left: int, total: int
) -> None:
    """Write records as they come, and show the progress.

    Args:
        console: Where to show the progress.
        journal: Where to write the records.
        records: One record for each sample that is left.
        left: Number of samples that are left.
        total: Number of samples of the whole run.

    Raises:
        typer.Exit: Ctrl-C was pressed; the samples that ended are in the journal.
        DiskError: The disk did not take a line or an image; as before.
    """
    before = total - left
    right = episodes = errors = 0
    try:
        with progress_bar(console) as progress:
            bar = progress.add_task("", total=total, completed=before)
            for record in records:
                journal.add(record["sample_id"], record)
                right += right_count(record)
                episodes += len(record["rollouts"])
                errors += record["error"] is not None
                description = f"right {right} of {episodes}, {counted(errors, 'error')}"
                progress.update(bar, advance=1, description=description)
    except KeyboardInterrupt:
        console.print(f"stopped; {len(journal.results)} samples are in {journal.path}, and the "
                      "same command resumes the run", markup=False, soft_wrap=True)  # fmt: skip
        raise typer.Exit(130) from None
    except DiskError as error:
        raise DiskError(
            f"{error}; {len(journal.results)} samples are in {journal.path}, and the same command "
            "resumes the run"
        ) from error


def error_lines(run: Run) -> list[str]:
    """Describe which errors ended samples, how many, and the way out."""
    kinds = Counter(record["error"] for record in run.errors.values())
    lines = [f"{count} x {error}" for error, count in kinds.most_common(5)]
    if len(kinds) > len(lines):
        lines.append(f"... and {counted(len(kinds) - len(lines), 'other error')}")
    if lines:
        lines.append("samples with errors are not counted: --retry-errors plays them again")
    return lines


def samples_left(
    results: Mapping[str, Line], ids: Sequence[str], out: Path, retry_errors: bool
) -> list[str]:
    """List the samples that are still to be played.

    Args:
        results: The samples that have been played.
        ids: All samples of the run.
        out: The folder of the run.
        retry_errors: Whether errors and lost images count as not played.
    """
    again: set[str] = set()
    if retry_errors:
        records = {each: cast(SampleRecord, results[each]) for each in ids if each in results}
        again = {each for each, record in records.items() if record["error"] is not None}
        again.update(damaged_samples(Run(out, {}, records), decode=True))
    return [each for each in ids if each not in results or each in again]
