"""The perturbation study of a task's samples: one result for each sample, and their summary.

Axes: S samples, C conditions: no noise, then every size of noise on every side.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visreplay.replay_core import (
    ModelPair,
    Perturbation,
    PerturbedAnswers,
    ReplayConfig,
    Segment,
    Side,
    perturb,
)
from visreplay.tasks.analysis.answers import Candidates
from visreplay.tasks.analysis.estimates import Estimator, Value
from visreplay.tasks.statistics import Floats

MEASURES = ("kl", "right", "wrong", "right_first")
"""KL at low-entropy positions in nats; mean negative log-likelihood of a token of the right answer
and of the wrong ones in nats; whether the right answer is the most probable."""


def conditions(sizes: Sequence[float]) -> list[Perturbation]:
    """List the conditions: no noise, then every side with every size."""
    noisy = [Perturbation(side, size) for side in Side for size in sorted(set(sizes))]
    return [Perturbation(Side.LOW, 0.0), *noisy]


def measure_noise(
    pair: ModelPair,
    segment: Segment,
    candidates: Candidates,
    perturbations: Sequence[Perturbation],
    config: ReplayConfig,
    seed: Sequence[int],
) -> dict[str, list[float]]:
    """Measure one sample.

    Args:
        pair: Policy and base.
        segment: The context in which the policy answers.
        candidates: The right answer and wrong ones.
        perturbations: The conditions.
        config: Settings of token replay, for the low-entropy sets.
        seed: Numbers that the noise follows from.

    Returns:
        For each of `MEASURES`, a value for each condition.
    """
    measured = perturb(pair, segment, candidates.tokens, perturbations, config, seed=seed)
    rows = [_measures(each, candidates.shared) for each in measured]
    return {name: [row[name] for row in rows] for name in MEASURES}


def _measures(answers: PerturbedAnswers, shared: int) -> dict[str, float]:
    counted = [log_probs[shared:] for log_probs in answers.log_probs]
    right, *wrong = (-float(each.mean()) for each in counted)
    totals = [float(each.sum()) for each in counted]
    return {
        "kl": answers.kl,
        "right": right,
        "wrong": float(np.mean(wrong)),
        "right_first": float(totals[0] > max(totals[1:])),
    }


def summarise_noise(
    results: Sequence[Mapping[str, Any]], perturbations: Sequence[Perturbation]
) -> dict[str, Any]:
    """Summarise many results: means over samples, with 95 % intervals.

    Samples without a low-entropy token are left out, and counted.

    Args:
        results: The results of `measure_noise`, each with the `group` of its sample.
        perturbations: The conditions.

    Returns:
        `n`; the estimates of each condition; and `rank_correlation`, Spearman's within each sample
        over its conditions, of the KL with the two negative log-likelihoods.

    Raises:
        ValueError: No sample has a low-entropy token.
    """
    kept = [result for result in results if not np.isnan(result["kl"]).any()]
    if not kept:
        raise ValueError(
            f"none of the {len(results)} samples has a low-entropy visual token: choose a higher "
            "--tau, or --threshold quantile"
        )
    over = Estimator([result["group"] for result in kept])
    values_SC = {name: np.array([result[name] for result in kept]) for name in MEASURES}

    def of(place: int) -> dict[str, Value]:
        means = {name: over.mean(values_SC[name][:, place]) for name in ("kl", "right", "wrong")}
        return {**means, "right_first": over.share(values_SC["right_first"][:, place])}

    return {
        "n": len(kept),
        "independent": over.independent,
        "without_low_entropy": len(results) - len(kept),
        "units": {"kl": "nats", "right": "nats a token", "wrong": "nats a token"},
        "conditions": [
            {"side": str(each.side) if each.size else None, "size": each.size, **of(place)}
            for place, each in enumerate(perturbations)
        ],
        "rank_correlation": {
            name: over.mean(_rank_correlations(values_SC["kl"], values_SC[name]))
            for name in ("right", "wrong")
        },
    }


def _rank_correlations(one_SC: Floats, other_SC: Floats) -> Floats:
    """Compute Spearman's rank correlation of two rows, for each sample."""
    ranks = [rows.argsort(axis=1).argsort(axis=1).astype(float) for rows in (one_SC, other_SC)]
    one, other = (rows - rows.mean(axis=1, keepdims=True) for rows in ranks)
    scale = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    correlations: Floats = (one * other).sum(axis=1) / scale
    return correlations
