"""Random models of real sizes for the benchmarks, and pictures for them."""

import copy
import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from visreplay.replay_core import Method, ModelPair, ReplayConfig, Segment, VisualBlock
from visreplay.replay_core.families.registry import adapter_for


@dataclass(frozen=True)
class Sizes:
    """The sizes of the models and of the images.

    Attributes:
        hidden: Width of the language model; `heads`, `kv_heads` and `inner` belong to it.
        vision_layers: Depth of the vision tower; `vision_hidden` and `vision_inner`, its widths,
            are Qwen2.5-VL's.
        side: An image has `side * side` visual tokens.
        head_scale: Factor on the weights of the LM head. Random weights of the usual size give flat
            predictions, on which replay has nothing to do.
        noise: Difference of the policy's decoder weights from the base's, in standard deviations.
    """

    hidden: int = 896
    inner: int = 4864
    heads: int = 14
    kv_heads: int = 2
    layers: int = 24
    vocabulary: int = 152_064
    vision_layers: int = 6
    vision_hidden: int = 1280
    vision_inner: int = 3420
    side: int = 20
    replay_layers: int = 16
    state_layers: int = 7
    head_scale: float = 4.0
    noise: float = 0.1

    def scaled(self, scale: float) -> "Sizes":
        """Return sizes with fewer layers, words and visual tokens, for a quick trial."""
        return replace(
            self,
            layers=max(2, round(self.layers * scale)),
            replay_layers=max(1, round(self.replay_layers * scale)),
            state_layers=max(1, round(self.state_layers * scale)),
            vocabulary=round(self.vocabulary * scale),
            side=max(2, round(self.side * scale**0.5)),
        )

    @property
    def image_token_id(self) -> int:
        """The last entry of the vocabulary."""
        return self.vocabulary - 1

    def config(self) -> Any:
        """Make the transformers configuration of these sizes."""
        head = self.hidden // self.heads
        third = head // 8 * 3 // 2
        sections = [head // 2 - 2 * third, third, third]
        text = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 128_000,
            "bos_token_id": None,
            "eos_token_id": None,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": sections,
            },
        }
        vision = {
            "depth": self.vision_layers,
            "hidden_size": self.vision_hidden,
            "intermediate_size": self.vision_inner,
            "num_heads": 16,
            "out_hidden_size": self.hidden,
            "fullatt_block_indexes": list(range(2, self.vision_layers, 3)),
        }
        return Qwen2_5_VLConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=self.image_token_id,
            video_token_id=self.vocabulary - 2,
            vision_start_token_id=self.vocabulary - 3,
            tie_word_embeddings=False,
        )


SEVEN_B = Sizes(
    hidden=3584, inner=18_944, heads=28, kv_heads=4, layers=28, vision_layers=32, side=32
)


class Models:
    """Base, policy and pair.

    The reference has two complete models. The pair shares their memory, and drops the unused parts
    of the base from a copy of the module tree.
    """

    def __init__(self, sizes: Sizes, dtype: torch.dtype) -> None:
        """Build nothing yet."""
        self.sizes, self.dtype = sizes, dtype

    def forget(self) -> None:
        """Free the models; they are built again when they are needed."""
        for name in ("pair", "policy", "base"):
            self.__dict__.pop(name, None)
        gc.collect()

    @cached_property
    def base(self) -> Any:
        """The complete base."""
        torch.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration._from_config(
            self.sizes.config(), dtype=self.dtype
        )
        with torch.no_grad():
            model.lm_head.weight *= self.sizes.head_scale
        return model.eval().requires_grad_(False)

    @cached_property
    def policy(self) -> Any:
        """The base with noise on the decoder's weights; all else is the same memory."""
        layers = self.base.model.language_model.layers
        changed = {id(weight) for weight in layers.parameters()}
        policy = _twin(self.base, lambda weight: id(weight) not in changed)
        torch.manual_seed(1)
        with torch.no_grad():
            for weight in policy.model.language_model.layers.parameters():
                weight += self.sizes.noise * weight.std() * torch.randn_like(weight)
        return policy

    @cached_property
    def pair(self) -> ModelPair:
        """Our pair of these models."""
        depth = max(self.sizes.replay_layers, self.sizes.state_layers)
        return ModelPair.of(self.policy, _twin(self.base, lambda weight: True), None, depth)

    def config(self, method: Method = Method.TOKEN, **changes: Any) -> ReplayConfig:
        """Return our default settings with a quantile threshold, which random weights can meet."""
        return ReplayConfig(
            **{
                "method": method,
                "replay_layers": self.sizes.replay_layers,
                "state_layers": self.sizes.state_layers,
                "threshold": "quantile",
                **changes,
            }
        )

    def segment(self, seed: int, side: int | None = None) -> Segment:
        """Make one turn: 16 tokens, one image, 16 tokens."""
        side = side or self.sizes.side
        generator = torch.Generator().manual_seed(seed)
        text_T = torch.randint(0, self.sizes.vocabulary - 8, (32,), generator=generator)
        image_T = torch.full((side * side,), self.sizes.image_token_id)
        pixels = torch.randn(4 * side * side, 3 * 2 * 14 * 14, generator=generator)
        block = VisualBlock(
            start=16,
            length=side * side,
            kind="image",
            inputs={
                "pixel_values": pixels.to(self.dtype),
                "image_grid_thw": torch.tensor([[1, 2 * side, 2 * side]]),
            },
        )
        return Segment(torch.cat([text_T[:16], image_T, text_T[16:]]), (block,))


def _twin(model: Any, shares: Callable[[Tensor], bool]) -> Any:
    """Copy a module tree; the weights for which `shares` is true stay the same tensors."""
    shared = {id(weight): weight for weight in model.parameters() if shares(weight)}
    return copy.deepcopy(model, shared)


@cache
def _meta(sizes: Sizes) -> Any:
    with torch.device("meta"):
        return Qwen2_5_VLForConditionalGeneration._from_config(sizes.config(), dtype=torch.bfloat16)


def meta_pair(sizes: Sizes) -> ModelPair:
    """Make a pair on the meta device, for counting.

    An adapter refuses weights without memory, so it is made for a small model and gets the large
    one afterwards.
    """
    small = Sizes(8, 8, 1, 1, 1, 16, vision_layers=1, vision_hidden=64, vision_inner=16, side=2)
    adapters = []
    for _ in range(2):
        adapter = adapter_for(Qwen2_5_VLForConditionalGeneration._from_config(small.config()))
        adapter.model = copy.deepcopy(_meta(sizes)).eval().requires_grad_(False)
        adapters.append(adapter)
    return ModelPair(adapters[0], adapters[1], None, shares_vision=True)
