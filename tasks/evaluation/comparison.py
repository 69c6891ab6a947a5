"""The command `visreplay compare`: two runs on the same samples."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from visreplay.tasks.evaluation.evaluate import groups_of, pass_rates
from visreplay.tasks.evaluation.journal import differences
from visreplay.tasks.evaluation.runs import Run
from visreplay.tasks.statistics import Estimate, estimates, mcnemar_p


@dataclass(frozen=True)
class RunComparison:
    """What the second of two runs did otherwise on the samples that both have scored.

    Attributes:
        paired: Ids of these samples.
        alone: How many samples were played in the first run only, and in the second only.
        errors: How many ended in an error in the first run, and in the second.
        metrics: Values in the first run and in the second, and second - first with its interval.
        gained: Ids of samples that are right in the second run only; with several rollouts, by the
            majority of them.
        lost: Ids of samples that are right in the first run only.
        p: McNemar's, two-sided and exact; None with several rollouts, or samples in groups.
        settings: What differs: name, value in the first run, and in the second.
    """

    paired: list[str]
    alone: tuple[int, int]
    errors: tuple[int, int]
    metrics: dict[str, tuple[float, float, Estimate]]
    gained: list[str]
    lost: list[str]
    p: float | None
    settings: list[tuple[str, Any, Any]]


def compare_runs(first: Run, second: Run) -> RunComparison:
    """Pair two runs.

    Raises:
        ValueError: they are of different tasks, or of files that differ, or share no sample.
    """
    tasks = [run.settings["task"] for run in (first, second)]
    if tasks[0] != tasks[1]:
        raise ValueError(
            f"{first.name} is of {tasks[0]} and {second.name} of {tasks[1]}: only runs of one task "
            "can be compared"
        )
    a, b = first.scored, second.scored
    paired = [sample_id for sample_id in a if sample_id in b]
    if not paired:
        raise ValueError(f"{first.name} and {second.name} have scored no sample in common")
    for key in paired:
        if (a[key]["question"], a[key]["expected"]) != (b[key]["question"], b[key]["expected"]):
            raise ValueError(
                f"sample {key!r} has another question or answer in {second.name} than in "
                f"{first.name}: the runs are not of the same data"
            )
    ours, theirs = [a[key] for key in paired], [b[key] for key in paired]
    rollouts = min(len(record["rollouts"]) for record in (*ours, *theirs))
    columns = {
        f"pass@{k}": (pass_rates(ours, k), pass_rates(theirs, k)) for k in range(1, rollouts + 1)
    }
    name = "accuracy" if rollouts == 1 else "avg@k = pass@1"
    columns = {name if key == "pass@1" else key: pair for key, pair in columns.items()}
    groups = groups_of(ours)
    changes = np.stack([after - before for before, after in columns.values()], axis=1)
    drawn = estimates(changes, groups)
    metrics = {
        key: (float(before.mean()), float(after.mean()), difference)
        for (key, (before, after)), difference in zip(columns.items(), drawn, strict=True)
    }
    before, after = (pass_rates(records, 1) > 0.5 for records in (ours, theirs))
    gained = [key for key, was, is_ in zip(paired, before, after, strict=True) if is_ and not was]
    lost = [key for key, was, is_ in zip(paired, before, after, strict=True) if was and not is_]
    single = all(len(record["rollouts"]) == 1 for record in (*ours, *theirs))
    return RunComparison(
        paired=paired,
        alone=(
            len(first.records.keys() - second.records.keys()),
            len(second.records.keys() - first.records.keys()),
        ),
        errors=(len(first.errors), len(second.errors)),
        metrics=metrics,
        gained=gained,
        lost=lost,
        p=mcnemar_p(len(gained), len(lost)) if single and groups is None else None,
        settings=differences(first.settings, second.settings),
    )
