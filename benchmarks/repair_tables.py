"""The tables of `repair.py`, in the order that was registered (`docs/registered.md`).

All intervals are 95 % and cover other scenes and other policies: both are drawn anew, policies
within their base (`visreplay.tasks.statistics.crossed_interval`).

Axes: P policies, S scenes, L levels (the input and the layers), Q quarters by entropy.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visreplay.tasks.analysis.shifts import GROUPS
from visreplay.tasks.evaluation.tables import TextTable
from visreplay.tasks.statistics import crossed_interval

Result = Mapping[str, Any]

HYPOTHESES = {
    "H1": ("state, low", "policy"),
    "H2": ("state, low", "state, high"),
    "H3": ("feature, low", "policy"),
    "H4": ("feature, low", "feature, high"),
    "H5": ("token, low", "policy"),
    "H6": ("token, low", "token, high"),
}
"""What is expected to be above 0: the first system's accuracy minus the second's."""

DESCRIBED = (
    ("state, low", "state, random"),
    ("state, all", "state, low"),
    ("feature, low", "feature, random"),
    ("feature, all", "feature, low"),
    ("feature, all", "policy"),
    ("state, low", "feature, all"),
    ("token, low", "token, random"),
)
"""Differences that are given without an expectation."""


class Results:
    """All that was measured on one task."""

    def __init__(self, results: Sequence[Result], task: str) -> None:
        """Take the task's results.

        Args:
            results: What `repair.measure` returned, of all tasks.
            task: The task.
        """
        self._kept = [r for r in results if r["task"] == task and "greedy" in r]
        plain = [result for result in self._kept if result["system"] == "policy"]
        self.policies = sorted((result["pair"], result["policy"]) for result in plain)
        self.pairs = [pair for pair, _ in self.policies]

    def of(self, system: str, mode: str = "greedy", what: str = "right") -> NDArray[Any] | None:
        """Return counts `(P, S)` of a system; None if a policy lacks it."""
        found = {
            (result["pair"], result["policy"]): result[mode][what]
            for result in self._kept
            if result["system"] == system and what in result[mode]
        }
        if system == "base":
            found = {each: found.get((each[0], "base")) for each in self.policies}
        rows = [found.get(each) for each in self.policies]
        return None if not rows or any(row is None for row in rows) else np.array(rows, float)

    def estimate(self, values_PS: NDArray[Any], *, signed: bool = False) -> str:
        """Write a mean with its interval."""
        low, high = crossed_interval(values_PS, self.pairs)
        return f"{values_PS.mean():{'+' if signed else ''}.3f} ({low:.3f} to {high:.3f})"


def systems(results: Results, names: Sequence[str], rollouts: int) -> TextTable:
    """Make a row for every system: its accuracy, and its difference from the policy."""
    rows = []
    for name in names:
        greedy, sampled = results.of(name), results.of(name, "sampled")
        if greedy is None:
            continue
        plain, plain_sampled = results.of("policy"), results.of("policy", "sampled")
        means = greedy.mean(axis=1)
        cells = [results.estimate(greedy), f"{means.min():.3f} to {means.max():.3f}"]
        own = name in ("base", "policy") or plain is None
        cells.append("-" if own else results.estimate(greedy - plain, signed=True))
        for count in (lambda right: right / rollouts, lambda right: (right > 0) * 1.0):
            if sampled is None or plain_sampled is None:
                cells += ["-", "-"]
                continue
            cells.append(results.estimate(count(sampled)))
            difference = count(sampled) - count(plain_sampled)
            cells.append("-" if own else results.estimate(difference, signed=True))
        placed = results.of(name, what="placed")
        cells.append("-" if placed is None else f"{placed.mean():.3f}")
        rows.append((name, *cells))
    headings = ("system", "greedy", "policies", "difference", "pass@1", "difference")
    return TextTable(
        f"{len(results.policies)} policies of {len(set(results.pairs))} bases",
        (*headings, f"pass@{rollouts}", "difference", "right place"),
        rows,
    )


def contrasts(results: Results, rollouts: int) -> TextTable:
    """Make a row for every registered difference, the hypotheses first."""
    rows = []
    named = [*HYPOTHESES.items(), *(("", each) for each in DESCRIBED)]
    for label, (one, other) in named:
        cells = []
        for mode, scale in (("greedy", 1), ("sampled", rollouts)):
            left, right = results.of(one, mode), results.of(other, mode)
            both = left is not None and right is not None
            cells.append(results.estimate((left - right) / scale, signed=True) if both else "-")
        if any(cell != "-" for cell in cells):
            rows.append((label, f"{one} - {other}", *cells))
    return TextTable("Differences", ("", "difference", "greedy", "pass@1"), rows)


def policies(results: Sequence[Result], tasks: Sequence[str], task: str) -> TextTable:
    """Make a row for every policy: what it learned, and what its base sees in the other scenes."""
    scenes = Results(results, task)
    base, placed = scenes.of("base", what="placed"), scenes.of("policy", what="placed")
    headings = ("base", "policy", *tasks, task, "right place", "its base's")
    if base is None or placed is None:
        return TextTable("Policies", headings, [])
    columns = [Results(results, name).of("policy") for name in (*tasks, task)]
    rows = []
    for number, (pair, policy) in enumerate(scenes.policies):
        accuracies = [f"{c[number].mean():.3f}" if c is not None else "-" for c in columns]
        places = [f"{each[number].mean():.3f}" for each in (placed, base)]
        rows.append((pair, policy, *accuracies, *places))
    return TextTable("Policies", headings, rows)


def shifts(results: Sequence[Result]) -> TextTable:
    """Make a row for every level: the divergence by quarter, and the lowest minus the highest."""
    rows = []
    if results:
        kl_PSLQ = np.array([result["kl"] for result in results])
        pairs = [result["pair"] for result in results]
        for level, kl_PSQ in enumerate(np.moveaxis(kl_PSLQ, 2, 0)):
            difference_PS = kl_PSQ[..., 0] - kl_PSQ[..., -1]
            low, high = crossed_interval(difference_PS, pairs)
            cells = [f"{mean:.5f}" for mean in kl_PSQ.mean(axis=(0, 1))]
            name = str(level - 1) if level else "input"
            rows.append((name, *cells, f"{difference_PS.mean():+.5f} ({low:.5f} to {high:.5f})"))
    return TextTable(
        "KL(base || policy) in nats at visual tokens, by quarter of the base's entropy",
        ("layer", *GROUPS, "lowest - highest"),
        rows,
    )
