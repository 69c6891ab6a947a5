"""The distances by which RLVR, and then replay, moved the visual tokens.

The result of one sample is JSON, a line of the journal; a report summarises many. Every sample has
the same weight, and intervals are over samples, because the tokens of one picture are not
independent.

Axes: S samples, L layers, Q groups by base entropy, B bins of entropy.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visreplay.replay_core import ModelPair, ReplayConfig, Shift, compare_models
from visreplay.tasks.analysis.prompt import Prompt
from visreplay.tasks.statistics import Floats, bootstrap_interval

PLAIN = "policy"
"""The name of the policy without replay among the systems."""

GROUPS = ("lowest", "second", "third", "highest")
"""Quarters of a picture's visual tokens, by base entropy at a layer."""

BINS = 48
"""The number of bins of a histogram, from 0 to ln V nats."""


def measure_shifts(
    pair: ModelPair, prompt: Prompt, configs: Mapping[str, ReplayConfig], *, maps: bool = False
) -> dict[str, Any]:
    """Measure one sample.

    Args:
        pair: Policy and base, both with all of their layers.
        prompt: The prompt of the sample's first turn.
        configs: The replay settings of every system, by name; the first is the plain policy.
        maps: Whether to keep entropy and divergence of every token too, to draw them on a picture.

    Returns:
        JSON values: the number of visual tokens; for the base, entropies in nats `(L, Q)` and
        their histograms `(L, B)`; for each system, KL(base || policy) in nats `(L, Q)`, the share
        of changed top entries `(L, Q)` and histograms `(L, B)`; the maps if they are wanted.
    """
    comparisons = compare_models(pair, prompt.segment, list(configs.values()))
    vocabulary = pair.policy.head.out_features
    shifts = [Shift.of(blocks, len(GROUPS), BINS, vocabulary) for blocks in comparisons]
    result: dict[str, Any] = {
        "visual_tokens": sum(block.length for block in prompt.segment.blocks),
        "base": {
            "entropy": shifts[0].base_entropy_LQ.tolist(),
            "histogram": shifts[0].base_entropy_LB.tolist(),
        },
        "systems": {
            name: {
                "kl": shift.kl_LQ.tolist(),
                "changed": shift.changed_LQ.tolist(),
                "histogram": shift.entropy_LB.tolist(),
            }
            for name, shift in zip(configs, shifts, strict=True)
        },
    }
    if maps:
        result["maps"] = [
            {
                "grid": pair.policy.token_grid(block),
                "entropy": comparison.base_entropy.tolist(),
                "kl": comparison.kl.tolist(),
            }
            for block, comparison in zip(prompt.segment.blocks, comparisons[0], strict=True)
        ]
    return result


def summarise_shifts(results: Sequence[Mapping[str, Any]], vocabulary: int) -> dict[str, Any]:
    """Summarise many results: means over samples with 95 % bootstrap intervals.

    Args:
        results: The results of `measure_shifts`.
        vocabulary: The size V of the vocabulary, which the bins of the histograms depend on.
    """

    def stacked(*path: str) -> Floats:
        rows = []
        for result in results:
            value: Any = result
            for name in path:
                value = value[name]
            rows.append(value)
        return np.array(rows, dtype=np.float64)

    systems = {}
    for name in results[0]["systems"]:
        kl_SLQ = stacked("systems", name, "kl")
        changed_SLQ = stacked("systems", name, "changed")
        systems[name] = {
            "kl": _estimate(kl_SLQ),
            "kl_of_all": _estimate(kl_SLQ.mean(axis=2)),
            "kl_lowest_minus_highest": _estimate(kl_SLQ[:, :, 0] - kl_SLQ[:, :, -1]),
            "changed": _estimate(changed_SLQ),
            "changed_of_all": _estimate(changed_SLQ.mean(axis=2)),
            "histogram": _shares(stacked("systems", name, "histogram")),
        }
    layers = len(results[0]["base"]["entropy"])
    return {
        "n": len(results),
        "visual_tokens": sum(result["visual_tokens"] for result in results),
        "layers": layers,
        "groups": GROUPS,
        "units": {"kl": "nats", "entropy": "nats", "changed": "share", "histogram": "share"},
        "bin_edges": np.linspace(0, math.log(vocabulary), BINS + 1).tolist(),
        "base": {
            "entropy": _estimate(stacked("base", "entropy")),
            "histogram": _shares(stacked("base", "histogram")),
        },
        "systems": systems,
    }


def verdict(report: Mapping[str, Any]) -> str:
    """Say in a sentence whether low-entropy activations of the plain policy shifted most."""
    difference = report["systems"][PLAIN]["kl_lowest_minus_highest"]
    ends = list(zip(difference["low"], difference["high"], strict=True))
    more = [str(layer) for layer, (low, _) in enumerate(ends) if low > 0]
    less = [str(layer) for layer, (_, high) in enumerate(ends) if high < 0]
    return (
        f"KL of the lowest quarter minus KL of the highest, n = {report['n']}: the 95 % interval "
        f"is above 0 in {len(more)} of {report['layers']} layers ({', '.join(more) or 'none'}), "
        f"below 0 in {len(less)} ({', '.join(less) or 'none'})"
    )


def _estimate(values: Floats) -> dict[str, Any]:
    low, high = bootstrap_interval(values, draws=2000)
    mean = values.mean(axis=0)
    return {"mean": mean.tolist(), "low": low.tolist(), "high": high.tolist()}


def _shares(counts_SLB: Floats) -> Any:
    """Average the share of tokens in every bin over samples, `(L, B)`."""
    return (counts_SLB / counts_SLB.sum(axis=2, keepdims=True)).mean(axis=0).tolist()
