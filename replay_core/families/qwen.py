"""The Qwen-VL families: one grid of patches per image, rotary positions on three axes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visreplay.replay_core.errors import ContextError
from visreplay.replay_core.families.adapter import ModelAdapter
from visreplay.replay_core.segment import BlockInputs, Kind, VisualBlock


@dataclass(frozen=True)
class QwenTokens:
    """The way in which Qwen's processors write visual tokens: `VisualTokens` without a model.

    Attributes:
        image_token_id: The placeholder id of an image's tokens.
        video_token_id: The placeholder id of a video's tokens.
        merge_size: Patches per visual token along each side.
        frames_apart: Whether a video has a stretch of placeholders for every step in time, with a
            time stamp before it, instead of one stretch.
    """

    image_token_id: int
    video_token_id: int
    merge_size: int
    frames_apart: bool = False

    @property
    def placeholders(self) -> dict[int, Kind]:
        """The placeholder ids, and the kind of block that each stands for."""
        return {self.image_token_id: "image", self.video_token_id: "video"}

    def split(self, kind: Kind, batch: Mapping[str, Any]) -> list[BlockInputs]:
        """Split the images, the videos or the steps in time of videos out of a processor's output.

        Raises:
            ContextError: grids, pixels and seconds contradict each other.
        """
        suffix = "" if kind == "image" else "_videos"
        names = (f"pixel_values{suffix}", f"{kind}_grid_thw", "second_per_grid_ts")
        pixels, grids, seconds = (batch.get(name) for name in names)
        grids_N3 = torch.zeros(0, 3).long() if grids is None else torch.as_tensor(grids)
        counts = grids_N3.prod(-1)
        rows = 0 if pixels is None else len(pixels)
        if counts.sum() != rows:
            raise ContextError(
                f"{kind}_grid_thw has {int(counts.sum())} patches, but the pixel values have {rows}"
            )
        if kind == "video" and seconds is not None and len(seconds) != len(grids_N3):
            raise ContextError(
                f"second_per_grid_ts has {len(seconds)} entries for {len(grids_N3)} videos"
            )
        if rows == 0:
            return []
        if kind == "video" and self.frames_apart:
            grids_N3 = grids_N3.repeat_interleave(grids_N3[:, 0], dim=0)
            grids_N3[:, 0] = 1
            counts = grids_N3.prod(-1)
        columns = [torch.as_tensor(pixels).split(counts.tolist()), grids_N3.split(1)]
        if kind == "video" and seconds is not None:
            columns.append(torch.as_tensor(seconds, dtype=torch.float32).split(1))
        lengths = (counts // self.merge_size**2).tolist()
        return [
            (length, dict(zip(names, inputs, strict=False)))
            for length, *inputs in zip(lengths, *columns, strict=True)
        ]


class Qwen2VLAdapter(ModelAdapter):
    """Qwen2-VL: one position per step in time."""

    model_types = frozenset({"qwen2_vl"})
    vision_parts = ("visual",)
    rotary_axes = 3

    def split(self, kind: Kind, batch: Mapping[str, Any]) -> list[BlockInputs]:
        """Split by the grids."""
        config = self.model.config
        ids = (config.image_token_id, config.video_token_id)
        merge_size = config.vision_config.spatial_merge_size
        return QwenTokens(*ids, merge_size, self.frames_apart).split(kind, batch)

    def vision_inputs(self, block: VisualBlock) -> Mapping[str, Tensor]:
        """Select pixels and grid: the seconds matter for positions alone."""
        return {name: x for name, x in block.inputs.items() if name != "second_per_grid_ts"}

    def block_positions(self, block: VisualBlock, start: int) -> Tensor:
        """Number the tokens in time, height and width, as the family does."""
        positions_3T: Tensor = self.model.model.get_vision_position_ids(
            start,
            block.inputs[f"{block.kind}_grid_thw"][0],
            spatial_merge_size=self.model.config.vision_config.spatial_merge_size,
            time_interval=self.time_interval(block),
        )
        return positions_3T

    def token_grid(self, block: VisualBlock) -> tuple[int, int, int]:
        """Return the grid of merged patches."""
        t, h, w = block.inputs[f"{block.kind}_grid_thw"][0].tolist()
        merge_size = self.model.config.vision_config.spatial_merge_size
        return t, h // merge_size, w // merge_size

    def time_interval(self, block: VisualBlock) -> float | Tensor:
        """Return the positions between two steps in time."""
        return 1


class Qwen25VLAdapter(Qwen2VLAdapter):
    """Qwen2.5-VL: a video's positions in time follow its seconds."""

    model_types = frozenset({"qwen2_5_vl"})

    def time_interval(self, block: VisualBlock) -> float | Tensor:
        """Return the positions per second, times the seconds between two steps of a video."""
        if block.kind == "image":
            return 1
        # A float32 tensor, as in `get_rope_index`: the product is cut to an integer, so that its
        # last bit matters.
        rate: int = self.model.config.vision_config.tokens_per_second
        return rate * block.inputs.get("second_per_grid_ts", torch.ones(1))[0]


class Qwen3VLAdapter(Qwen2VLAdapter):
    """Qwen3-VL: a video is written as time stamps and frames; features enter several layers.

    Every step in time of a video (two frames) has a stretch of placeholders and a grid of its own,
    and the vision tower encodes each alone, so that each is a block: its low-entropy set and its
    deltas are its own, as if it were an image.

    Visual features are added to the outputs of the first layers too (`Features.deep`). Replay
    edits the input embeddings only: the deep features of the policy stay its own, and the base's
    stay the base's.
    """

    model_types = frozenset({"qwen3_vl"})
    frames_apart = True
