"""How far RLVR, and then replay, moved the visual tokens: one sample's result, and many samples'.

A result is JSON, a line of the journal. Every sample counts alike, and intervals are over samples:
the tokens of one picture are no independent observations.

Axes: S samples, L layers, Q groups by base entropy, B bins of entropy.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visreplay.replay_core import ModelPair, ReplayConfig, Shift, compare_models
from visreplay.tasks.analysis.prompt import Opening
from visreplay.tasks.statistics import Floats, bootstrap_interval

PLAIN = "policy"
"""What the policy without replay is called among the systems."""

GROUPS = ("lowest", "second", "third", "highest")
"""Quarters of a picture's visual tokens, by base entropy at a layer."""

BINS = 48
"""Of the histograms, from 0 to ln V nats."""


def measure(
    pair: ModelPair, opening: Opening, configs: Mapping[str, ReplayConfig], *, maps: bool = False
) -> dict[str, Any]:
    """The result of one sample.

    Args:
        pair: Policy and base, both whole.
        opening: The context of the sample's first turn.
        configs: How to replay in every system; the first one is to be the plain policy.
        maps: Also keep entropy and divergence of every token, to show them on the picture.
    """
    found = compare_models(pair, opening.segment, list(configs.values()))
    vocabulary = pair.policy.head.out_features
    shifts = [Shift.of(blocks, len(GROUPS), BINS, vocabulary) for blocks in found]
    result: dict[str, Any] = {
        "visual_tokens": sum(block.length for block in opening.segment.blocks),
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
            for block, comparison in zip(opening.segment.blocks, found[0], strict=True)
        ]
    return result


def summarise_shifts(results: Sequence[Mapping[str, Any]], vocabulary: int) -> dict[str, Any]:
    """The report on all results: means over samples with 95 % bootstrap intervals.

    Args:
        results: Of `measure`.
        vocabulary: V of the histograms' bins.
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
    """Whether the low-entropy activations of the plain policy shifted most, in a sentence."""
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
    """Mean over samples of the share of tokens in every bin, `(L, B)`."""
    return (counts_SLB / counts_SLB.sum(axis=2, keepdims=True)).mean(axis=0).tolist()
