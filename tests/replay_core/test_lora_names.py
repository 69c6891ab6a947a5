"""LoRA adapters of transformers up to 4.51, whose modules had other names."""

import json
from pathlib import Path
from typing import Any

import builders
import pytest
import torch
from replay_cases import adapted, save
from safetensors.torch import load_file, save_file

from visreplay.replay_core import UnsupportedModelError, load_pair, lora
from visreplay.replay_core.checkpoint import Checkpoint

# peft 0.21 still asks transformers 5.24 by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

PRESENT, OLD = "model.language_model.", "model."
VISION, OLD_VISION = "model.visual.", "visual."
QUERY = "layers.{}.self_attn.q_proj"

# What an adapter says now, and what it said then.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "last names": ({"target_modules": ["q_proj", "up_proj"]}, {}),
    "DoRA": ({"target_modules": ["q_proj", "qkv", "gate_proj"], "use_dora": True}, {}),
    "whole names": (
        {"target_modules": [PRESENT + QUERY.format(i) for i in (0, 2)]},
        {"target_modules": [OLD + QUERY.format(i) for i in (0, 2)]},
    ),
    "a pattern from the start": (
        {"target_modules": r"model\.language_model\.layers\.\d+\.mlp\.(up|down)_proj"},
        {"target_modules": r"^model\.layers\.\d+\.mlp\.(up|down)_proj$"},
    ),
    "a pattern without the tower": (
        {"target_modules": r".*language_model.*(q_proj|up_proj)"},
        {"target_modules": r"^(?!visual).*(q_proj|up_proj)"},
    ),
    "the tower": (
        {"target_modules": r"model\.visual\.blocks\.\d+\.attn\.qkv"},
        {"target_modules": r"visual\.blocks\.\d+\.attn\.qkv"},
    ),
    "layers": (
        {
            "target_modules": ["q_proj"],
            "layers_to_transform": [1, 3],
            "layers_pattern": "language_model.layers",
        },
        {"layers_pattern": "model.layers"},
    ),
    "ranks": (
        {
            "target_modules": ["q_proj", "up_proj"],
            "rank_pattern": {PRESENT + QUERY.format(1): 2},
            "alpha_pattern": {r"model.language_model.layers.\d+.mlp.up_proj": 16},
        },
        {
            "rank_pattern": {OLD + QUERY.format(1): 2},
            "alpha_pattern": {r"^model.layers.\d+.mlp.up_proj": 16},
        },
    ),
    "modules trained whole": (
        {
            "target_modules": ["q_proj"],
            "modules_to_save": ["lm_head", "model.language_model.norm", "visual.merger"],
        },
        {"modules_to_save": ["lm_head", "model.norm", "visual.merger"]},
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("base"), builders.model())


def aged(adapter: Path, folder: Path, *renamings: tuple[str, str], **settings: Any) -> str:
    """Write an adapter with the names that its modules had, and with settings for those."""
    weights = load_file(adapter / "adapter_model.safetensors")
    old = {}
    for key, weight in weights.items():
        name = key.removeprefix("base_model.model.")
        front, then = next((pair for pair in renamings if name.startswith(pair[0])), ("", ""))
        old[f"base_model.model.{then}{name.removeprefix(front)}"] = weight
    folder.mkdir()
    save_file(old, folder / "adapter_model.safetensors", {"format": "pt"})
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8")) | settings
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    return str(folder)


def logits(pair: Any) -> torch.Tensor:
    with torch.no_grad():
        inputs = builders.inputs(4, ("image", (1, 4, 6), 1), 3)
        result: torch.Tensor = pair.policy.model(**inputs).logits
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_adapter_equals_the_same_with_present_names(
    base: str, tmp_path: Path, kind: str
) -> None:
    present, changes = KINDS[kind]
    adapted(**present).save_pretrained(str(tmp_path / "new"), save_embedding_layers=False)
    renamings = ((PRESENT, OLD), (VISION, OLD_VISION))
    old = aged(tmp_path / "new", tmp_path / "old", *renamings, **changes)
    expected = load_pair(str(tmp_path / "new"), base, device="cpu")
    found = load_pair(old, base, device="cpu")
    assert torch.equal(logits(found), logits(expected))
    assert (logits(found) - logits(load_pair(base, device="cpu"))).abs().max() > 1e-3
    names = {name for name, _ in expected.policy.model.named_parameters()}
    assert {name for name, _ in found.policy.model.named_parameters()} == names


def test_another_family(tmp_path: Path) -> None:
    """LLaVA's and InternVL's language model was `language_model.model`."""
    peft_model = adapted(family="internvl", target_modules=["q_proj", "up_proj", "linear_1"])
    peft_model.save_pretrained(str(tmp_path / "new"), save_embedding_layers=False)
    projector = "multi_modal_projector."
    renamings = ((PRESENT, "language_model.model."), (f"model.{projector}", projector))
    old = aged(tmp_path / "new", tmp_path / "old", *renamings)
    pairs = [
        lora.attach(builders.model("internvl"), Checkpoint(folder, folder))
        for folder in (str(tmp_path / "new"), old)
    ]
    inputs = builders.inputs(4, ("image", (1, 4, 8), 1), 3, family="internvl")
    with torch.no_grad():
        expected, found = (model(**inputs).logits for model in pairs)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj"], r"does not fit .*layers\.3\.self_attn\.q_proj"),
        (r"model\.layers.*q_proj", r"1 modules that .* lacks, such as .*layers\.9\.self_attn"),
    ],
)
def test_an_old_adapter_that_does_not_fit(
    base: str, tmp_path: Path, targets: Any, message: str
) -> None:
    adapted(target_modules=["q_proj"]).save_pretrained(str(tmp_path / "new"))
    old = aged(tmp_path / "new", tmp_path / "old", (PRESENT, OLD), target_modules=targets)
    file = Path(old) / "adapter_model.safetensors"
    weights = {
        key.replace("layers.3.", "layers.9.") if isinstance(targets, str) else key: weight
        for key, weight in load_file(file).items()
        if isinstance(targets, str) or "layers.3." not in key
    }
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=message):
        load_pair(old, base, device="cpu")
