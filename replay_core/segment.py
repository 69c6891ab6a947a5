"""Segments, which are appended to a context: token ids, with images and videos between them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from visreplay.replay_core.errors import ContextError

Kind = Literal["image", "video"]

BlockInputs = tuple[int, Mapping[str, Tensor]]
"""Number of visual tokens of one block, and its `VisualBlock.inputs`."""


class VisualTokens(Protocol):
    """The way in which a model family writes visual tokens (a `ModelAdapter` is one)."""

    @property
    def placeholders(self) -> Mapping[int, Kind]:
        """The placeholder ids, and the kind of block that each stands for."""

    def split(self, kind: Kind, batch: Mapping[str, Any]) -> Sequence[BlockInputs]:
        """Split all blocks of one kind out of a processor's output, in order.

        Raises:
            ContextError: the output contradicts itself.
        """


@dataclass(frozen=True)
class VisualBlock:
    """One image or one video among the tokens of a segment.

    It is the unit of replay, and a stretch of placeholders without a gap. A family that writes a
    video as several stretches has a block for each of them (`families/`).

    Two blocks are equal if their content is, wherever they stand.

    Attributes:
        start: Index of its first token in the segment.
        length: Number of its visual tokens.
        kind: "image" or "video"; where a family writes frames as images, they are images.
        inputs: The processor's output for it, under the processor's own names (`pixel_values`,
            `image_grid_thw`, ...), as if there were no other block.
        digest: Hash of the content.
    """

    start: int = field(compare=False)
    length: int
    kind: Kind
    inputs: Mapping[str, Tensor] = field(compare=False, repr=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Hash the content.

        Raises:
            ContextError: there are no tokens.
        """
        if self.length < 1:
            raise ContextError(f"a visual block of {self.length} tokens has nothing to show")
        content = hashlib.blake2b(self.kind.encode(), digest_size=16)
        for name, tensor in sorted(self.inputs.items()):
            content.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
            values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            content.update(values.numpy().data)
        object.__setattr__(self, "digest", content.hexdigest())

    @property
    def stop(self) -> int:
        """Index behind its last token."""
        return self.start + self.length

    @property
    def sizes(self) -> dict[str, Tensor]:
        """What of the inputs is no pixels: grids, seconds."""
        return {name: x for name, x in self.inputs.items() if not name.startswith("pixel_values")}

    def at(self, start: int) -> Self:
        """Move the block to another index, without hashing its content again."""
        moved = copy(self)
        object.__setattr__(moved, "start", start)
        return moved


@dataclass(frozen=True, eq=False)
class Segment:
    """Tokens to append, with every visual placeholder already written out.

    Attributes:
        token_ids: 1-D integer tensor. A visual block holds its placeholder id `length` times.
        blocks: The visual blocks in order, which must not overlap.
    """

    token_ids: Tensor
    blocks: tuple[VisualBlock, ...] = ()

    def __post_init__(self) -> None:
        """Check the layout.

        Raises:
            ContextError: ids that are not a vector of integers, or blocks out of place.
        """
        if self.token_ids.ndim != 1 or self.token_ids.is_floating_point():
            raise ContextError(
                "token_ids must be a vector of integers, but has shape "
                f"{tuple(self.token_ids.shape)} and dtype {self.token_ids.dtype}"
            )
        object.__setattr__(self, "token_ids", self.token_ids.detach().long().cpu())
        end = 0
        for block in self.blocks:
            if block.start < end or block.stop > len(self):
                raise ContextError(
                    f"a visual block covers tokens {block.start} to {block.stop - 1}, but must "
                    f"start at {end} or later and end within the segment's {len(self)} tokens"
                )
            end = block.stop

    def __len__(self) -> int:
        """Number of tokens."""
        return self.token_ids.shape[0]

    @classmethod
    def from_ids(cls, ids: Sequence[int]) -> "Segment":
        """Make a segment of text alone."""
        return cls(torch.tensor(ids, dtype=torch.long))

    @classmethod
    def from_processor(cls, batch: Mapping[str, Any], tokens: VisualTokens) -> "Segment":
        """Split the output of a Hugging Face processor for one prompt into blocks.

        Args:
            batch: `input_ids` (1, T) and, for images and videos, the other outputs of the family's
                processor (`pixel_values`, `image_grid_thw`, ...).
            tokens: The way in which the family writes visual tokens (the policy's adapter).

        Raises:
            ContextError: several prompts at once, or placeholders, sizes and pixels that do not
                match each other; names both counts.
        """
        input_ids = torch.as_tensor(batch["input_ids"])
        if input_ids.ndim == 2 and input_ids.shape[0] != 1:
            raise ContextError(f"one prompt is expected, but input_ids holds {input_ids.shape[0]}")
        ids = input_ids.reshape(-1)
        kinds = tokens.placeholders
        parts = {kind: tokens.split(kind, batch) for kind in kinds.values()}
        used = dict.fromkeys(parts, 0)
        blocks: list[VisualBlock] = []
        end = 0
        for start in torch.isin(ids, torch.tensor(list(kinds))).nonzero().flatten().tolist():
            # Two blocks may touch, so the content says where a block ends, not the next text token.
            if start < end:
                continue
            kind = kinds[int(ids[start])]
            if used[kind] == len(parts[kind]):
                raise ContextError(
                    f"the {kind} placeholder at token {start} has no {kind}: "
                    f"{len(parts[kind])} {kind} block(s) were given"
                )
            length, inputs = parts[kind][used[kind]]
            used[kind] += 1
            end = start + length
            placeholders = int((ids[start:end] == ids[start]).sum())
            if placeholders < length:
                raise ContextError(
                    f"the {kind} at token {start} is {length} visual tokens, but {placeholders} "
                    "placeholders: processor and model must belong to one checkpoint"
                )
            blocks.append(VisualBlock(start, length, kind, inputs))
        for kind, count in used.items():
            if count < len(parts[kind]):
                raise ContextError(
                    f"{len(parts[kind])} {kind} block(s) were given, but the tokens have "
                    f"placeholders for {count}"
                )
        return cls(ids, tuple(blocks))

    def after(self, length: int) -> "Segment":
        """Return the segment without its first `length` tokens.

        Raises:
            ContextError: `length` is more than there is, or lies inside a visual block.
        """
        if not 0 <= length <= len(self):
            raise ContextError(f"cannot skip {length} tokens of a segment of {len(self)}")
        for block in self.blocks:
            if block.start < length < block.stop:
                raise ContextError(
                    f"{length} lies inside the {block.kind} at tokens {block.start} to "
                    f"{block.stop - 1}: a visual block is kept or skipped as a whole"
                )
        rest = (block for block in self.blocks if block.start >= length)
        blocks = tuple(block.at(block.start - length) for block in rest)
        return Segment(self.token_ids[length:], blocks)

    def pieces(self) -> Iterator[tuple[Tensor, VisualBlock | None]]:
        """Iterate over stretches of text (ids, None) and visual blocks (ids, block), in order."""
        end = 0
        for block in self.blocks:
            if block.start > end:
                yield self.token_ids[end : block.start], None
            yield self.token_ids[block.start : block.stop], block
            end = block.stop
        if end < len(self):
            yield self.token_ids[end:], None
