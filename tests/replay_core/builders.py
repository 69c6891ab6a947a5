"""Random tiny pairs from real configurations, and prompts for them."""

from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from visreplay.replay_core import ModelPair, Segment

Family = Literal["qwen2_vl", "qwen2_5_vl"]

VOCABULARY = 220
EOS, VISION_START, VISION_END, IMAGE, VIDEO = 210, 211, 212, 213, 214
LAYERS = 4


def config(family: Family = "qwen2_5_vl", *, layers: int = LAYERS, **text: Any) -> Any:
    """A real configuration with small numbers."""
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
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1000.0,
            "mrope_section": [2, 3, 3],
        },
        **text,
    }
    vision = {"depth": 2, "num_heads": 2, "patch_size": 2, "initializer_range": 0.2}
    ids = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": VISION_START,
        "vision_end_token_id": VISION_END,
    }
    if family == "qwen2_vl":
        vision |= {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
        return Qwen2VLConfig(text_config=text_config, vision_config=vision, **ids)
    vision |= {
        "hidden_size": 16,
        "intermediate_size": 32,
        "out_hidden_size": 32,
        "window_size": 8,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 4,
    }
    return Qwen2_5_VLConfig(text_config=text_config, vision_config=vision, **ids)


def model(
    family: Family = "qwen2_5_vl", *, seed: int = 0, noise: float = 0.0, **kwargs: Any
) -> PreTrainedModel:
    """A random model; `noise` perturbs the language model's weights as training would."""
    torch.manual_seed(seed)
    attention = kwargs.pop("attention", "sdpa")
    kind = (
        Qwen2VLForConditionalGeneration
        if family == "qwen2_vl"
        else Qwen2_5_VLForConditionalGeneration
    )
    built = kind._from_config(config(family, **kwargs), attn_implementation=attention).eval()
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.1)
            if noise and "visual" not in name:
                weight += noise * torch.randn_like(weight)
    return built


def letter(token: int) -> str:
    """How a token is written."""
    return {IMAGE: "<|image_pad|>", VIDEO: "<|video_pad|>"}.get(token, chr(0x100 + token))


class Processor:
    """The part of a processor that sessions use: a tokenizer of one letter per token."""

    def __init__(self) -> None:
        vocabulary = {letter(i): i for i in range(VOCABULARY)}
        tokens = Tokenizer(models.WordLevel(vocabulary, unk_token=letter(0)))
        tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokens.add_special_tokens([letter(IMAGE), letter(VIDEO)])
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token=letter(EOS))


def pair(
    family: Family = "qwen2_5_vl",
    *,
    noise: float = 0.02,
    replay_layers: int | None = 3,
    **kwargs: Any,
) -> ModelPair:
    """A base, and a policy that is the base with perturbed language weights."""
    policy = model(family, noise=noise, **kwargs)
    return ModelPair.of(policy, model(family, **kwargs), Processor(), replay_layers)


def visual(kind: Literal["image", "video"], grid: tuple[int, int, int], seed: int) -> Tensor:
    """Random patches `(t * h * w, channels * temporal patch * patch * patch)`."""
    generator = torch.Generator().manual_seed(seed)
    t, h, w = grid
    return torch.randn(t * h * w, 3 * 2 * 2 * 2, generator=generator)


def batch(*parts: Any, seconds: float = 0.5) -> dict[str, Any]:
    """What a processor would return for a prompt.

    Args:
        *parts: An int n for n text tokens, or ("image" | "video", grid, seed).
        seconds: Per step in time of a clip.
    """
    ids: list[int] = []
    out: dict[str, Any] = {}
    for index, part in enumerate(parts):
        if isinstance(part, int):
            generator = torch.Generator().manual_seed(7 * index + part)
            ids += torch.randint(0, 200, (part,), generator=generator).tolist()
            continue
        kind, grid, seed = part
        t, h, w = grid
        pixels = "pixel_values" if kind == "image" else "pixel_values_videos"
        out[pixels] = torch.cat(
            [*([out[pixels]] if pixels in out else []), visual(kind, grid, seed)]
        )
        out.setdefault(f"{kind}_grid_thw", []).append(list(grid))
        if kind == "video":
            out.setdefault("second_per_grid_ts", []).append(seconds)
        token = IMAGE if kind == "image" else VIDEO
        ids += [VISION_START] + [token] * (t * h * w // 4) + [VISION_END]
    for name in ("image_grid_thw", "video_grid_thw"):
        if name in out:
            out[name] = torch.tensor(out[name])
    out["input_ids"] = torch.tensor([ids])
    return out


def segment(*parts: Any, **kwargs: Any) -> Segment:
    """The segment of such a prompt."""
    return Segment.from_processor(batch(*parts, **kwargs), Tokens())


def token_types(ids_1T: Tensor) -> Tensor:
    """transformers' `mm_token_type_ids`: 0 text, 1 image, 2 video."""
    return (ids_1T == IMAGE).int() + 2 * (ids_1T == VIDEO).int()


class Tokens:
    image_token_id = IMAGE
    video_token_id = VIDEO
    merge_size = 2
