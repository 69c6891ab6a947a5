"""How near to its base the authors' 25 steps and ours bring the policy, on the embedded pair.

What is measured is the divergence at the same depth of both models on the low-entropy sets, in
nats. The authors' settings, plain descent at rate 10, are run by `reference.py` for two objectives:
at the same depth, as the paper's text has it; and as released, where the policy's input of a layer
is compared with the base's output. Layers and limits are those of the pair in all cases.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean
from typing import Any

import torch
from counted import mean_row, picture
from reference import Reference
from rows import Row
from transformers import AutoModelForImageTextToText

from visreplay.replay_core import (
    EMBEDDED,
    Alignment,
    Method,
    ModelPair,
    ReplaySession,
    Segment,
    embedded_config,
    load_pair,
)
from visreplay.tasks.types import Split

STEPS, RATE = 25, 10.0
"""The authors' settings."""


@dataclass(frozen=True)
class Divergences:
    """The mean divergence of one picture, in nats.

    Attributes:
        before: Without replay.
        same_depth: After the authors' steps for the objective at the same depth.
        released: After the authors' steps for the objective of their code.
        ours: After 0, 1, 2, ... of our steps; the last is the result of the default settings.
    """

    before: float
    same_depth: float
    released: float
    ours: tuple[float, ...]

    @property
    def enough(self) -> int:
        """The number of our steps that reach the lower one of the authors' two.

        Raises:
            RuntimeError: all of our steps do not.
        """
        target = min(self.same_depth, self.released)
        for steps, reached in enumerate(self.ours):
            if reached <= target:
                return steps
        raise RuntimeError(f"our steps do not reach {target} nats: {self.ours}")


@cache
def measured(samples: int = 30) -> list[Divergences]:
    """Measure the first held-out pictures."""
    pair = load_pair("embedded", device="cpu")
    models = tuple(
        AutoModelForImageTextToText.from_pretrained(EMBEDDED / name).eval().requires_grad_(False)
        for name in ("policy", "base")
    )
    seeds = range(Split.HELD_OUT, Split.HELD_OUT + samples)
    return [_measured(pair, *models, picture(pair, seed)) for seed in seeds]


def _measured(pair: ModelPair, policy: Any, base: Any, segment: Segment) -> Divergences:
    config = embedded_config(Method.TOKEN)
    with ReplaySession(pair, config) as session:
        session.append(segment)
        block = session.blocks[0]
    same_depth, released = (
        _after_authors_steps(policy, base, segment, alignment) for alignment in Alignment
    )
    assert block.kl_before is not None
    assert block.kl_after is not None
    path = (*block.kl_path, block.kl_after)
    return Divergences(block.kl_before, same_depth, released, path)


@torch.no_grad()
def _after_authors_steps(policy: Any, base: Any, segment: Segment, alignment: Alignment) -> float:
    """Run all of the authors' steps, and measure at the same depth."""
    config = embedded_config(
        Method.TOKEN, alignment=alignment, optimizer="sgd", steps=STEPS, learning_rate=RATE
    )
    reference = Reference(policy, base, config)
    (image,) = reference.extend(segment)
    reading = reference.read(base)
    reference.replay(image, reading)
    reference.config = replace(config, alignment=Alignment.SAME)
    loss = float(reference.loss(image, reading, reference.prefill()[1]))
    return loss * image.block.length / int(reference.low_entropy(image, reading).any(dim=1).sum())


def steps_enough() -> int:
    """Return the number of our steps that reach the authors' divergence on every picture."""
    return max(each.enough for each in measured())


def rows() -> Iterator[Row]:
    """Compare what is left of the divergence."""
    pictures = measured()
    steps = embedded_config(Method.TOKEN).steps
    results = {
        f"authors' {STEPS} steps, released objective": [each.released for each in pictures],
        f"authors' {STEPS} steps, same depth": [each.same_depth for each in pictures],
        f"our default, at most {steps} steps": [each.ours[-1] for each in pictures],
    }
    before = [each.before for each in pictures]
    for what, after in results.items():
        left = [high / low for high, low in zip(after, before, strict=True)]
        note = f"{fmean(before):.3g} -> {fmean(after):.3g} nats, n = {len(left)} pictures"
        yield mean_row(
            f"share of the divergence that is left: {what}, embedded pair", left, None, note
        )
    enough = [float(each.enough) for each in pictures]
    name = "our steps until the authors' divergence, embedded pair"
    yield mean_row(name, enough, None, f"n = {len(enough)} pictures")
