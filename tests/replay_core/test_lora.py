"""A LoRA policy and its base on one set of weights, against two separate models."""

import copy
import json
from pathlib import Path
from threading import Thread
from typing import Any

import builders
import pytest
import torch
from builders import segment
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from replay_cases import (
    LANGUAGE,
    LORA_KINDS,
    METHODS,
    VISION,
    adapted,
    checksum,
    config,
    one_model,
    save,
)

from visreplay.replay_core import (
    CheckpointError,
    ModelPair,
    ReplaySession,
    UnsupportedModelError,
    load_pair,
    lora,
)
from visreplay.replay_core.loading import load_decoding

# peft 0.21 still asks transformers 5.24 by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def two_models(peft_model: PeftModel, replay_layers: int | None = None) -> ModelPair:
    """The same pair as a merged policy and a plain base."""
    merged: Any = copy.deepcopy(peft_model).merge_and_unload()
    base = builders.model(merged.config.model_type)
    return ModelPair.of(merged, base, builders.Processor(), replay_layers)


def history(pair: ModelPair, method: str) -> tuple[Any, ...]:
    """All results of a session, over two images and generated text."""
    with ReplaySession(pair, config(method)) as session:
        session.append(segment(4, ("image", (1, 4, 6), 1), 3))
        tokens = session.generate(max_new_tokens=5).token_ids
        session.append(segment(("image", (1, 4, 4), 2), 2))
        return tokens, session.next_logits, session.blocks


def assert_alike(pair: ModelPair, other: ModelPair, method: str) -> None:
    tokens, logits, blocks = history(pair, method)
    expected_tokens, expected_logits, expected_blocks = history(other, method)
    assert tokens == expected_tokens
    torch.testing.assert_close(logits, expected_logits, atol=1e-4, rtol=0)
    for block, expected in zip(blocks, expected_blocks, strict=True):
        torch.testing.assert_close(block.entropy_LT, expected.entropy_LT, atol=1e-4, rtol=0)
        assert torch.equal(block.chosen_LT, expected.chosen_LT)
        if method != "none":
            assert block.kl_before == pytest.approx(expected.kl_before, abs=1e-4)
            assert block.kl_before > 1e-3  # the adapter does something


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", LORA_KINDS)
def test_one_model_equals_two(kind: str, method: str) -> None:
    peft_model = adapted(**LORA_KINDS[kind])
    assert_alike(one_model(peft_model, 3), two_models(peft_model, 3), method)


@pytest.mark.parametrize("method", METHODS)
def test_the_other_family(method: str) -> None:
    peft_model = adapted(family="qwen2_vl", target_modules=f"{LANGUAGE}|{VISION}")
    assert_alike(one_model(peft_model), two_models(peft_model), method)


@pytest.mark.parametrize("kind", LORA_KINDS)
def test_all_memory_is_the_bases_and_the_adapters(kind: str) -> None:
    peft_model = adapted(**LORA_KINDS[kind])
    before = {weight.data_ptr(): weight.nbytes for weight in peft_model.parameters()}
    pair = one_model(peft_model)
    assert pair.base is not None
    both = [*pair.policy.model.parameters(), *pair.base.model.parameters()]
    after = {weight.data_ptr(): weight.nbytes for weight in both}
    assert after.items() <= before.items()
    # The base's share of it is that of a plain model: nothing of the adapter is left in it.
    plain = {name: weight for name, weight in builders.model().named_parameters()}
    for name, weight in pair.base.model.named_parameters():
        assert torch.equal(weight, plain[name]) and weight.data_ptr() in before
    buffers = {b.data_ptr() for b in pair.base.model.buffers()}
    assert buffers <= {b.data_ptr() for b in pair.policy.model.buffers()}


def test_the_base_is_found_beneath_several_adapters() -> None:
    """One has a LoRA within what another one trains whole."""
    peft_model = adapted(target_modules=r".*merger\.mlp\.0")
    more = LoraConfig(target_modules=LANGUAGE, modules_to_save=["merger"], init_lora_weights=False)
    peft_model.add_adapter("more", more)
    expected = {name: weight for name, weight in builders.model().named_parameters()}
    for active in ("default", "more"):
        peft_model.set_adapter(active)
        base = one_model(peft_model).base
        assert base is not None
        found = dict(base.model.named_parameters())
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("kind", ["language", "vision"])
def test_the_vision_tower_is_shared_if_the_adapter_leaves_it_alone(kind: str) -> None:
    pair = one_model(adapted(**LORA_KINDS[kind]))
    assert pair.shares_vision == (kind == "language")


def test_the_base_is_cut_and_the_policy_is_not() -> None:
    peft_model = adapted(**LORA_KINDS["language"])
    pair = one_model(peft_model, 2)
    assert pair.base is not None
    assert (pair.base.depth, pair.policy.depth) == (2, 4)
    model: Any = peft_model.get_base_model()
    assert len(model.model.language_model.layers) == 4 and model.model.visual is not None


@pytest.mark.parametrize("method", METHODS)
def test_neither_side_changes_the_other(method: str) -> None:
    """Sessions leave all weights alone, and the peft model's switch does nothing to them."""
    peft_model = adapted(**LORA_KINDS["trained head and embedding"])
    inputs = builders.inputs(4, ("image", (1, 4, 6), 1), 3)
    pair = one_model(peft_model)
    before, logits = checksum(pair), peft_model(**inputs).logits
    expected = history(pair, method)
    assert checksum(pair) == before and torch.equal(peft_model(**inputs).logits, logits)
    with peft_model.disable_adapter():
        toggled = history(pair, method)
    assert toggled[0] == expected[0] and torch.equal(toggled[1], expected[1])
    # peft has unfrozen the adapter again; still no gradient may reach it.
    history(pair, method)
    assert all(weight.grad is None for weight in peft_model.parameters())


def test_sessions_in_two_threads() -> None:
    pair = one_model(adapted(**LORA_KINDS["both, rank-stabilised"]))
    expected = {method: history(pair, method) for method in METHODS}
    found: dict[str, Any] = {}
    threads = [
        Thread(target=lambda name=method: found.update({name: history(pair, name)}))  # type: ignore[misc]
        for method in METHODS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for method in METHODS:
        assert torch.equal(found[method][1], expected[method][1])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """An adapter that names its base, and the base."""
    root = tmp_path_factory.mktemp("lora")
    base = save(root / "base", builders.model())
    peft_model = adapted(**LORA_KINDS["trained head and embedding"])
    peft_model.peft_config["default"].base_model_name_or_path = base
    peft_model.save_pretrained(str(root / "adapter"), save_embedding_layers=False)
    return str(root / "adapter"), base


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name_the_base", [True, False])
def test_a_loaded_adapter_equals_one_in_memory(
    folders: tuple[str, str], method: str, name_the_base: bool
) -> None:
    adapter, base = folders
    loaded = load_pair(adapter, base if name_the_base else None, device="cpu", replay_layers=3)
    assert loaded.base is not None and (loaded.base.depth, loaded.policy.depth) == (3, 4)
    assert loaded.shares_vision and loaded.tokenizer.eos_token == builders.letter(builders.EOS)
    assert_alike(loaded, one_model(adapted(**LORA_KINDS["trained head and embedding"]), 3), method)


def test_a_loaded_adapter_has_the_dtype_of_its_base(folders: tuple[str, str]) -> None:
    pair = load_pair(*folders, dtype=torch.bfloat16, device="cpu")
    assert {weight.dtype for weight in pair.policy.model.parameters()} == {torch.bfloat16}
    for method in METHODS:
        assert history(pair, method)[0]


def test_an_adapter_with_a_processor_of_its_own(folders: tuple[str, str], tmp_path: Path) -> None:
    pair = load_pair(*folders, device="cpu")
    adapted(**LORA_KINDS["language"]).save_pretrained(str(tmp_path))
    pair.processor.tokenizer.add_special_tokens({"pad_token": builders.letter(1)})
    pair.processor.save_pretrained(tmp_path)
    loaded = load_pair(str(tmp_path), folders[1], device="cpu")
    assert loaded.tokenizer.pad_token == builders.letter(1)


def edited(folders: tuple[str, str], target: Path, **changes: Any) -> str:
    """A copy of the adapter with another configuration."""
    for file in Path(folders[0]).iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    settings = json.loads((target / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps(settings | changes))
    return str(target)


def test_an_adapter_that_does_not_fit(folders: tuple[str, str], tmp_path: Path) -> None:
    other = edited(folders, tmp_path, target_modules=["q_proj", "o_proj"])
    with pytest.raises(UnsupportedModelError, match=r"does not fit .*o_proj"):
        load_pair(other, folders[1], device="cpu")


@pytest.mark.parametrize("base", [None, "", ["a", "b"], {"a": "b"}, 7], ids=str)
def test_an_adapter_that_names_no_base(
    folders: tuple[str, str], tmp_path: Path, base: object
) -> None:
    other = edited(folders, tmp_path, base_model_name_or_path=base)
    with pytest.raises(
        UnsupportedModelError, match=r"as its base: give its base yourself .*--base"
    ):
        load_pair(other, None, device="cpu")
    with pytest.raises(UnsupportedModelError, match="as its base"):
        load_decoding(other)


def test_an_adapter_whose_base_is_a_path_of_another_machine(
    folders: tuple[str, str], tmp_path: Path
) -> None:
    other = edited(folders, tmp_path, base_model_name_or_path="/data/somebody/base")
    rule = r"names the base '/data/somebody/base', perhaps a path .*give its base yourself .*--base"
    with pytest.raises(CheckpointError, match=rule):
        load_pair(other, device="cpu")
    assert load_pair(other, folders[1], device="cpu").base is not None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"peft_type": ["LORA"]}', "[" * 99999])
def test_adapter_settings_of_another_form(
    folders: tuple[str, str], tmp_path: Path, content: str
) -> None:
    other = edited(folders, tmp_path)
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"cannot read adapter_config\.json of"):
        load_pair(other, folders[1], device="cpu")


def test_an_adapter_whose_weights_are_cut_off(folders: tuple[str, str], tmp_path: Path) -> None:
    other = edited(folders, tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(
        CheckpointError, match=r"adapter_model\.safetensors' of .*download it again"
    ):
        load_pair(other, folders[1], device="cpu")


def test_the_error_without_peft_names_the_extra(
    folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedModelError, match=r"pip install 'visreplay\[lora\]'"):
        load_pair(*folders, device="cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["q_proj", "lm_head"]}, "LM head has a LoRA .* out of target_modules"),
        ({"target_modules": ["q_proj"], "bias": "all"}, "bias='all'"),
        ({"target_modules": ["q_proj"], "init_lora_weights": "olora"}, "'olora', which changes"),
        ({"target_parameters": ["mlp.up_proj.weight"]}, "target_parameters=.* swaps in and out"),
        (
            {
                "target_modules": ["q_proj"],
                "alora_invocation_tokens": [3, 4],
                "task_type": "CAUSAL_LM",
            },
            "activated LoRA",
        ),
    ],
)
def test_adapters_that_leave_no_base_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        one_model(adapted(**settings))


def test_adapters_of_another_type_are_refused() -> None:
    settings = IA3Config(target_modules=["q_proj"], feedforward_modules=[])
    with pytest.raises(UnsupportedModelError, match="IA3, but only LoRA"):
        one_model(get_peft_model(builders.model(), settings))  # type: ignore[arg-type]


def test_a_merged_or_disabled_adapter_is_refused() -> None:
    peft_model = adapted(**LORA_KINDS["language"])
    peft_model.merge_adapter()
    with pytest.raises(UnsupportedModelError, match=r"merged: \['default'\].*unmerge_adapter"):
        one_model(peft_model)
    peft_model.unmerge_adapter()
    with peft_model.disable_adapter(), pytest.raises(UnsupportedModelError, match="enabled: False"):
        one_model(peft_model)


def test_the_error_of_a_peft_model_names_from_peft() -> None:
    with pytest.raises(UnsupportedModelError, match=r"use ModelPair\.from_peft"):
        ModelPair.of(adapted(**LORA_KINDS["language"]), None, builders.Processor())  # type: ignore[arg-type]
