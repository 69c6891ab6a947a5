"""Our decoder loop, positions and masks against the models' own forward."""

from typing import Any

import builders
import pytest
import torch
from builders import FAMILIES, segment
from replay_cases import walk
from torch import Tensor, nn

from visreplay.replay_core import ModelPair, UnsupportedModelError
from visreplay.replay_core.cache import KVCache
from visreplay.replay_core.families.adapter import ModelAdapter
from visreplay.replay_core.families.registry import adapter_for

QWEN = [family for family in FAMILIES if family.startswith("qwen")]
PROMPT = (5, ("image", (1, 4, 8), 1), 3, ("image", (1, 6, 4), 2), ("image", (1, 4, 4), 3), 6)


def ours(adapter: ModelAdapter, *parts: Any, chunk: int | None = None, **kwargs: Any) -> Tensor:
    whole = segment(*parts, family=adapter.model.config.model_type, **kwargs)
    logits: Tensor = walk(adapter, whole, chunk)[0]
    return logits


def theirs(model: Any, *parts: Any, **kwargs: Any) -> Any:
    inputs = builders.inputs(*parts, family=model.config.model_type, **kwargs)
    return model(**inputs, use_cache=True)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_equal_the_models_own(family: Any, attention: str) -> None:
    model = builders.model(family, attention=attention)
    expected = theirs(model, *PROMPT).logits[0]
    for chunk in (None, 5):
        torch.testing.assert_close(
            ours(adapter_for(model), *PROMPT, chunk=chunk), expected, atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_generated_tokens_continue_at_rope_deltas(family: Any) -> None:
    model = builders.model(family)
    outputs = theirs(model, *PROMPT)
    more = [11, 12, 13]
    expected = model(input_ids=torch.tensor([more]), cache=outputs.cache)
    adapter = adapter_for(model)
    _, cache, position = walk(adapter, segment(*PROMPT, family=family))
    hidden = adapter.run(
        adapter.embed(torch.tensor(more)), adapter.text_positions(3, position), cache
    )
    logits = adapter.head(adapter.norm(hidden))
    torch.testing.assert_close(logits, expected.logits[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_videos_among_images(family: Any) -> None:
    model = builders.model(family)
    parts = (4, ("image", (1, 4, 4), 1), 2, ("video", (2, 4, 6), 2), 3, ("image", (1, 4, 8), 3), 2)
    expected = theirs(model, *parts).logits[0]
    torch.testing.assert_close(ours(adapter_for(model), *parts), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("seconds", [0.25, 1 / 3, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("family", QWEN)
@torch.no_grad()
def test_videos_follow_their_seconds(family: Any, seconds: float) -> None:
    model = builders.model(family)
    # Nothing behind the video: there transformers' two rules differ (`ModelAdapter.extent`).
    parts = (4, ("image", (1, 4, 4), 1), 2, ("video", (5, 4, 6), 2))
    expected = theirs(model, *parts, seconds=seconds).logits[0, :-1]
    got = ours(adapter_for(model), *parts, seconds=seconds)[:-1]
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_text_goes_on_behind_the_last_second_of_a_video() -> None:
    adapter = adapter_for(builders.model())
    (block,) = segment(("video", (5, 4, 6), 1), seconds=1.0).blocks
    assert adapter.extent(block) == 4 * 4 + 1  # 5 steps in time, 4 positions per second
    (image,) = segment(("image", (1, 4, 6), 1)).blocks
    assert adapter.extent(image) == 3


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
@torch.no_grad()
def test_sliding_window_layers(family: Any) -> None:
    model = builders.model(
        family, use_sliding_window=True, sliding_window=6, max_window_layers=2, attention="eager"
    )
    assert set(model.config.text_config.layer_types) == {"full_attention", "sliding_attention"}
    expected = theirs(model, *PROMPT).logits[0]
    for chunk in (None, 4):
        got = ours(adapter_for(model), *PROMPT, chunk=chunk)
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_visitor_gets_and_replaces_every_layer(pair: ModelPair) -> None:
    adapter = pair.policy
    ids_T = torch.arange(7)
    seen: list[tuple[int, slice]] = []

    def zero(layer: int, rows: slice, hidden_TD: Tensor) -> Tensor | None:
        seen.append((layer, rows))
        return torch.zeros_like(hidden_TD) if layer == adapter.depth - 1 else None

    cache = KVCache(adapter.depth)
    hidden = adapter.run(
        adapter.embed(ids_T), adapter.text_positions(7, 0), cache, visit=zero, chunk=4
    )
    assert not hidden.any()
    assert seen == [(i, r) for r in (slice(0, 4), slice(4, 7)) for i in range(adapter.depth)]


def test_recomputing_changes_no_gradient(pair: ModelPair) -> None:
    gradients = []
    for recompute in (False, True):
        features = pair.policy.embed(torch.arange(5))
        embeds = features.embeds_TD.requires_grad_()
        hidden = pair.policy.run(
            features,
            pair.policy.text_positions(5, 0),
            KVCache(4).frozen(4),
            recompute=recompute,
        )
        hidden.square().sum().backward()
        gradients.append(embeds.grad)
    torch.testing.assert_close(*gradients)


def test_the_error_of_an_unknown_family_names_what_to_provide() -> None:
    model = builders.model()
    model.config.model_type = "other_vl"
    with pytest.raises(UnsupportedModelError, match=r"'other_vl' .*qwen2_5_vl.*split"):
        adapter_for(model)


def test_offloaded_weights_are_refused() -> None:
    model = builders.model()
    model.model.language_model.layers[0].to("meta")
    with pytest.raises(UnsupportedModelError, match="offloaded"):
        adapter_for(model)


def test_a_head_that_is_not_linear_is_refused() -> None:
    model = builders.model()
    model.lm_head = nn.Sequential(model.lm_head)
    with pytest.raises(UnsupportedModelError, match="Sequential"):
        adapter_for(model)
