"""The comparison of a run with the paper's figures: is it the run that a figure is of?"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from visreplay.replay_core.config import Method, ReplayConfig, Threshold
from visreplay.tasks.evaluation.paper import (
    BENCHMARKS,
    FIGURES,
    STATE,
    Benchmark,
    Conditions,
    PublishedFigure,
    same_name,
    simplify,
)
from visreplay.tasks.evaluation.runs import Run, SampleRecord
from visreplay.tasks.evaluation.summary import STRICT_SCORE

# A field of `ReplayConfig` that is in none of these sets is compared.
WITHOUT_EFFECT = frozenset(
    {"recompute_activations", "memory_bytes", "query_chunk", "feature_layers", "patched_layers"}
)
"""Settings of replay that change no result of the paper's methods."""
OF_TOKEN_REPLAY = frozenset(
    {"replay_layers", "entry_layer", "top_k", "steps", "learning_rate", "optimizer", "plateau"}
)
OF_STATE_REPLAY = frozenset({"state_layers"})
OLD_JOURNALS = {"alignment": "same"}
"""The values of settings that runs did not record before there was a choice."""
OLD_ADAM_RATE = 0.01
"""Adam's default rate in runs that did not record a plateau yet."""

Fact = tuple[str, Any, Any]
"""A name, the value of a figure's run, and the value of the run that is compared with it."""

GREEDY = 1e-5
"""A temperature up to this is greedy; some checkpoints set 1e-6."""


def benchmark_of(settings: Mapping[str, Any]) -> Benchmark | None:
    """Find the benchmark of a run by its task, or by its file for a task that reads many."""
    data = settings.get("data")
    names = {simplify(str(settings["task"])), simplify(Path(data).stem) if data else ""}
    return next((each for each in BENCHMARKS if each.names & names), None)


def published_part(records: list[SampleRecord], benchmark: Benchmark) -> list[SampleRecord]:
    """Choose the records that the figures of a benchmark are about.

    A sample that could not be loaded has no category: it may be one of them, and is kept.
    """
    return [
        each
        for each in records
        if benchmark.covers(each["category"], each.get("split")) or each["question"] is None
    ]


def closest_figure(run: Run, benchmark: Benchmark) -> PublishedFigure | None:
    """Find the figure whose run differs least from a run; None if the paper has no such policy.

    A plain policy is compared with plain policies, and a replayed one with replayed ones.
    """
    method = run.settings["replay"]["method"]
    candidates = [
        figure
        for figure in FIGURES
        if figure.benchmark == benchmark
        and (figure.replay.method is Method.NONE) == (method == Method.NONE)
        and same_name(figure.policy, str(run.settings["policy"]))
    ]
    return min(
        candidates,
        key=lambda each: (each.replay.method != method, len(differences(run, each))),
        default=None,
    )


def differences(run: Run, figure: PublishedFigure) -> list[str]:
    """List why a run is not the one that a figure is of; empty if it is.

    Args:
        run: The run.
        figure: A figure of the run's benchmark and policy.
    """
    benchmark, settings = figure.benchmark, run.settings
    reasons = [reason for reason in (benchmark.obstacle, figure.obstacle) if reason]
    replay = settings["replay"]
    facts: list[Fact] = []
    if replay["method"] != figure.replay.method:
        facts.append(("replay", str(figure.replay.method), replay["method"]))
    elif figure.replay.method is not Method.NONE:
        facts += _replay_facts(figure, replay)
        base = Path(str(settings.get("base"))).name
        facts.append(("base", figure.base, figure.base if same_name(figure.base, base) else base))
    if figure.protocol is not None:
        facts.append(("protocol", figure.protocol, settings.get("protocol")))
    facts.append(("tools", "all", "all" if run.has_tools else "none"))
    facts.append(("rollouts", 1, settings["rollouts"]))
    sampling = settings["sampling"]
    temperature = sampling["temperature"]
    is_greedy = sampling.get("top_k") == 1 or (temperature is not None and temperature <= GREEDY)
    facts.append(("temperature", 0, 0 if is_greedy else temperature))
    if figure.conditions is not None:
        facts += _condition_facts(figure.conditions, settings)
    if benchmark.score == STRICT_SCORE and settings["task"] != "we-math":
        facts.append(("task", "we-math with its strict score", settings["task"]))
    part = published_part(list(run.records.values()), benchmark)
    name = "samples" if benchmark.split is None else f"samples of the split {benchmark.split}"
    facts.append((name, benchmark.samples, len(part)))
    facts.append(("errors", 0, sum(each["error"] is not None for each in part)))
    reasons += [f"{name} {theirs} (here {ours})" for name, theirs, ours in facts if theirs != ours]
    return reasons


def _condition_facts(conditions: Conditions, settings: Mapping[str, Any]) -> list[Fact]:
    """Compare how the answers were made; what the run did not record is not compared."""
    sampling, recipe = settings["sampling"], settings.get("recipe", {})
    facts: list[Fact] = [
        (name.replace("_", "-"), getattr(conditions, name), sampling[name])
        for name in ("repetition_penalty", "max_new_tokens")
        if sampling.get(name) is not None
    ]
    limits = (settings.get("limits", {}), recipe.get("limits", {}))
    turns = next((each["max_steps"] for each in limits if each.get("max_steps")), None)
    if conditions.turns is not None and turns is not None:
        facts.append(("turns", conditions.turns, turns))
    for medium in ("image", "frame"):
        published = getattr(conditions, f"{medium}_pixels")
        budget = recipe.get("pixels", {}).get(medium)
        if published is not None and budget is not None:
            here = _range(budget["min"], budget["max"])
            facts.append((f"{medium} pixels", _range(*published), here))
    frames = recipe.get("frames")
    if conditions.frames is not None and frames is not None:
        facts.append(("frames", conditions.frames, frames["count"]))
        facts.append(("choice of frames", "ends", frames["choice"]))
    if missing := recipe.get("expects"):
        facts.append(("texts", "of the checkpoint's training", f"another {' and '.join(missing)}"))
    return facts


def _range(low: int | None, high: int | None) -> str:
    """Write a pixel budget."""
    if low is None and high is None:
        return "as the processor has them"
    if low is None:
        return f"up to {high:,}"
    return f"{low:,} or more" if high is None else f"{low:,} to {high:,}"


def _replay_facts(figure: PublishedFigure, recorded: Mapping[str, Any]) -> list[Fact]:
    """Compare the settings of the replay.

    A setting that the run did not record, because it is older, is not compared.
    """
    ours = _effective({**OLD_JOURNALS, **recorded})
    # All figures were made by the released code, whatever the paper's text says.
    theirs = _effective({**asdict(figure.replay), "alignment": "reference"})
    others = OF_STATE_REPLAY if figure.replay.method is Method.TOKEN else OF_TOKEN_REPLAY
    names = theirs.keys() & ours.keys() - WITHOUT_EFFECT - others - figure.unpublished
    return [(name.replace("_", "-"), theirs[name], ours[name]) for name in theirs if name in names]


def _effective(replay: dict[str, Any]) -> dict[str, Any]:
    """Fill in what other settings decide, and leave out what has no effect beside them."""
    if replay.get("threshold") == Threshold.ABSOLUTE:
        replay["theta"] = list(replay.get("theta") or STATE.limits)
        replay.pop("tau", None)
    else:
        replay.pop("theta", None)
    if replay.get("learning_rate") is None and (optimizer := replay.get("optimizer")):
        is_old = optimizer == "adam" and "plateau" not in replay
        replay["learning_rate"] = (
            OLD_ADAM_RATE if is_old else ReplayConfig(optimizer=optimizer).rate
        )
    return {name: str(value) if isinstance(value, str) else value for name, value in replay.items()}
