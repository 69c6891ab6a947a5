"""The shifts of a task's samples: one result for each sample, and their summary with intervals.

Intervals are of means over samples, because the tokens of one prompt are not independent.

Axes: S samples, L layers, Q groups by base entropy, B bins of entropy.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visreplay.replay_core import LensComparison, ModelPair, ReplayConfig, Shift, compare_models
from visreplay.replay_core.analysis import PromptComparison
from visreplay.replay_core.released_objective import ObjectiveTerms, objective_terms
from visreplay.tasks.analysis.estimates import ENOUGH, Estimator
from visreplay.tasks.analysis.prompt import Prompt
from visreplay.tasks.analysis.words import count_words, summarise_words, token_text
from visreplay.tasks.statistics import Floats

PLAIN = "policy"
"""The name of the policy without replay among the systems."""

GROUPS = ("lowest", "second", "third", "highest")
"""Quarters of the tokens by base entropy at a layer: of each picture's visual tokens, of the
prompt's text, or of the whole prompt."""

KINDS = {
    "visual": "visual tokens",
    "text": "text tokens",
    "all": "visual and text tokens together",
}
"""The kinds of tokens that are measured, each by itself, and what they are called."""

BINS = 48
"""The number of bins of a histogram, from 0 to ln V nats."""


def measure_shifts(
    pair: ModelPair,
    prompt: Prompt,
    configs: Mapping[str, ReplayConfig],
    objective: ReplayConfig,
    *,
    maps: bool = False,
) -> dict[str, Any]:
    """Measure one sample.

    Args:
        pair: Policy and base, both with all of their layers.
        prompt: The prompt of the sample's first turn.
        configs: The replay settings of every system, by name; the first is the plain policy.
        objective: Settings of token replay, for the terms of its objective.
        maps: Whether to keep entropy and divergence of every token too, to draw them on a picture.

    Returns:
        JSON values. For each of `KINDS`, the number of tokens; for the base, entropies in nats
        `(L, Q)` and their histograms `(L, B)`; for each system, KL(base || policy) in nats
        `(L, Q)`, the share of changed top entries `(L, Q)` and histograms `(L, B)`. The terms of
        the objective; counts of the lens' top entries; the maps if they are wanted.
    """
    segment = prompt.segment
    compared = dict(
        zip(configs, compare_models(pair, segment, list(configs.values())), strict=True)
    )
    vocabulary = pair.policy.head.out_features
    parts = {name: _parts(comparison) for name, comparison in compared.items()}
    result: dict[str, Any] = {
        kind: _kind({name: each[kind] for name, each in parts.items()}, vocabulary)
        for kind in KINDS
    }
    result["objective"] = _objective(objective_terms(pair, segment, objective))
    result["words"] = {
        kind: {name: count_words(each[kind], len(GROUPS)) for name, each in parts.items()}
        for kind in ("visual", "text")
    }
    if maps:
        result["maps"] = [
            {
                "grid": pair.policy.token_grid(block),
                "entropy": comparison.base_entropy.tolist(),
                "kl": comparison.kl.tolist(),
            }
            for block, comparison in zip(segment.blocks, compared[PLAIN].blocks, strict=True)
        ]
    return result


def _parts(comparison: PromptComparison) -> dict[str, list[LensComparison]]:
    """Split a comparison by kind of token; groups are formed within each part."""
    assert comparison.text is not None  # every chat template writes some
    return {
        "visual": comparison.blocks,
        "text": [comparison.text],
        "all": [comparison.everything],
    }


def _kind(parts: Mapping[str, Sequence[LensComparison]], vocabulary: int) -> dict[str, Any]:
    """Reduce the comparisons of every system on one kind of token."""
    shifts = {name: Shift.of(each, len(GROUPS), BINS, vocabulary) for name, each in parts.items()}
    plain = shifts[PLAIN]
    return {
        "tokens": sum(part.kl.shape[1] for part in parts[PLAIN]),
        "base": {
            "entropy": plain.base_entropy_LQ.tolist(),
            "histogram": plain.base_entropy_LB.tolist(),
        },
        "systems": {
            name: {
                "kl": shift.kl_LQ.tolist(),
                "changed": shift.changed_LQ.tolist(),
                "histogram": shift.entropy_LB.tolist(),
            }
            for name, shift in shifts.items()
        },
    }


OBJECTIVES = ("released", "released_base", "same_depth")
"""The released objective with the policy, with the base in its place, and that of one depth."""


def _objective(blocks: Sequence[ObjectiveTerms]) -> dict[str, Any]:
    """Average the terms of each layer, and the objective itself, over a prompt's visual blocks."""
    result: dict[str, Any] = {}
    for name in OBJECTIVES:
        terms = [getattr(block, f"{name}_L") for block in blocks]
        losses = [
            float(each.sum()) / block.tokens for each, block in zip(terms, blocks, strict=True)
        ]
        result[name] = np.mean([each.tolist() for each in terms], axis=0).tolist()
        result[f"{name}_loss"] = float(np.mean(losses))
    return result


def summarise_shifts(
    results: Sequence[Mapping[str, Any]], vocabulary: int, tokenizer: Any
) -> dict[str, Any]:
    """Summarise many results: means over samples, with 95 % bootstrap intervals.

    Args:
        results: The results of `measure_shifts`, each with the `group` of its sample.
        vocabulary: The size V of the vocabulary, which the bins of the histograms depend on.
        tokenizer: Writes the entries of the vocabulary out.
    """
    over = Estimator([result["group"] for result in results])
    return {
        "n": len(results),
        "independent": over.independent,
        "layers": len(results[0]["visual"]["base"]["entropy"]),
        "groups": GROUPS,
        "units": {"kl": "nats", "entropy": "nats", "changed": "share", "histogram": "share"},
        "bin_edges": np.linspace(0, math.log(vocabulary), BINS + 1).tolist(),
        **{kind: _summary([result[kind] for result in results], over) for kind in KINDS},
        "objective": _objective_summary([result["objective"] for result in results], over),
        "words": {
            kind: summarise_words(
                [result["words"][kind] for result in results],
                lambda entry: token_text(tokenizer, entry),
            )
            for kind in results[0]["words"]
        },
    }


def _summary(results: Sequence[Mapping[str, Any]], over: Estimator) -> dict[str, Any]:
    """Summarise one kind of token."""
    systems = {}
    for name in results[0]["systems"]:
        kl_SLQ = _stacked(results, "systems", name, "kl")
        changed_SLQ = _stacked(results, "systems", name, "changed")
        systems[name] = {
            "kl": over.mean(kl_SLQ),
            "kl_of_all": over.mean(kl_SLQ.mean(axis=2)),
            "kl_lowest_minus_highest": over.mean(kl_SLQ[:, :, 0] - kl_SLQ[:, :, -1]),
            "changed": over.mean(changed_SLQ),
            "changed_of_all": over.mean(changed_SLQ.mean(axis=2)),
            "histogram": _shares(_stacked(results, "systems", name, "histogram")),
        }
    return {
        "tokens": sum(result["tokens"] for result in results),
        "base": {
            "entropy": over.mean(_stacked(results, "base", "entropy")),
            "histogram": _shares(_stacked(results, "base", "histogram")),
        },
        "systems": systems,
    }


def _objective_summary(results: Sequence[Mapping[str, Any]], over: Estimator) -> dict[str, Any]:
    """Summarise the terms and the objectives, and the share that is there without RLVR."""
    summary: dict[str, Any] = {}
    for suffix in ("", "_loss"):
        for name in OBJECTIVES:
            summary[name + suffix] = over.mean(_stacked(results, name + suffix))
        summary["share" + suffix] = over.ratio(
            _stacked(results, "released_base" + suffix), _stacked(results, "released" + suffix)
        )
    return summary


def verdict(report: Mapping[str, Any], kind: str = "visual") -> str:
    """Say in a sentence whether low-entropy activations of the plain policy shifted most."""
    opening = (
        f"KL of the lowest quarter minus KL of the highest at {KINDS[kind]}, n = {report['n']}"
    )
    difference = report[kind]["systems"][PLAIN]["kl_lowest_minus_highest"]
    if difference["low"] is None:
        return f"{opening}: no statement, which takes {ENOUGH} samples or more"
    ends = list(zip(difference["low"], difference["high"], strict=True))
    more = [str(layer) for layer, (low, _) in enumerate(ends) if low > 0]
    less = [str(layer) for layer, (_, high) in enumerate(ends) if high < 0]
    return (
        f"{opening}: the 95 % interval is above 0 in {len(more)} of {report['layers']} layers "
        f"({', '.join(more) or 'none'}), below 0 in {len(less)} ({', '.join(less) or 'none'})"
    )


def _stacked(results: Sequence[Mapping[str, Any]], *path: str) -> Floats:
    """Stack the values at one place of all results."""
    rows = []
    for result in results:
        value: Any = result
        for name in path:
            value = value[name]
        rows.append(value)
    return np.array(rows, dtype=np.float64)


def _shares(counts_SLB: Floats) -> Any:
    """Average the share of tokens in every bin over samples, `(L, B)`."""
    return (counts_SLB / counts_SLB.sum(axis=2, keepdims=True)).mean(axis=0).tolist()
