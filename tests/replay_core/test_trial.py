"""Checkpoints that load, and cannot answer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tampered import change, copied, own_bytes

from visreplay.replay_core import EMBEDDED, CheckpointError, MemoryExhaustedError, load_pair
from visreplay.replay_core.embedded_pair import EMBEDDED_PAIRS

POLICY, BASE = EMBEDDED / "policy", EMBEDDED / "base"


def text_settings(**changes: Any) -> dict[str, Any]:
    settings = json.loads((POLICY / "config.json").read_text("utf-8"))["text_config"]
    return {"text_config": {**settings, **changes}}


WRONG_SECTIONS = {"mrope_section": [1, 1, 1], "rope_theta": 300.0, "rope_type": "default"}


def test_a_configuration_whose_parts_do_not_go_together(tmp_path: Path) -> None:
    folder = copied(POLICY, tmp_path / "copy", config=text_settings(rope_parameters=WRONG_SECTIONS))
    with pytest.raises(CheckpointError, match=r"was loaded, but cannot read a small picture \("):
        load_pair(str(folder), replay="none", device="cpu")


def test_the_base_is_tried_too(tmp_path: Path) -> None:
    config = json.loads((BASE / "config.json").read_text("utf-8"))["vision_config"]
    changed = {"vision_config": {**config, "window_size": 0}}
    base = copied(BASE, tmp_path / "copy", config=changed)
    weights = load_file(base / "model.safetensors")
    name = next(name for name in weights if "visual" in name)
    weights[name] = weights[name] + 1  # else the policy's tower serves both
    own_bytes(base / "model.safetensors", b"")
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"with {base} was loaded, but"):
        load_pair("embedded", str(base), device="cpu")


@pytest.mark.parametrize("name", ["patch_size", "temporal_patch_size", "merge_size"])
def test_a_processor_that_cuts_other_patches(tmp_path: Path, name: str) -> None:
    settings = json.loads((POLICY / "processor_config.json").read_text("utf-8"))
    for part in ("image_processor", "video_processor"):
        settings[part][name] = 10**6  # such a picture would take all memory
    folder = copied(POLICY, tmp_path / "copy", processor_config=settings)
    with pytest.raises(CheckpointError, match=rf"{name} is 1000000 in the processor"):
        load_pair(str(folder), replay="none", device="cpu")


def test_a_picture_that_no_context_holds(tmp_path: Path) -> None:
    settings = json.loads((POLICY / "processor_config.json").read_text("utf-8"))
    settings["image_processor"]["size"] = {"shortest_edge": 10**12, "longest_edge": 10**13}
    folder = copied(POLICY, tmp_path / "copy", processor_config=settings)
    with pytest.raises(CheckpointError, match="visual tokens, but the model has 2,048 positions"):
        load_pair(str(folder), replay="none", device="cpu")


@pytest.mark.parametrize("value", [["a", "b", "c"], [[0.5], 0.5, 0.5], "x", [0.5] * 7])
def test_colours_that_are_no_numbers(tmp_path: Path, value: Any) -> None:
    settings = json.loads((POLICY / "processor_config.json").read_text("utf-8"))
    settings["image_processor"]["image_mean"] = value
    folder = copied(POLICY, tmp_path / "copy", processor_config=settings)
    with pytest.raises(CheckpointError):
        load_pair(str(folder), replay="none", device="cpu")


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    folder = copied(POLICY, tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = torch.full_like(weights["lm_head.weight"], torch.nan)
    own_bytes(folder / "model.safetensors", b"")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="its logits are no numbers"):
        load_pair(str(folder), replay="none", device="cpu")


@pytest.mark.parametrize("eos", ["<|im_end|>", [366, "x"], {"a": 1}])
def test_end_tokens_that_are_no_tokens(tmp_path: Path, eos: Any) -> None:
    folder = copied(POLICY, tmp_path / "copy")
    change(folder / "generation_config.json", eos_token_id=eos)
    with pytest.raises(CheckpointError):
        load_pair(str(folder), replay="none", device="cpu")


def test_the_trial_draws_no_random_number_and_leaves_memory_errors_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = torch.random.get_rng_state()
    assert load_pair("embedded", device="cpu").names == EMBEDDED_PAIRS["embedded"].names
    assert torch.equal(torch.random.get_rng_state(), before)

    def too_much(*_: Any) -> None:
        torch.empty(2**60)

    hook = torch.nn.modules.module.register_module_forward_pre_hook(too_much)
    try:
        with pytest.raises(MemoryExhaustedError, match="memory ran out"):
            load_pair("embedded", device="cpu")
    finally:
        hook.remove()
