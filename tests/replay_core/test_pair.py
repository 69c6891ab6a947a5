"""Loading, comparing and shrinking pairs, with processors and checkpoints on disk."""

from pathlib import Path
from typing import Any

import builders
import pytest
import torch
from builders import segment
from PIL import Image
from replay_cases import save

from visreplay.replay_core import (
    ModelPair,
    PairMismatchError,
    ReplayConfig,
    ReplaySession,
    Segment,
    UnsupportedModelError,
    load_pair,
)

SETTINGS = {"threshold": "quantile", "replay_layers": 2, "state_layers": 2, "steps": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("pair")
    policy = save(root / "policy", builders.model(noise=0.02))
    assert len(list(Path(policy).glob("*.safetensors"))) > 1  # sharded, as 7B checkpoints are
    return policy, save(root / "base", builders.model())


@pytest.mark.parametrize("method", ["token", "state"])
@pytest.mark.parametrize("replay_layers", [None, 2])
def test_a_loaded_pair_equals_one_in_memory(
    folders: tuple[str, str], method: Any, replay_layers: int | None
) -> None:
    loaded = load_pair(*folders, replay_layers=replay_layers, device="cpu")
    assert loaded.base is not None
    assert loaded.base.depth == (replay_layers or 4) and loaded.policy.depth == 4
    logits = []
    for pair in (loaded, builders.pair(replay_layers=None)):
        with ReplaySession(pair, ReplayConfig(method=method, **SETTINGS)) as session:
            session.append(segment(4, ("image", (1, 4, 6), 1), 3))
            logits.append(session.next_logits)
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)


def test_the_processors_images_fit(folders: tuple[str, str]) -> None:
    pair = load_pair(folders[0], None, device="cpu")
    assert pair.base is None
    image = Image.effect_noise((20, 12), 50).convert("RGB")
    text = " ".join(builders.letter(i) for i in (3, builders.IMAGE, 4, builders.IMAGE, 5))
    inputs = pair.processor(text=[text], images=[image, image], return_tensors="pt")
    built = Segment.from_processor(inputs, pair.policy)
    assert [block.inputs["image_grid_thw"].tolist() for block in built.blocks] == [[[1, 6, 10]]] * 2
    with ReplaySession(pair, ReplayConfig(method="none")) as session:  # type: ignore[arg-type]
        assert session.append(built).new_visual_tokens == 30


def test_bfloat16(folders: tuple[str, str]) -> None:
    pair = load_pair(*folders, dtype=torch.bfloat16, device="cpu")
    assert pair.policy.head.weight.dtype == torch.bfloat16
    with ReplaySession(pair, ReplayConfig(**SETTINGS)) as session:  # type: ignore[arg-type]
        report = session.append(segment(4, ("image", (1, 4, 6), 1), 3))
        assert report.kl_before is not None and session.generate(max_new_tokens=2).token_ids


def test_shrinking_shares_memory_and_changes_nothing() -> None:
    policy, base = builders.model(noise=0.0), builders.model()
    with torch.no_grad():
        policy.model.language_model.layers[1].mlp.up_proj.weight += 0.1
    full = ModelPair.of(policy, builders.model(), builders.Processor())
    small = ModelPair.of(policy, base, builders.Processor(), replay_layers=2)
    assert small.base is not None and small.shares_vision
    assert small.base.depth == 2 and not small.base.vision
    ours = dict(policy.named_parameters())
    apart = {name for name, weight in base.named_parameters() if weight is not ours[name]}
    assert apart == {"model.language_model.layers.1.mlp.up_proj.weight"}
    assert base.lm_head.weight.data_ptr() == policy.lm_head.weight.data_ptr()
    for method in ("token", "state"):
        logits = []
        for pair in (full, small):
            settings = ReplayConfig(method=method, **SETTINGS)  # type: ignore[arg-type]
            with ReplaySession(pair, settings) as session:
                session.append(segment(4, ("image", (1, 4, 6), 1), 3))
                logits.append(session.next_logits)
        assert torch.equal(*logits)


def test_vision_towers_that_differ_are_both_kept() -> None:
    policy, base = builders.model(noise=0.02), builders.model()
    with torch.no_grad():
        next(policy.model.visual.parameters()).mul_(1.5)
    pair = ModelPair.of(policy, base, builders.Processor())
    assert not pair.shares_vision
    (block,) = segment(("image", (1, 4, 6), 1)).blocks
    with torch.no_grad():
        ours, theirs = pair.features(block)
        (expected,) = builders.model().get_image_features(**block.inputs).pooler_output
    torch.testing.assert_close(theirs.embeds_TD, expected)
    assert (ours.embeds_TD - theirs.embeds_TD).abs().max() > 1e-3
    with pytest.raises(UnsupportedModelError, match="dropped"):
        builders.pair().base.features(block)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen2_vl", {}, "model_type is qwen2_5_vl in the policy and qwen2_vl in the base"),
        ("qwen2_5_vl", {"vocab_size": 240}, "vocab_size is 220 .* 240"),
        ("qwen2_5_vl", {"num_attention_heads": 1}, "num_attention_heads is 2 .* 1"),
        ("qwen2_5_vl", {"layers": 3}, "num_hidden_layers is 4 .* 3"),
    ],
)
def test_architectures_that_differ(family: Any, changes: Any, message: str) -> None:
    rope = {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [2, 3, 3]}
    if "num_attention_heads" in changes:
        rope["mrope_section"] = [4, 6, 6]
    base = builders.model(family, rope_parameters=rope, **changes)
    with pytest.raises(PairMismatchError, match=message):
        ModelPair.of(builders.model(), base, builders.Processor())


def test_processors_that_differ(folders: tuple[str, str], tmp_path: Path) -> None:
    other = save(tmp_path, builders.model(), image_mean=[0.5, 0.5, 0.5])
    rule = r"image image_mean is \(0.48.* and \(0.5.* name the processor .*--processor"
    with pytest.raises(PairMismatchError, match=rule):
        load_pair(folders[0], other, device="cpu")
    assert load_pair(folders[0], other, processor=folders[0], device="cpu").base is not None


def test_vocabularies_that_differ(folders: tuple[str, str], tmp_path: Path) -> None:
    other = Path(save(tmp_path, builders.model()))
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"ā"', '"Z"'))
    with pytest.raises(PairMismatchError, match="ā is 1 in the policy and None in the base"):
        load_pair(folders[0], str(other), device="cpu")


def test_layers_left_out_on_purpose_are_not_reported(
    folders: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    load_pair(*folders, replay_layers=2, device="cpu")
    assert not [record for record in caplog.records if record.name.startswith("transformers")]


def test_weights_that_are_missing(folders: tuple[str, str], tmp_path: Path) -> None:
    model = builders.model()
    del model.model.language_model.layers[3].mlp.up_proj
    other = save(tmp_path, model)
    with pytest.raises(UnsupportedModelError, match=r"lacks 1 weights .*layers.3.mlp.up_proj"):
        load_pair(other, None, device="cpu")
