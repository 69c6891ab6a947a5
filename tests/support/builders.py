"""Random tiny pairs from real configurations, and prompts for them."""

from functools import cache
from types import SimpleNamespace
from typing import Any, Literal, get_args

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from visreplay.replay_core import ModelPair, Segment
from visreplay.replay_core.families.registry import adapter_for

Family = Literal["qwen2_5_vl", "qwen2_vl", "qwen3_vl", "internvl", "llava_onevision"]
FAMILIES: tuple[Family, ...] = get_args(Family)

CLASSES: dict[Family, tuple[Any, Any]] = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
    "internvl": (InternVLConfig, InternVLForConditionalGeneration),
    "llava_onevision": (LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration),
}

VOCABULARY = 220
EOS, VISION_START, VISION_END, IMAGE, VIDEO = 210, 211, 212, 213, 214
SPECIAL = {
    VISION_START: "<|vision_start|>",
    VISION_END: "<|vision_end|>",
    IMAGE: "<|image_pad|>",
    VIDEO: "<|video_pad|>",
}
LAYERS = 4

QWEN_VISION = {"depth": 2, "num_heads": 2, "patch_size": 2, "initializer_range": 0.2}
# Tiles of 8 x 8 and of 6 x 6 pixels: 4 visual tokens of InternVL's, 9 of LLaVA's.
VIT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 2,
    "initializer_range": 0.2,
}
VISION: dict[Family, dict[str, Any]] = {
    "qwen2_vl": {**QWEN_VISION, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2},
    "qwen2_5_vl": {
        **QWEN_VISION,
        "hidden_size": 16,
        "intermediate_size": 32,
        "out_hidden_size": 32,
        "window_size": 8,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 4,
    },
    "qwen3_vl": {
        **QWEN_VISION,
        "hidden_size": 16,
        "intermediate_size": 32,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    },
    "internvl": {**VIT, "image_size": 8},
    "llava_onevision": {
        **VIT,
        "model_type": "siglip_vision_model",
        "image_size": 6,
        "vision_use_head": False,
    },
}
OTHERS: dict[Family, dict[str, Any]] = {
    "internvl": {"image_seq_length": 4, "tie_word_embeddings": False},
    "llava_onevision": {"image_grid_pinpoints": [[6, 6], [6, 12], [12, 6], [12, 12]]},
}


def config(family: Family = "qwen2_5_vl", *, layers: int = LAYERS, **text: Any) -> Any:
    """A real configuration with small numbers."""
    qwen = family.startswith("qwen")
    rope = {"rope_type": "default", "rope_theta": 1000.0}
    text_config = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": EOS,
        "rope_parameters": {**rope, "mrope_section": [2, 3, 3]} if qwen else rope,
        **({"head_dim": 16} if family == "qwen3_vl" else {}),
        **({} if qwen else {"model_type": "qwen2"}),
        **text,
    }
    names = ("image_token_index", "video_token_index")
    names = names if family == "llava_onevision" else ("image_token_id", "video_token_id")
    ids = dict(zip(names, (IMAGE, VIDEO), strict=True))
    if qwen:
        ids |= {"vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END}
    if family == "internvl":
        del ids["video_token_id"]
    return CLASSES[family][0](
        text_config=text_config, vision_config=VISION[family], **ids, **OTHERS.get(family, {})
    )


def model(
    family: Family = "qwen2_5_vl",
    *,
    seed: int = 0,
    noise: float = 0.0,
    vision_noise: float = 0.0,
    **kwargs: Any,
) -> PreTrainedModel:
    """A random model; noise perturbs the weights of its two halves as training would."""
    torch.manual_seed(seed)
    attention = kwargs.pop("attention", "sdpa")
    built: PreTrainedModel = CLASSES[family][1]._from_config(
        config(family, **kwargs), attn_implementation=attention
    )
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if name.endswith(("bias", "cls_token", "position_embeddings")):
                weight.normal_(std=0.1)
            std = noise if "language_model" in name or "lm_head" in name else vision_noise
            if std:
                weight += std * torch.randn_like(weight)
    return built.eval()


def letter(token: int) -> str:
    """The character of a token."""
    return SPECIAL.get(token, chr(0x100 + token))


class Processor:
    """The part of a processor that sessions use: a tokenizer of one letter per token."""

    def __init__(self, **special: str) -> None:
        vocabulary = {letter(i): i for i in range(VOCABULARY)}
        tokens = Tokenizer(models.WordLevel(vocabulary, unk_token=letter(0)))
        tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokens.add_special_tokens(list(SPECIAL.values()))
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=tokens,
            unk_token=letter(0),
            eos_token=letter(EOS),
            extra_special_tokens=special,
            chat_template="<|image_pad|>{{ messages[0].content }}",
        )
        self.image_processor = SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.5] * 3)


def pair(
    family: Family = "qwen2_5_vl",
    *,
    noise: float = 0.02,
    vision_noise: float = 0.0,
    replay_layers: int | None = 3,
    **kwargs: Any,
) -> ModelPair:
    """A base, and a policy that is the base with perturbed weights."""
    policy = model(family, noise=noise, vision_noise=vision_noise, **kwargs)
    return ModelPair.of(policy, model(family, **kwargs), Processor(), replay_layers)


Grid = tuple[int, int, int]


def visual(kind: Literal["image", "video"], grid: Grid, seed: int) -> Tensor:
    """Random patches `(t * h * w, channels * temporal patch * patch * patch)`, as of Qwen's."""
    generator = torch.Generator().manual_seed(seed)
    t, h, w = grid
    return torch.randn(t * h * w, 3 * 2 * 2 * 2, generator=generator)


def batch(*parts: Any, seconds: float = 0.5, family: Family = "qwen2_5_vl") -> dict[str, Any]:
    """Make the output of a processor for a prompt.

    Args:
        *parts: An int n for n text tokens, or ("image" | "video", grid, seed); a grid is of time,
            height and width, and more of it is more tokens, whatever the family.
        seconds: Seconds between two steps in time of a video.
        family: The family of the processor.
    """
    ids: list[int] = []
    inputs: dict[str, list[Tensor]] = {}
    for index, part in enumerate(parts):
        if isinstance(part, int):
            generator = torch.Generator().manual_seed(7 * index + part)
            ids += torch.randint(0, 200, (part,), generator=generator).tolist()
            continue
        visual_inputs, stretches = _visual_inputs(family, *part, seconds)
        for name, tensor in visual_inputs.items():
            inputs.setdefault(name, []).append(tensor)
        token = IMAGE if part[0] == "image" or family == "internvl" else VIDEO
        for length in stretches:
            stamp = [part[2]] if len(stretches) > 1 else []
            ids += [*stamp, VISION_START] + [token] * length + [VISION_END]
    return {
        "input_ids": torch.tensor([ids]),
        **{name: torch.cat(_padded(tensors)) for name, tensors in inputs.items()},
    }


def _visual_inputs(
    family: Family, kind: Any, grid: Grid, seed: int, seconds: float
) -> tuple[dict[str, Tensor], list[int]]:
    """One image or video in a processor's output, and its stretches of placeholders."""
    generator = torch.Generator().manual_seed(seed)
    t, h, w = grid
    if family.startswith("qwen"):
        pixels = "pixel_values" if kind == "image" else "pixel_values_videos"
        inputs = {pixels: visual(kind, grid, seed), f"{kind}_grid_thw": torch.tensor([grid])}
        if kind == "video" and family == "qwen2_5_vl":
            inputs["second_per_grid_ts"] = torch.tensor([seconds])
        return inputs, [h * w // 4] * t if family == "qwen3_vl" else [t * h * w // 4]
    if family == "internvl":
        tiles = t if kind == "video" else h * w // 8 - 1
        pixels_NCHW = torch.randn(tiles, 3, 8, 8, generator=generator)
        return {"pixel_values": pixels_NCHW}, [4] * t if kind == "video" else [4 * tiles]
    if kind == "video":
        frames = torch.randn(1, t, 3, 6, 6, generator=generator)
        return {"pixel_values_videos": frames}, [4 * t + 1]
    # 6 x 6 pixels, or 6 x 12 if it is twice as wide as high; and the whole image before them.
    tiles = 2 if w == 2 * h else 1
    inputs = {
        "pixel_values": torch.randn(1, tiles + 1, 3, 6, 6, generator=generator),
        "image_sizes": torch.tensor([[h, w]]),
        "batch_num_images": torch.tensor([1]),
    }
    return inputs, [9 + 3 * (3 * tiles + 1)]


def _padded(tensors: list[Tensor]) -> list[Tensor]:
    """LLaVA's tiles, filled up to those of the image that has the most."""
    if tensors[0].ndim != 5:
        return tensors
    most = max(tensor.shape[1] for tensor in tensors)
    return [torch.nn.functional.pad(x, (0,) * 7 + (most - x.shape[1],)) for x in tensors]


def segment(*parts: Any, family: Family = "qwen2_5_vl", **kwargs: Any) -> Segment:
    """The segment of such a prompt."""
    return Segment.from_processor(batch(*parts, family=family, **kwargs), tokens(family))


@cache
def tokens(family: Family = "qwen2_5_vl") -> Any:
    """The adapter of the family, which knows its visual tokens."""
    return adapter_for(model(family))


def inputs(*parts: Any, family: Family = "qwen2_5_vl", **kwargs: Any) -> dict[str, Any]:
    """Make the arguments of the model's own `forward` for such a prompt."""
    made = batch(*parts, family=family, **kwargs)
    if family.startswith("qwen"):
        ids_1T = made["input_ids"]
        made["mm_token_type_ids"] = (ids_1T == IMAGE).int() + 2 * (ids_1T == VIDEO).int()
    return made
