"""What is appended to a context: token ids, and the pictures and clips between them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from visreplay.replay_core.errors import ContextError

Kind = Literal["image", "video"]


class VisualTokens(Protocol):
    """How a model family writes visual tokens (a `ModelAdapter` is one)."""

    @property
    def image_token_id(self) -> int:
        """The placeholder id of an image's tokens."""

    @property
    def video_token_id(self) -> int:
        """The placeholder id of a video's tokens."""

    @property
    def merge_size(self) -> int:
        """Patches per visual token along each side."""


@dataclass(frozen=True)
class VisualBlock:
    """One image or one video clip among the tokens of a segment.

    Two blocks are equal if they show the same, wherever they stand.

    Attributes:
        start: Index of its first token in the segment.
        length: Number of its visual tokens.
        kind: "image" or "video".
        grid_thw: Patches in time, height and width.
        pixel_values: The processor's patches, `(t * h * w, patch values)`.
        seconds_per_grid: Seconds between two steps in time; of no meaning for images.
        digest: Hash of the content.
    """

    start: int = field(compare=False)
    length: int
    kind: Kind
    grid_thw: tuple[int, int, int]
    pixel_values: Tensor = field(compare=False, repr=False)
    seconds_per_grid: float = 1.0
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Hash the content."""
        pixels = self.pixel_values.detach().cpu().contiguous().view(torch.uint8)
        content = hashlib.blake2b(pixels.numpy().data, digest_size=16)
        content.update(repr((self.kind, self.grid_thw, self.seconds_per_grid)).encode())
        object.__setattr__(self, "digest", content.hexdigest())

    @property
    def stop(self) -> int:
        """Index behind its last token."""
        return self.start + self.length


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
        """A segment of text alone."""
        return cls(torch.tensor(ids, dtype=torch.long))

    @classmethod
    def from_processor(cls, batch: Mapping[str, Any], tokens: VisualTokens) -> "Segment":
        """Split the output of a Hugging Face processor for one prompt into blocks.

        Args:
            batch: `input_ids` (1, T) and, as far as there is something visual, `pixel_values`
                and `image_grid_thw`, `pixel_values_videos`, `video_grid_thw` and
                `second_per_grid_ts`.
            tokens: The model family's placeholder ids and merge size (the policy's adapter).

        Raises:
            ContextError: several prompts at once, or placeholders, grids and pixels that do not
                match each other; names both counts.
        """
        input_ids = torch.as_tensor(batch["input_ids"])
        if input_ids.ndim == 2 and input_ids.shape[0] != 1:
            raise ContextError(f"one prompt is expected, but input_ids holds {input_ids.shape[0]}")
        ids = input_ids.reshape(-1)
        supplies = {
            tokens.image_token_id: _Supply("image", batch, tokens.merge_size),
            tokens.video_token_id: _Supply("video", batch, tokens.merge_size),
        }
        visual = (ids == tokens.image_token_id) | (ids == tokens.video_token_id)
        blocks: list[VisualBlock] = []
        end = 0
        for start in visual.nonzero().flatten().tolist():
            if start < end:
                continue
            token_id = int(ids[start])
            block = supplies[token_id].take(start)
            end = block.stop
            # Two blocks may touch, so the grid says where a block ends, not the next text token.
            if end > len(ids) or bool((ids[start:end] != token_id).any()):
                run = int((ids[start:end] == token_id).sum())
                raise ContextError(
                    f"the {block.kind} at token {start} has a grid of {block.grid_thw}, which is "
                    f"{block.length} tokens, but {run} placeholders"
                )
            blocks.append(block)
        for supply in supplies.values():
            supply.check_used_up()
        return cls(ids, tuple(blocks))

    def after(self, length: int) -> "Segment":
        """What follows the first `length` tokens.

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
        blocks = tuple(replace(block, start=block.start - length) for block in rest)
        return Segment(self.token_ids[length:], blocks)

    def pieces(self) -> Iterator[tuple[Tensor, VisualBlock | None]]:
        """Stretches of text (ids, None) and visual blocks (ids, block), in order."""
        end = 0
        for block in self.blocks:
            if block.start > end:
                yield self.token_ids[end : block.start], None
            yield self.token_ids[block.start : block.stop], block
            end = block.stop
        if end < len(self):
            yield self.token_ids[end:], None


class _Supply:
    """Hands out the images, or the videos, of a processor's output one by one."""

    def __init__(self, kind: Kind, batch: Mapping[str, Any], merge_size: int) -> None:
        self.kind: Kind = kind
        self.merge_size = merge_size
        grids = batch.get(f"{kind}_grid_thw")
        self.grids = [] if grids is None else torch.as_tensor(grids).tolist()
        self.pixels = batch.get("pixel_values" if kind == "image" else "pixel_values_videos")
        seconds = batch.get("second_per_grid_ts") if kind == "video" else None
        self.seconds = (
            [1.0] * len(self.grids) if seconds is None else torch.as_tensor(seconds).tolist()
        )
        if len(self.seconds) != len(self.grids):
            raise ContextError(
                f"second_per_grid_ts has {len(self.seconds)} entries for {len(self.grids)} videos"
            )
        patches = sum(t * h * w for t, h, w in self.grids)
        rows = 0 if self.pixels is None else len(self.pixels)
        if patches != rows:
            raise ContextError(
                f"{kind}_grid_thw speaks of {patches} patches, but the pixel values have {rows}"
            )
        self.used = 0
        self.row = 0

    def take(self, start: int) -> VisualBlock:
        """The next one, as a block whose first token is `start`."""
        if self.used == len(self.grids):
            raise ContextError(
                f"the {self.kind} placeholder at token {start} has no {self.kind}: "
                f"{len(self.grids)} were given"
            )
        t, h, w = self.grids[self.used]
        rows = slice(self.row, self.row + t * h * w)
        seconds = self.seconds[self.used]
        self.used, self.row = self.used + 1, rows.stop
        return VisualBlock(
            start=start,
            length=t * h * w // self.merge_size**2,
            kind=self.kind,
            grid_thw=(t, h, w),
            pixel_values=torch.as_tensor(self.pixels)[rows],
            seconds_per_grid=seconds,
        )

    def check_used_up(self) -> None:
        """Refuse images or videos without a placeholder."""
        if self.used < len(self.grids):
            raise ContextError(
                f"{len(self.grids)} {self.kind}s were given, but the tokens have placeholders "
                f"for {self.used}"
            )
