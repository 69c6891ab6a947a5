"""How disturbed a policy is, and the most that the replay of visual activations can repair.

Three questions, the cheapest first: which weights differ from the base's, how far the visual
activations moved, and how many more samples the policy answers with the base's own visual
activations in their place. The last is a bound for every method that replays visual activations:
no method puts more of the base there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from visreplay.agent import VisualAgent
from visreplay.replay_core import Method, ModelPair, ReplayConfig, Segment, Shift, compare_models
from visreplay.replay_core.analysis import base_of, compare_features
from visreplay.replay_core.config import Side
from visreplay.tasks.analysis.shifts import BINS, GROUPS
from visreplay.tasks.evaluation.tables import TextTable
from visreplay.tasks.statistics import Estimate, estimates
from visreplay.tasks.types import Sample, Task
from visreplay.tools import ImageStore

POLICY = "policy"
FEATURES = "with the base's visual features"
ACTIVATIONS = "with all visual activations of the base"


@dataclass(frozen=True, slots=True)
class PartChange:
    """How much the weights of a part of the model differ.

    Attributes:
        part: The part.
        tensors: The number of its tensors.
        changed: How many of them differ.
        relative: The norm of the difference, as a share of the base's norm.
    """

    part: str
    tensors: int
    changed: int
    relative: float


def changed_parts(pair: ModelPair) -> list[PartChange]:
    """Compare the weights of policy and base, part by part.

    Args:
        pair: Both models, the base with all of its layers.

    Raises:
        ConfigError: The pair has no base.
    """
    policy, base = pair.policy, base_of(pair)
    theirs = dict(base.model.named_parameters())
    vision = {id(weight) for weight in policy.vision.values()}
    sums: dict[str, list[float]] = {}
    for name, weight in policy.model.named_parameters():
        part = "vision tower" if id(weight) in vision else _part_of(name)
        tensors, changed, moved, size = sums.get(part, [0, 0, 0.0, 0.0])
        # What the base shares with the policy was equal when the pair was made.
        other = theirs.get(name, weight)
        difference = 0.0
        if other is not weight:
            difference = float((weight.float() - other.to(weight).float()).square().sum())
        sums[part] = [
            tensors + 1,
            changed + (difference > 0),
            moved + difference,
            size + float(other.float().square().sum()),
        ]
    return [
        PartChange(part, int(tensors), int(changed), (moved / size) ** 0.5 if size else 0.0)
        for part, (tensors, changed, moved, size) in sums.items()
    ]


def _part_of(name: str) -> str:
    if "lm_head" in name:
        return "LM head"
    return "token embeddings" if "embed_tokens" in name else "decoder layers"


def systems(pair: ModelPair) -> dict[str, ReplayConfig]:
    """Give the policy, and the two bounds: the base's features, and all its visual activations."""
    bound = ReplayConfig(Method.FEATURE, side=Side.ALL)
    whole = ReplayConfig(Method.FEATURE, side=Side.ALL, patched_layers=pair.policy.depth)
    return {POLICY: ReplayConfig(Method.NONE), FEATURES: bound, ACTIVATIONS: whole}


def measure_sample(
    task: Task, sample: Sample, segment: Segment, agents: Mapping[str, VisualAgent]
) -> dict[str, Any]:
    """Measure one sample.

    Args:
        task: The task.
        sample: Its sample.
        segment: The prompt of its first turn.
        agents: The agent of each of `systems`; each plays one greedy episode.

    Returns:
        JSON values: whether each system is right, and KL(base || policy) in nats at visual tokens
        by quarter of the base's entropy, at the input and after every layer, `(1 + L, Q)`.
    """
    right = {}
    for name, agent in agents.items():
        # A store of its own: one in memory never forgets, and a run has many samples.
        player = agent.with_store(ImageStore())
        question = sample.parts or sample.question
        episode = player.run(question, images=sample.images, video=sample.video)
        player.close()
        right[name] = task.is_right(sample, episode.answer)
    return {"right": right, "kl": quarters(agents[POLICY].pair, segment)}


def quarters(pair: ModelPair, segment: Segment) -> list[list[float]]:
    """Measure KL(base || policy) in nats at the visual tokens of a prompt.

    Args:
        pair: Both models.
        segment: The prompt.

    Returns:
        Means by quarter of the base's entropy, the lowest first, at the input and after every
        layer, `(1 + L, Q)`.
    """
    plain = ReplayConfig(Method.NONE)
    (compared,) = compare_models(pair, segment, [plain])
    parts = (compare_features(pair, segment, plain), compared.blocks)
    vocabulary = pair.policy.head.out_features
    shifts = (Shift.of(each, len(GROUPS), BINS, vocabulary).kl_LQ.tolist() for each in parts)
    return [row for shift in shifts for row in shift]


def summarise(results: Sequence[Mapping[str, Any]], parts: Sequence[PartChange]) -> dict[str, Any]:
    """Summarise the results of samples: means with 95 % intervals over samples.

    Args:
        results: The results of `measure_sample`, each with the `group` of its sample.
        parts: From `changed_parts`.
    """
    groups = [result["group"] for result in results]
    names = list(results[0]["right"])
    right = np.array([[float(result["right"][name]) for name in names] for result in results])
    gains = right[:, 1:] - right[:, :1]
    return {
        "n": len(results),
        "weights": [asdict(part) for part in parts],
        "kl": np.nanmean([result["kl"] for result in results], axis=0).tolist(),
        "accuracy": _named(names, estimates(right, groups)),
        "gain": _named(names[1:], estimates(gains, groups, bounds=(-1.0, 1.0))),
    }


def _named(names: Sequence[str], values: Sequence[Estimate]) -> dict[str, Any]:
    return {name: asdict(value) for name, value in zip(names, values, strict=True)}


def tables(report: Mapping[str, Any]) -> list[TextTable]:
    """Lay out weights, divergences and bounds."""
    weights = [
        (
            part["part"],
            str(part["tensors"]),
            str(part["changed"]),
            f"{100 * part['relative']:.2f} %",
        )
        for part in report["weights"]
    ]
    rows = ["input", *map(str, range(len(report["kl"]) - 1))]
    shifts = [
        (name, *(f"{value:.5f}" for value in quarters))
        for name, quarters in zip(rows, report["kl"], strict=True)
    ]
    bounds = [
        (
            name,
            Estimate(**value).percent,
            Estimate(**report["gain"][name]).percent if name in report["gain"] else "",
        )
        for name, value in report["accuracy"].items()
    ]
    return [
        TextTable(
            "Weights of the policy beside the base's",
            ("part", "tensors", "that differ", "size of the difference"),
            weights,
        ),
        TextTable(
            f"KL(base || policy) in nats at visual tokens, n = {report['n']} samples\n"
            "by quarter of the base's entropy; input: what the vision tower gives",
            ("layer", *GROUPS),
            shifts,
        ),
        TextTable(
            f"The most that replay of visual activations can repair, n = {report['n']} samples\n"
            "greedy accuracy in %, and the gain in points, with 95 % intervals",
            ("policy", "accuracy", "gain"),
            bounds,
        ),
    ]


def verdict(report: Mapping[str, Any]) -> str:
    """Say in a sentence whether there is anything to repair."""
    if not any(part["changed"] for part in report["weights"]):
        return "nothing to repair: the policy has the weights of its base"
    gains = report["gain"]
    best = max(gains, key=lambda name: float(gains[name]["value"]))
    low, value, high = (100 * gains[best][end] for end in ("low", "value", "high"))
    measured = f"{value:+.1f} points ({low:.1f} to {high:.1f}) {best}, n = {report['n']}"
    if low > 0:
        return f"up to {value:.0f} points to repair: {measured}"
    if value <= 0:
        return f"nothing to repair was found: {measured}"
    return f"undecided: {measured}; take more samples"
