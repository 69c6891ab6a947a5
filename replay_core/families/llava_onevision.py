"""LLaVA-OneVision: an image and its tiles, cut to its shape, with a token at every row's end."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

from visreplay.replay_core.errors import ContextError
from visreplay.replay_core.families.adapter import ModelAdapter
from visreplay.replay_core.segment import BlockInputs, Kind


class LlavaOnevisionAdapter(ModelAdapter):
    """LLaVA-OneVision, with a Qwen2 decoder.

    The number of an image's tokens follows from its size in pixels. The model's own packing
    computes it, from features of the right shape without content (the meta device).
    """

    model_types = frozenset({"llava_onevision"})
    vision_parts = ("vision_tower", "multi_modal_projector", "image_newline")

    def split(self, kind: Kind, batch: Mapping[str, Any]) -> list[BlockInputs]:
        """Split one image or video after the other; the pooled frames of a video are one block."""
        core, config = self.model.model, self.model.config
        side = config.vision_config.image_size // config.vision_config.patch_size
        parts: list[BlockInputs] = []
        if kind == "video":
            for frames in batch.get("pixel_values_videos", ()):
                pooled = core.apply_pooling(torch.empty(len(frames), side**2, 1, device="meta"))
                parts.append((pooled[..., 0].numel() + 1, {"pixel_values_videos": frames[None]}))
            return parts
        pixels = batch.get("pixel_values", ())
        sizes = torch.as_tensor(batch.get("image_sizes", ()))
        counts = torch.as_tensor(batch.get("batch_num_images", [1] * len(pixels))).long()
        if not len(pixels) == len(sizes) == counts.sum():
            raise ContextError(
                f"pixel_values holds {len(pixels)} images, but image_sizes {len(sizes)} and "
                f"batch_num_images {int(counts.sum())}"
            )
        # Only an image that comes alone has tiles. Padding follows them, up to the number of the
        # image that has the most.
        pinpoints, tile = config.image_grid_pinpoints, config.vision_config.image_size
        for tiles, size, count in zip(pixels, sizes, counts.repeat_interleave(counts), strict=True):
            used = image_size_to_num_patches(size, pinpoints, tile) if count == 1 else 1
            (packed,), _ = core.pack_image_features(
                [torch.empty(used, side**2, 1, device="meta")],
                size[None],
                image_newline=torch.empty(1, device="meta"),
                vision_aspect_ratio=config.vision_aspect_ratio,
            )
            inputs = {"pixel_values": tiles[None, :used], "image_sizes": size[None]}
            # 2 stands for any number of companions, which make no difference to this image.
            parts.append((len(packed), {**inputs, "batch_num_images": count.clamp(max=2)[None]}))
        return parts
