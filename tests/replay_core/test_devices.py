"""Policy and base on devices of their own, and models that are split over several."""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import product
from typing import Any

import builders
import pytest
import torch
from accelerate import dispatch_model
from builders import segment
from devices import DeviceError, Devices, put, put_module
from replay_cases import (
    ABLATIONS,
    LORA_KINDS,
    METHODS,
    SAMPLES,
    SMOOTHING,
    adapted,
    config,
    one_model,
    save,
)

from visreplay.replay_core import ModelPair, ReplaySession, load_pair

# peft 0.21 still asks transformers 5.24 by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

FAMILIES = ("qwen2_5_vl", "qwen2_vl")


def history(pair: ModelPair, method: str, **changes: Any) -> tuple[Any, ...]:
    """All results of a session, over images, a video and generated text."""
    with ReplaySession(pair, config(method, **changes)) as session:
        session.append(segment(4, ("image", (1, 4, 6), 1), 3))
        tokens = session.generate(max_new_tokens=4, temperature=1.0, top_p=0.9, seed=3).token_ids
        session.append(segment(("video", (2, 4, 4), 2), 2))
        with session.fork() as fork:
            fork.crop(len(tokens))
            fork.append(segment(3))
        tokens += session.generate(max_new_tokens=2).token_ids
        blocks = [(b.entropy_LT, b.chosen_LT, b.kl_before, b.kl_after) for b in session.blocks]
        return tokens, session.next_logits.cpu(), blocks


def assert_alike(found: Any, expected: Any) -> None:
    assert found[0] == expected[0]
    torch.testing.assert_close(found[1], expected[1], atol=1e-4, rtol=0)
    for block, other in zip(found[2], expected[2], strict=True):
        torch.testing.assert_close(block[0], other[0], atol=1e-4, rtol=0)
        assert torch.equal(block[1], other[1])
        assert block[2:] == pytest.approx(other[2:], abs=1e-4)


def split(
    model: Any,
    visual: int,
    embed: int,
    layers: Sequence[int],
    norm: int,
    head: int,
    places: Sequence[int | str] = (0, 1, 2),
) -> Any:
    """Put the parts of a model on devices, with accelerate's hooks, as `device_map` does."""
    text = "model.language_model"
    parts = {
        "model.visual": visual,
        f"{text}.embed_tokens": embed,
        f"{text}.norm": norm,
        f"{text}.rotary_emb": norm,
        "lm_head": head,
        **{f"{text}.layers.{index}": place for index, place in enumerate(layers)},
    }
    device_map = {name: places[part] for name, part in parts.items()}
    # A part that is "cpu" stays there, instead of moving to the GPU at every call.
    main = "cpu" if "cpu" in places else None
    skipped = model._skip_keys_device_placement
    return dispatch_model(model, device_map, main_device=main, skip_keys=skipped)


def test_the_mode_notices() -> None:
    here, there = torch.ones(2), put(torch.ones(2), torch.device("cuda:0"))
    with Devices():
        assert there.device == torch.device("cuda:0") and (there * 2).device == there.device
        assert (here.to(there) + there).device.type == "cuda" and there.cpu().device == here.device
        with pytest.raises(DeviceError, match=r"cpu.*cuda:0"):
            here + there
        with pytest.raises(DeviceError):
            here[there > 0]


# Only token replay has activations to compute again.
@pytest.mark.parametrize(("method", "recompute"), [*product(METHODS, [False]), ("token", True)])
@pytest.mark.parametrize("own_vision", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_policy_and_base_on_devices_of_their_own(
    family: Any, method: str, own_vision: bool, recompute: bool
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
        assert_alike(history(pairs[1], method, **settings), expected)


def apart(replay_layers: int | None = 3) -> ModelPair:
    """A pair whose models sit on devices of their own."""
    models = builders.model(noise=0.02), builders.model()
    for model, place in zip(models, ("cuda:0", "cuda:1"), strict=True):
        put_module(model, place)
    return ModelPair.of(*models, builders.Processor(), replay_layers)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        *product(METHODS[1:], ABLATIONS),
        *product(["token"], [*SMOOTHING, {"entry_layer": 1}]),
    ],
    ids=str,
)
def test_ablations_on_devices_of_their_own(method: str, changes: dict[str, Any]) -> None:
    expected = history(builders.pair(replay_layers=None), method, **changes)
    with Devices():
        assert_alike(history(apart(None), method, **changes), expected)


def test_a_sketch_on_devices_of_its_own() -> None:
    found = []
    for make, mode in ((builders.pair, nullcontext()), (apart, Devices())):
        with mode:
            pair = make().sketched(SAMPLES, layers=3, rank=16, config=config("state"))
            with ReplaySession(pair, config("state")) as session:
                session.append(segment(4, ("image", (1, 4, 6), 1), 3))
                found.append((session.blocks[0].replaced_LT, session.next_logits.cpu()))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_on_devices_of_its_own(method: str) -> None:
    found = []
    for make, mode in ((builders.pair, nullcontext()), (apart, Devices())):
        with mode, ReplaySession(make(), config(method)) as session:
            session.append(segment(4, ("image", (1, 4, 6), 1), 3))
            sampled = session.sample_many([1, 2, 3], max_new_tokens=4)
            found.append([generated.token_ids for _, generated in sampled])
    assert found[0] == found[1]


SPLITS: dict[str, Any] = {
    "front and back": (0, 0, (0, 0, 1, 1), 1, 1),
    "head with the embedding": (0, 0, (0, 0, 1, 1), 1, 0),
    "to and fro, vision apart": (2, 0, (1, 0, 1, 0), 1, 2),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("policy_split", "base_split"),
    [
        ("front and back", "front and back"),
        ("head with the embedding", None),
        ("to and fro, vision apart", None),
        ("head with the embedding", "to and fro, vision apart"),
    ],
)
def test_models_that_are_split(policy_split: str, base_split: str | None, method: str) -> None:
    settings = {"query_chunk": 4, "recompute_activations": base_split is None}
    expected = history(builders.pair(), method, **settings)
    policy, base = builders.model(noise=0.02), builders.model()
    with Devices():
        split(policy, *SPLITS[policy_split])
        if base_split is not None:
            split(base, *SPLITS[base_split])
        pair = ModelPair.of(policy, base, builders.Processor(), 3)
        assert_alike(history(pair, method, **settings), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["front and back", "to and fro, vision apart"])
def test_a_split_model_under_a_lora(name: str, method: str) -> None:
    settings = LORA_KINDS["both, rank-stabilised"]
    expected = history(one_model(adapted(**settings)), method)
    with Devices():
        peft_model = adapted(lambda model: split(model, *SPLITS[name]), **settings)
        assert_alike(history(one_model(peft_model), method), expected)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("devices")
    policy, base = builders.model(noise=0.02), builders.model()
    return save(root / "policy", policy), save(root / "base", base)


EVERYTHING = {
    **dict.fromkeys(("model.visual", "model.language_model.embed_tokens", "lm_head"), "cpu"),
    **{f"model.language_model.layers.{index}": "cpu" for index in range(builders.LAYERS)},
    **dict.fromkeys(("model.language_model.norm", "model.language_model.rotary_emb"), "cpu"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}, EVERYTHING])
def test_a_device_map_on_the_cpu(folders: tuple[str, str], device_map: Any, method: str) -> None:
    """The map names layers of the base that are not loaded."""
    plain, mapped = (
        load_pair(*folders, device="cpu", replay_layers=3, **kwargs)
        for kwargs in ({}, {"device_map": device_map})
    )
    assert_alike(history(mapped, method), history(plain, method))


@pytest.mark.parametrize("method", METHODS)
def test_loading_onto_devices(folders: tuple[str, str], method: str) -> None:
    expected = history(load_pair(*folders, device="cpu", replay_layers=3), method)
    with Devices():
        pair = load_pair(*folders, device="cuda:0", base_device="cuda:1", replay_layers=3)
        assert pair.base is not None
        places = [str(adapter.head.weight.device) for adapter in (pair.policy, pair.base)]
        assert places == ["cuda:0", "cuda:1"]
        assert_alike(history(pair, method), expected)


def test_loading_onto_one_device(folders: tuple[str, str]) -> None:
    """Equal tensors are shared there, and nothing of the base is left behind."""
    with Devices():
        pair = load_pair(folders[1], folders[1], device="cuda:0", replay_layers=3)
        assert pair.base is not None and pair.shares_vision
        base = pair.base.model
        assert {str(t.device) for t in (*base.parameters(), *base.buffers())} == {"cuda:0"}
        ours = {id(weight) for weight in pair.policy.model.parameters()}
        assert all(id(weight) in ours for weight in base.parameters())


def accelerators() -> list[str]:
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return found + ["mps"] * torch.backends.mps.is_available()


@pytest.mark.skipif(not accelerators(), reason="there is no GPU")
@pytest.mark.parametrize("method", METHODS)
def test_real_devices(folders: tuple[str, str], method: str) -> None:
    """On every device, on two at once, and with the base left on the CPU."""
    devices = accelerators()
    expected = history(load_pair(*folders, device="cpu", replay_layers=3), method)
    for device, base_device in product(devices, [*devices, "cpu"]):
        pair = load_pair(*folders, device=device, base_device=base_device, replay_layers=3)
        assert_alike(history(pair, method), expected)


@pytest.mark.skipif(torch.cuda.device_count() == 0, reason="there is no CUDA")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SPLITS)
def test_a_really_split_model(name: str, method: str) -> None:
    expected = history(builders.pair(), method)
    policy, base = builders.model(noise=0.02), builders.model()
    # With one GPU, the places 1 and 2 are the CPU.
    count = torch.cuda.device_count()
    split(policy, *SPLITS[name], places=[0, *(i if i < count else "cpu" for i in (1, 2))])
    pair = ModelPair.of(policy, base, builders.Processor(), 3)
    assert_alike(history(pair, method), expected)
