"""Masks: none with entries reaches attention where causality is all that a mask would say."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import builders
import pytest
import torch
from accelerate.utils import send_to_device
from builders import FAMILIES, segment
from replay_cases import METHODS, config, walk
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from visreplay.replay_core import Batch, ModelPair, ReplaySession
from visreplay.replay_core.cache import KVCache
from visreplay.replay_core.families import adapter as adapter_module
from visreplay.replay_core.families.adapter import ModelAdapter
from visreplay.replay_core.families.attention import MASKS, BehindMask
from visreplay.replay_core.families.registry import adapter_for

PROMPT = (5, ("image", (1, 4, 8), 1), 3, ("image", (1, 6, 4), 2), ("image", (1, 4, 4), 3), 6)


class Spy(TorchFunctionMode):
    """Notes the mask of every attention."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            self.masks.append(kwargs["attn_mask"])
        return func(*args, **kwargs)

    @property
    def dense(self) -> list[Tensor]:
        """Masks with entries."""
        return [m for m in self.masks if m is not None and not isinstance(m, BehindMask)]

    @property
    def behind(self) -> list[tuple[int, int]]:
        """Sizes of the masks without."""
        return [(m.seq_len_q, m.seq_len_kv) for m in self.masks if isinstance(m, BehindMask)]


@contextmanager
def dense_masks() -> Iterator[None]:
    """Let transformers make every mask."""

    def make(kind: str, config: Any, hidden: Tensor, cache: KVCache, seen: Tensor | None) -> Any:
        return MASKS[kind](config=config, inputs_embeds=hidden, attention_mask=seen, cache=cache)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapter_module, "attention_mask", make)
        yield


@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_no_dense_mask_arrives_and_the_result_is_that_of_one(
    family: Any, chunk: int | None
) -> None:
    adapter = adapter_for(builders.model(family))
    whole = segment(*PROMPT, family=family)
    with Spy() as spy:
        got, cache, position = walk(adapter, whole, chunk)
        more = adapter.embed(torch.tensor([11, 12, 13]))
        adapter.run(more, adapter.text_positions(3, position), cache.prefix(cache.length - 2))
    assert spy.behind and not spy.dense
    assert spy.behind[-1] == (3, cache.length + 1)
    with dense_masks(), Spy() as spy:
        expected, _, _ = walk(adapter, whole, chunk)
    assert spy.dense and not spy.behind
    assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_a_dense_mask(
    family: Any, recompute: bool, dtype: torch.dtype
) -> None:
    adapter = adapter_for(builders.model(family).to(dtype))
    results = []
    for masks in (Spy(), dense_masks()):
        with masks:
            results.append(gradient(adapter, recompute))
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got, expected)


def gradient(adapter: ModelAdapter, recompute: bool) -> tuple[Tensor, Tensor]:
    context = KVCache(adapter.depth)
    with torch.no_grad():
        adapter.run(adapter.embed(torch.arange(4)), adapter.text_positions(4, 0), context)
    features = adapter.embed(torch.arange(6))
    embeds_TD = features.embeds_TD.requires_grad_()
    hidden_TD = adapter.run(
        features, adapter.text_positions(6, 4), context.frozen(adapter.depth), recompute=recompute
    )
    hidden_TD.float().square().sum().backward()
    assert embeds_TD.grad is not None
    return hidden_TD.detach(), embeds_TD.grad


@pytest.mark.parametrize("method", METHODS)
def test_no_dense_mask_arrives_in_a_session(pair: ModelPair, method: str) -> None:
    with Spy() as spy, ReplaySession(pair, config(method, query_chunk=4)) as session:
        session.append(segment(4, ("image", (1, 4, 6), 1), 3))
        session.append(segment(2, ("image", (1, 6, 6), 2)))  # a crop comes after a picture
        session.generate(max_new_tokens=3)
        session.crop(4)
        session.append(segment(3))
        session.sample_many([1, 2], max_new_tokens=2)
    assert spy.behind and not spy.dense


@pytest.mark.parametrize("recompute", [False, True])
def test_token_replay_is_that_of_dense_masks(pair: ModelPair, recompute: bool) -> None:
    found = []
    for masks in (Spy(), dense_masks()):
        settings = config("token", recompute_activations=recompute)
        with masks, ReplaySession(pair, settings) as session:
            session.append(segment(4, ("image", (1, 4, 6), 1), 3))
            found.append((session.blocks[0].kl_path, session.next_logits))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("window", [6, 8, 100])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
@torch.no_grad()
def test_a_window_that_slides_is_masked(family: Any, window: int) -> None:
    text = {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 2}
    model = builders.model(family, **text)
    adapter, ids_T = adapter_for(model), torch.arange(2, 14)
    cache = KVCache(adapter.depth)
    with Spy() as spy:
        hidden = [
            adapter.run(adapter.embed(ids_T[rows]), adapter.text_positions(4, rows.start), cache)
            for rows in (slice(0, 4), slice(4, 8), slice(8, 12))
        ]
    expected = model(input_ids=ids_T[None]).logits[0]
    torch.testing.assert_close(
        adapter.head(adapter.norm(torch.cat(hidden))), expected, atol=1e-4, rtol=0
    )
    # Two of the four layers slide: not over the first 4 positions, over 8 only if it is shorter.
    assert [tuple(mask.shape[-2:]) for mask in spy.dense] == {
        6: [(4, 8)] * 2 + [(4, 12)] * 2,
        8: [(4, 12)] * 2,
        100: [],
    }[window]


def test_rows_of_other_lengths_are_masked(pair: ModelPair) -> None:
    sessions = [ReplaySession(pair, "none") for _ in range(2)]
    for session, length in zip(sessions, (5, 9), strict=True):
        session.append(segment(length))
    batch = Batch()
    with Spy() as spy:
        for session in sessions:
            session.join(batch, max_new_tokens=3)
        batch.step()
    assert {tuple(mask.shape) for mask in spy.dense} == {(2, 1, 1, 10)}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_other_attention_gets_the_mask_of_transformers(attention: str) -> None:
    adapter = adapter_for(builders.model(attention=attention))
    cache = KVCache(adapter.depth)
    with torch.no_grad():
        adapter.run(adapter.embed(torch.arange(3)), adapter.text_positions(3, 0), cache)
    embeds = adapter.embed(torch.arange(2)).embeds_TD[None]
    inputs = adapter.layer_inputs(embeds, adapter.text_positions(2, 3)[:, None], cache)
    masks = [each["attention_mask"] for each in inputs]
    if attention == "sdpa":
        assert all(isinstance(mask, BehindMask) for mask in masks)
    else:
        assert {tuple(mask.shape) for mask in masks} == {(1, 1, 2, 5)}


def test_the_mask_has_no_entries_and_keeps_its_sizes_on_every_device() -> None:
    mask = BehindMask(30_000, 60_000)
    assert mask.untyped_storage().nbytes() <= 8
    for moved in (mask.to("meta"), send_to_device({"mask": mask}, "meta")["mask"], mask.clone()):
        assert (moved.seq_len_q, moved.seq_len_kv) == (30_000, 60_000)


def test_it_is_the_causal_mask_behind_a_context() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, length, 8) for length in (3, 5, 5))
    seen = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]).bool()
    got = scaled_dot_product_attention(query, key, value, attn_mask=BehindMask(3, 5))
    assert torch.equal(got, scaled_dot_product_attention(query, key, value, attn_mask=seen))
