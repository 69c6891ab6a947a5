"""The model families that have an adapter, and how to find the one of a model."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from visreplay.replay_core.adapters import ModelAdapter
from visreplay.replay_core.cache import KVCache
from visreplay.replay_core.errors import UnsupportedModelError
from visreplay.replay_core.segment import VisualBlock


class Qwen2VLAdapter(ModelAdapter):
    """Qwen2-VL: one position per step in time."""

    model_types = frozenset({"qwen2_vl"})

    @property
    def language_model(self) -> Any:
        """The Qwen2 decoder."""
        return self.model.model.language_model

    @property
    def vision(self) -> nn.Module | None:
        """The vision transformer; its merger is the projector."""
        visual: nn.Module | None = self.model.model.visual
        return visual

    def drop_vision(self) -> None:
        """Free the vision transformer."""
        self.model.model.visual = None

    def features(self, block: VisualBlock) -> Tensor:
        """Run the vision transformer over one block."""
        if self.vision is None:
            raise UnsupportedModelError("this model's vision tower was dropped")
        device = next(self.vision.parameters()).device
        grid = torch.tensor([block.grid_thw], device=device)
        encode = (
            self.model.get_image_features
            if block.kind == "image"
            else self.model.get_video_features
        )
        (features_TD,) = encode(block.pixel_values.to(device), grid, return_dict=True).pooler_output
        embeddings = self.model.get_input_embeddings().weight
        moved: Tensor = features_TD.to(embeddings.device, embeddings.dtype)
        return moved

    def block_positions(self, block: VisualBlock, start: int) -> Tensor:
        """The family's own numbering in time, height and width."""
        positions_3T: Tensor = self.model.model.get_vision_position_ids(
            start,
            torch.tensor(block.grid_thw),
            spatial_merge_size=self.merge_size,
            time_interval=self.time_interval(block),
        )
        return positions_3T

    def time_interval(self, block: VisualBlock) -> float | Tensor:
        """Positions between two steps in time."""
        return 1

    def layer_inputs(
        self, hidden_1TD: Tensor, positions_3T: Tensor, cache: KVCache
    ) -> list[dict[str, Any]]:
        """As in the `forward` of the family's text model."""
        config = self.text_config
        kinds = config.layer_types[: cache.depth]
        makers = {
            "full_attention": create_causal_mask,
            "sliding_attention": create_sliding_window_causal_mask,
        }
        masks = {
            kind: makers[kind](
                config=config, inputs_embeds=hidden_1TD, attention_mask=None, cache=cache
            )
            for kind in set(kinds)
        }
        positions_31T = positions_3T[:, None].to(hidden_1TD.device)
        rotary = self.language_model.rotary_emb(hidden_1TD, positions_31T)
        return [{"attention_mask": masks[kind], "position_embeddings": rotary} for kind in kinds]


class Qwen25VLAdapter(Qwen2VLAdapter):
    """Qwen2.5-VL: a clip's positions in time follow its seconds."""

    model_types = frozenset({"qwen2_5_vl"})

    def time_interval(self, block: VisualBlock) -> float | Tensor:
        """Positions per second, times the seconds between two steps of a clip."""
        if block.kind == "image":
            return 1
        # A float32 tensor, as in `get_rope_index`: the product is cut to an integer, so that its
        # last bit matters.
        rate: int = self.model.config.vision_config.tokens_per_second
        return rate * torch.tensor(block.seconds_per_grid)


ADAPTERS: list[type[ModelAdapter]] = [Qwen2VLAdapter, Qwen25VLAdapter]
"""The families that `adapter_for` knows; append your own."""


def adapter_for(model: PreTrainedModel) -> ModelAdapter:
    """Wrap a model in the adapter of its family.

    Raises:
        UnsupportedModelError: no adapter lists the model's type.
    """
    model_type = model.config.model_type
    for adapter in ADAPTERS:
        if model_type in adapter.model_types:
            return adapter(model)
    known = ", ".join(sorted(name for adapter in ADAPTERS for name in adapter.model_types))
    members = ", ".join(sorted(ModelAdapter.__abstractmethods__))
    raise UnsupportedModelError(
        f"no adapter for model type {model_type!r} (known: {known}): subclass ModelAdapter with "
        f"{members}, and append the class to visreplay.replay_core.families.ADAPTERS"
    )
