"""The reports of a session: a record for every visual block, a report for every append."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from torch import Tensor

from visreplay.replay_core.config import Method
from visreplay.replay_core.segment import Kind


@dataclass(frozen=True, eq=False)
class BlockRecord:
    """The record of replay on one visual block.

    Attributes:
        start: Index of its first token in the context.
        length: Number of its visual tokens.
        kind: "image" or "video".
        digest: Hash of its content.
        extent: Number of rotary positions that it takes up.
        entropy_LT: The base's entropies in nats; no layers under method "none". With a sketch,
            estimates wherever the limit was not near.
        chosen_LT: Positions where replay acts: the low-entropy sets S, or those of `config.side`.
        replaced_LT: The chosen positions where state replay put the base's activations: there the
            base has a lower entropy than the plain policy. None under the other methods.
        kl_before: Mean divergence of the policy without replay on this block from the base, on
            `chosen_LT`, in nats. Under token replay earlier blocks are replayed, under state
            replay nothing is. None where there is nothing to compare, and under state replay
            with a sketch.
        kl_after: The mean divergence after replay.
        kl_path: The mean divergence before every step of token replay.
        sizes: The processor's output for it but for the pixels: grids, seconds.
    """

    start: int
    length: int
    kind: Kind
    digest: str
    extent: int
    entropy_LT: Tensor
    chosen_LT: Tensor
    replaced_LT: Tensor | None = None
    kl_before: float | None = None
    kl_after: float | None = None
    kl_path: tuple[float, ...] = ()
    sizes: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def stop(self) -> int:
        """Index behind its last token."""
        return self.start + self.length


@dataclass(frozen=True)
class ReplayReport:
    """The report of one `append`.

    Attributes:
        method: The session's method.
        new_visual_tokens: Number of visual tokens among the appended ones.
        kl_before: Mean divergence KL(base || policy) in nats over the compared layers and the
            low-entropy sets of the new visual tokens, restricted to the base's top entries,
            before they were replayed (`BlockRecord.kl_before`). Several blocks are weighted by
            their length. None if there was nothing to compare, and under state replay with a
            sketch, which saves the lens passes for it.
        kl_after: The same divergence after replay.
        optimisation_steps: Number of gradient steps over all new blocks.
        seconds: Wall-clock time of the call.
    """

    method: Method
    new_visual_tokens: int
    kl_before: float | None
    kl_after: float | None
    optimisation_steps: int
    seconds: float

    @classmethod
    def of(cls, method: Method, records: Sequence[BlockRecord], seconds: float) -> Self:
        """Summarise the records of new blocks."""
        return cls(
            method=method,
            new_visual_tokens=sum(record.length for record in records),
            kl_before=_mean([(record.kl_before, record.length) for record in records]),
            kl_after=_mean([(record.kl_after, record.length) for record in records]),
            optimisation_steps=sum(len(record.kl_path) for record in records),
            seconds=seconds,
        )


def _mean(weighted: Sequence[tuple[float | None, int]]) -> float | None:
    """Compute the weighted mean of the values that are not None."""
    known = [(value, weight) for value, weight in weighted if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None
