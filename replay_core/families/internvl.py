"""InternVL3: images cut into square tiles, a fixed number of visual tokens each."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from visreplay.replay_core.errors import ContextError
from visreplay.replay_core.families.adapter import ModelAdapter
from visreplay.replay_core.segment import BlockInputs, Kind, VisualBlock


class InternVLAdapter(ModelAdapter):
    """InternVL3, with a Qwen2 or Llama decoder.

    Every frame of a video is written as an image of one tile, and is a block of kind "image".
    """

    model_types = frozenset({"internvl"})

    def split(self, kind: Kind, batch: Mapping[str, Any]) -> list[BlockInputs]:
        """Split by the stretches of placeholders: a tag closes each image, so none touch."""
        config = self.model.config
        ids = torch.as_tensor(batch["input_ids"]).flatten()
        same, lengths = torch.unique_consecutive(ids == config.image_token_id, return_counts=True)
        stretches = lengths[same].tolist()
        pixels = torch.as_tensor(batch.get("pixel_values", torch.zeros(0)))
        tiles = [length // config.image_seq_length for length in stretches]
        if sum(stretches) != len(pixels) * config.image_seq_length or len(pixels) != sum(tiles):
            raise ContextError(
                f"pixel_values holds {len(pixels)} tiles, {config.image_seq_length} visual tokens "
                f"each, but the images have {stretches} placeholders"
            )
        parts = pixels.split(tiles)
        return [(n, {"pixel_values": part}) for n, part in zip(stretches, parts, strict=True)]

    def token_grid(self, block: VisualBlock) -> tuple[int, int, int]:
        """Return one square for each tile."""
        side = math.isqrt(self.model.config.image_seq_length)
        return block.length // side**2, side, side
