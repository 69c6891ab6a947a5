"""Cases and comparisons that several tests of the replay core share."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import torch
from builders import segment
from oracle import Oracle
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from visreplay.replay_core import ModelAdapter, ModelPair, ReplayConfig, ReplaySession, Segment
from visreplay.replay_core.cache import KVCache

METHODS = ("none", "token", "state")

SAMPLES = [segment(3, ("image", (1, 8, 8), seed), 2) for seed in range(20, 28)]

ABLATIONS = [
    {"side": "high"},
    {"side": "all"},
    {"side": "random"},
    {"swap_roles": True},
    {"teacher": "window"},
    {"teacher": "jitter"},
    {"alignment": "reference"},
]

SMOOTHING: list[dict[str, Any]] = [
    {"teacher": "local", "side": "all", "entry_layer": 2, "alignment": "reference"},
    {"teacher": "global", "side": "all"},
]
"""The paper's smoothing controls, which token replay alone has."""

LANGUAGE = r".*language_model.*\.(q_proj|v_proj|up_proj|down_proj)"
VISION = r".*visual.*\.(qkv|proj|down_proj|mlp\.[02])"
LORA_KINDS: dict[str, dict[str, Any]] = {
    "language": {"target_modules": LANGUAGE},
    "vision": {"target_modules": VISION},
    "both, rank-stabilised": {"target_modules": f"{LANGUAGE}|{VISION}", "use_rslora": True},
    "DoRA": {"target_modules": LANGUAGE, "use_dora": True},
    "trained head and embedding": {
        "target_modules": LANGUAGE,
        "modules_to_save": ["lm_head", "embed_tokens"],
    },
    "LoRA on the embedding": {"target_modules": rf"{LANGUAGE}|.*embed_tokens"},
    "trained merger": {"target_modules": LANGUAGE, "modules_to_save": ["merger"]},
}


def config(method: str, **changes: Any) -> ReplayConfig:
    settings = {"threshold": "quantile", "replay_layers": 3, "state_layers": 3, "steps": 2}
    return ReplayConfig(method=method, **{**settings, **changes})  # type: ignore[arg-type]


def checksum(pair: ModelPair) -> str:
    digest = hashlib.sha256()
    for adapter in (pair.policy, pair.base):
        for name, weight in adapter.model.named_parameters():  # type: ignore[union-attr]
            digest.update(name.encode() + weight.detach().numpy().tobytes())
            assert weight.grad is None and not weight.requires_grad
    return digest.hexdigest()


def save(folder: Path, model: Any, **image: Any) -> str:
    """A checkpoint with a processor, as on the hub."""
    size = {"shortest_edge": 64, "longest_edge": 4096}
    patches = {"patch_size": 2, "merge_size": 2, "temporal_patch_size": 2, "size": size, **image}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**patches),
        video_processor=Qwen2VLVideoProcessor(**patches),
        tokenizer=builders.Processor().tokenizer,
    )
    model.save_pretrained(folder, max_shard_size="40KB")
    processor.save_pretrained(folder)
    return str(folder)


def adapted(
    place: Callable[[Any], Any] = lambda model: model, family: Any = "qwen2_5_vl", **settings: Any
) -> PeftModel:
    """A random base under an adapter whose weights are all random, as after training."""
    model = place(builders.model(family))
    torch.manual_seed(5)
    peft_model = get_peft_model(model, LoraConfig(r=4, lora_alpha=4, **settings))
    with torch.no_grad():
        for weight in peft_model.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn_like(weight)
    assert isinstance(peft_model, PeftModel)
    return peft_model


def one_model(peft_model: PeftModel, replay_layers: int | None = None) -> ModelPair:
    return ModelPair.from_peft(peft_model, builders.Processor(), replay_layers)


def assert_same(session: ReplaySession, expected: Oracle) -> None:
    assert session.token_ids == tuple(expected.ids)
    for block, entropy, mask in zip(
        session.blocks, expected.entropies, expected.masks, strict=True
    ):
        if session.config.method != "none":
            torch.testing.assert_close(block.entropy_LT, entropy, atol=1e-4, rtol=0)
            assert torch.equal(block.chosen_LT, mask)
    torch.testing.assert_close(session.next_logits, expected.next_logits(), atol=1e-4, rtol=0)
    final = session._context.final.data  # type: ignore[union-attr]
    torch.testing.assert_close(final, expected.policy_activations()[-1], atol=1e-4, rtol=0)


def walk(adapter: ModelAdapter, whole: Segment, chunk: int | None = None) -> Any:
    """Run a prompt through our own loop, piece by piece.

    Returns:
        Logits `(T, V)`, the cache, and the position of the next token.
    """
    cache, position, hidden = KVCache(adapter.depth), 0, []
    for ids_T, block in whole.pieces():
        if block is None:
            features, positions = adapter.embed(ids_T), adapter.text_positions(len(ids_T), position)
            position += len(ids_T)
        else:
            features = adapter.features(block)
            positions = adapter.block_positions(block, position)
            position += adapter.extent(block)
        hidden.append(adapter.run(features, positions, cache, chunk=chunk))
    return adapter.head(adapter.norm(torch.cat(hidden))), cache, position
