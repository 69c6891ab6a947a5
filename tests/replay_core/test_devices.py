"""Policy and base on devices of their own, and models that are split over several."""

from typing import Any

import builders
import pytest
import torch
from accelerate import dispatch_model
from builders import segment
from devices import DeviceError, Devices, put, put_module
from test_lora import KINDS, adapted, one_model
from test_session import METHODS, config

from visreplay.replay_core import ModelPair, ReplaySession

# peft 0.21 still asks transformers 5.24 by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

FAMILIES = ("qwen2_5_vl", "qwen2_vl")


def history(pair: ModelPair, method: str, **changes: Any) -> tuple[Any, ...]:
    """Everything that a session tells, over pictures, a clip and generated text."""
    with ReplaySession(pair, config(method, **changes)) as session:
        session.append(segment(4, ("image", (1, 4, 6), 1), 3))
        tokens = session.generate(max_new_tokens=4, temperature=1.0, top_p=0.9, seed=3).token_ids
        session.append(segment(("video", (2, 4, 4), 2), 2))
        with session.fork() as fork:
            fork.crop(len(tokens))
            fork.append(segment(3))
        tokens += session.generate(max_new_tokens=2).token_ids
        blocks = [(b.entropy_LT, b.low_entropy_LT, b.kl_before, b.kl_after) for b in session.blocks]
        return tokens, session.next_logits.cpu(), blocks


def assert_equal(found: Any, expected: Any) -> None:
    assert found[0] == expected[0]
    assert torch.equal(found[1], expected[1])
    for block, other in zip(found[2], expected[2], strict=True):
        assert torch.equal(block[0], other[0]) and torch.equal(block[1], other[1])
        assert block[2:] == other[2:]


def split(
    model: Any, visual: int, embed: int, layers: tuple[int, ...], norm: int, head: int
) -> Any:
    """Put the parts of a model on devices, with accelerate's hooks, as `device_map` does."""
    text = "model.language_model"
    device_map = {
        "model.visual": visual,
        f"{text}.embed_tokens": embed,
        f"{text}.norm": norm,
        f"{text}.rotary_emb": norm,
        "lm_head": head,
        **{f"{text}.layers.{index}": place for index, place in enumerate(layers)},
    }
    return dispatch_model(model, device_map, skip_keys=model._skip_keys_device_placement)


def test_the_mode_notices() -> None:
    here, there = torch.ones(2), put(torch.ones(2), torch.device("cuda:0"))
    with Devices():
        assert there.device == torch.device("cuda:0") and (there * 2).device == there.device
        assert (here.to(there) + there).device.type == "cuda" and there.cpu().device == here.device
        with pytest.raises(DeviceError, match=r"cpu.*cuda:0"):
            here + there
        with pytest.raises(DeviceError):
            here[there > 0]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("own_vision", [False, True])
def test_policy_and_base_on_devices_of_their_own(
    family: Any, method: str, recompute: bool, own_vision: bool
) -> None:
    settings = {"recompute_activations": recompute, "query_chunk": 4}
    pairs = []
    for places in ((), ("cuda:0", "cuda:1")):
        models = builders.model(family, noise=0.02), builders.model(family)
        if own_vision:
            with torch.no_grad():
                next(models[0].model.visual.parameters()).mul_(1.1)
        for model, place in zip(models, places, strict=False):
            put_module(model, place)
        with Devices():
            pairs.append(ModelPair.of(*models, builders.Processor(), 3))
    assert all(pair.shares_vision != own_vision for pair in pairs)
    expected = history(pairs[0], method, **settings)
    with Devices():
        found = history(pairs[1], method, **settings)
    assert_equal(found, expected)


SPLITS: dict[str, Any] = {
    "front and back": (0, 0, (0, 0, 1, 1), 1, 1),
    "head with the embedding": (0, 0, (0, 0, 1, 1), 1, 0),
    "to and fro, vision apart": (2, 0, (1, 0, 1, 0), 1, 2),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("base_split", [None, *SPLITS])
@pytest.mark.parametrize("policy_split", SPLITS)
def test_models_that_are_split(policy_split: str, base_split: str | None, method: str) -> None:
    settings = {"query_chunk": 4, "recompute_activations": base_split is None}
    expected = history(builders.pair(), method, **settings)
    policy, base = builders.model(noise=0.02), builders.model()
    with Devices():
        split(policy, *SPLITS[policy_split])
        if base_split is not None:
            split(base, *SPLITS[base_split])
        pair = ModelPair.of(policy, base, builders.Processor(), 3)
        found = history(pair, method, **settings)
    assert_equal(found, expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SPLITS)
def test_a_split_model_under_a_lora(name: str, method: str) -> None:
    settings = KINDS["both, rank-stabilised"]
    expected = history(one_model(adapted(**settings)), method)
    with Devices():
        peft_model = adapted(lambda model: split(model, *SPLITS[name]), **settings)
        found = history(one_model(peft_model), method)
    assert_equal(found, expected)
