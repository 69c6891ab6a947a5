"""The comparison of two runs on the samples that both have scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visreplay.tasks.evaluation.journal import differences
from visreplay.tasks.evaluation.runs import Run
from visreplay.tasks.evaluation.summary import groups_of, pass_rates
from visreplay.tasks.statistics import Estimate, estimates, mcnemar_p


@dataclass(frozen=True)
class RunComparison:
    """The differences between two runs on the samples that both have scored.

    Attributes:
        paired: The ids of these samples.
        alone: How many samples only the first run has, and how many only the second.
        errors: How many samples ended in an error in the first run, and in the second.
        metrics: By name, the value in the first run, the value in the second, and the difference
            (second - first) with its 95 % interval.
        gained: The ids of samples that are right in the second run only; with several rollouts, a
            sample is right if the majority of its rollouts is.
        lost: The ids of samples that are right in the first run only.
        p: The two-sided exact p of McNemar's test; None with several rollouts, or with samples in
            groups.
        settings: The settings that differ: name, value in the first run, value in the second.
    """

    paired: list[str]
    alone: tuple[int, int]
    errors: tuple[int, int]
    metrics: dict[str, tuple[float, float, Estimate]]
    gained: list[str]
    lost: list[str]
    p: float | None
    settings: list[tuple[str, Any, Any]]


def paired_samples(runs: Sequence[Run]) -> list[str]:
    """List the samples that all of some runs have scored, in the order of the first.

    Raises:
        ValueError: The runs are of different tasks or data, or have no scored sample in common.
    """
    first, *others = runs
    paired = list(first.scored)
    for other in others:
        task_a, task_b = first.settings["task"], other.settings["task"]
        if task_a != task_b:
            raise ValueError(
                f"{first.name} is of {task_a} and {other.name} of {task_b}: only runs of one task "
                "can be compared"
            )
        scored = other.scored
        paired = [key for key in paired if key in scored]
        if not paired:
            raise ValueError(f"{first.name} and {other.name} have scored no sample in common")
        for key in paired:
            a, b = first.records[key], scored[key]
            if (a["question"], a["expected"]) != (b["question"], b["expected"]):
                raise ValueError(
                    f"sample {key!r} has another question or answer in {other.name} than in "
                    f"{first.name}: the runs are not of the same data"
                )
    return paired


def compare(run_a: Run, run_b: Run) -> RunComparison:
    """Pair the samples of two runs and compare the answers.

    Args:
        run_a: The run to compare with, say of the plain policy: `Run.open("runs/plain")`.
        run_b: The run whose gains and losses are counted.

    Raises:
        ValueError: The runs are of different tasks or data, or have no scored sample in common.
    """
    paired = paired_samples([run_a, run_b])
    a, b = run_a.records, run_b.records
    records_a, records_b = [a[key] for key in paired], [b[key] for key in paired]
    counts = [len(record["rollouts"]) for record in (*records_a, *records_b)]
    ks = range(1, min(counts) + 1)
    rates = {k: (pass_rates(records_a, k), pass_rates(records_b, k)) for k in ks}
    groups = groups_of(records_a)
    changes = np.stack([rates_b - rates_a for rates_a, rates_b in rates.values()], axis=1)
    first = "accuracy" if min(counts) == 1 else "avg@k = pass@1"
    metrics = {}
    for (k, (rates_a, rates_b)), difference in zip(
        rates.items(), estimates(changes, groups, bounds=(-1.0, 1.0)), strict=True
    ):
        name = first if k == 1 else f"pass@{k}"
        metrics[name] = (float(rates_a.mean()), float(rates_b.mean()), difference)
    right = list(zip(paired, *(rate > 0.5 for rate in rates[1]), strict=True))
    gained = [key for key, in_a, in_b in right if in_b and not in_a]
    lost = [key for key, in_a, in_b in right if in_a and not in_b]
    has_test = set(counts) == {1} and groups is None
    return RunComparison(
        paired=paired,
        alone=(
            len(run_a.records.keys() - run_b.records.keys()),
            len(run_b.records.keys() - run_a.records.keys()),
        ),
        errors=(len(run_a.errors), len(run_b.errors)),
        metrics=metrics,
        gained=gained,
        lost=lost,
        p=mcnemar_p(len(gained), len(lost)) if has_test else None,
        settings=differences(run_a.settings, run_b.settings),
    )
