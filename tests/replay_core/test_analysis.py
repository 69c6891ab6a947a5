"""Comparisons over the whole vocabulary, against plain full softmaxes."""

from typing import Any

import builders
import pytest
import torch
from torch import Tensor

from visreplay.replay_core import (
    ConfigError,
    ContextError,
    ModelPair,
    PromptComparison,
    ReplayConfig,
    ReplaySession,
    Segment,
    Shift,
    compare_models,
)
from visreplay.replay_core.analysis import entropy_groups
from visreplay.replay_core.families.adapter import Features, ModelAdapter
from visreplay.replay_core.lens import LensComparison

SEGMENT = builders.segment(5, ("image", (1, 8, 8), 1), 4, ("image", (1, 4, 8), 2), 3)
PLAIN = ReplayConfig("none")
TOKEN = ReplayConfig(
    "token", replay_layers=2, tau=1.0, steps=8, learning_rate=0.03, optimizer="adam"
)
STATE = ReplayConfig("state", state_layers=2, tau=1.0)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen2_vl"])
def whole(request: pytest.FixtureRequest) -> ModelPair:
    return builders.pair(request.param, replay_layers=None)


@torch.no_grad()
def log_probs(adapter: ModelAdapter, segment: Segment, features: list[Features]) -> list[Tensor]:
    """Log-probabilities `(T, V)` of every layer, from transformers' own forward."""
    embeds = adapter.embed(segment.token_ids).embeds_TD
    for block, block_features in zip(segment.blocks, features, strict=True):
        embeds[block.start : block.stop] = block_features.embeds_TD
    ids_1T = segment.token_ids[None]
    positions, _ = adapter.model.model.get_rope_index(
        ids_1T,
        mm_token_type_ids=(ids_1T == builders.IMAGE).int(),
        image_grid_thw=torch.cat([block.inputs["image_grid_thw"] for block in segment.blocks]),
    )
    out = adapter.language_model(
        inputs_embeds=embeds[None], position_ids=positions, output_hidden_states=True
    )
    *early, last = out.hidden_states[1:]
    normed = [*(adapter.norm(hidden) for hidden in early), last]  # the last is normed already
    return [adapter.head(hidden[0]).double().log_softmax(-1) for hidden in normed]


def test_the_plain_policy_against_full_softmaxes(whole: ModelPair) -> None:
    assert whole.base is not None
    both = [whole.features(block) for block in SEGMENT.blocks]
    policy, base = (
        log_probs(adapter, SEGMENT, [features[side] for features in both])
        for side, adapter in enumerate((whole.policy, whole.base))
    )
    # Chunks of one row of logits, and of three positions.
    config = ReplayConfig("none", memory_bytes=1, query_chunk=3)
    (compared,) = compare_models(whole, SEGMENT, [config])
    assert [found.kl.shape for found in compared.blocks] == [(4, 16), (4, 8)]
    visual = [torch.arange(block.start, block.stop) for block in SEGMENT.blocks]
    text = torch.tensor([i for i in range(len(SEGMENT)) if i not in torch.cat(visual)])
    assert compared.text is not None
    parts = zip((*visual, text, torch.cat([*visual, text])), parts_of(compared), strict=True)
    for rows, found in parts:
        for layer in range(4):
            q, p = policy[layer][rows], base[layer][rows]
            expected = {
                "kl": (p.exp() * (p - q)).sum(-1),
                "base_entropy": -(p.exp() * p).sum(-1),
                "entropy": -(q.exp() * q).sum(-1),
            }
            for name, value in expected.items():
                got = getattr(found, name)[layer]
                torch.testing.assert_close(got, value.float(), atol=2e-5, rtol=1e-4)
            assert (found.base_top[layer] == p.argmax(-1)).all()
            assert (found.top[layer] == q.argmax(-1)).all()
            assert (found.changed[layer] == (p.argmax(-1) != q.argmax(-1))).all()


def parts_of(compared: PromptComparison) -> list[LensComparison]:
    assert compared.text is not None
    return [*compared.blocks, compared.text, compared.everything]


def test_token_replay_lowers_the_divergence_on_its_layers(whole: ModelPair) -> None:
    plain, token = compare_models(whole, SEGMENT, [PLAIN, TOKEN])
    for before, after in zip(plain.blocks, token.blocks, strict=True):
        assert torch.equal(before.base_entropy, after.base_entropy)
        assert after.kl[:2].mean() < 0.8 * before.kl[:2].mean()


def test_replaced_activations_equal_the_bases() -> None:
    policy, base = builders.model(noise=0.02), builders.model()
    # Under one lens, so that equal activations mean equal predictions.
    policy.lm_head, policy.model.language_model.norm = base.lm_head, base.model.language_model.norm
    pair = ModelPair.of(policy, base, builders.Processor())
    plain, state = compare_models(pair, SEGMENT, [PLAIN, STATE])
    for before, after in zip(plain.blocks, state.blocks, strict=True):
        entropy_LT = before.base_entropy[:2]
        taken = (entropy_LT < before.entropy[:2]) & (entropy_LT < entropy_LT.amax(1, keepdim=True))
        assert taken.any() and not taken.all()
        assert after.kl[:2][taken].abs().max() < 1e-6
        assert not after.changed[:2][taken].any()


def test_each_system_is_measured_on_its_own(whole: ModelPair) -> None:
    together = compare_models(whole, SEGMENT, [PLAIN, TOKEN, STATE])
    for config, found in zip((PLAIN, TOKEN, STATE), together, strict=True):
        (alone,) = compare_models(whole, SEGMENT, [config])
        for one, other in zip(parts_of(alone), parts_of(found), strict=True):
            torch.testing.assert_close(one.kl, other.kl)


def test_a_base_that_was_cut_limits_the_layers(pair: ModelPair) -> None:
    (compared,) = compare_models(pair, SEGMENT, [PLAIN])
    assert compared.blocks[0].kl.shape == (3, 16)


def test_comparisons_that_are_refused() -> None:
    whole = builders.pair(replay_layers=None)
    alone = ModelPair.of(builders.model(), None, builders.Processor())
    with pytest.raises(ConfigError, match="with a base"):
        compare_models(alone, SEGMENT, [PLAIN])
    with pytest.raises(ContextError, match="no image and no video"):
        compare_models(whole, builders.segment(4), [PLAIN])
    with pytest.raises(ConfigError, match="replay_layers is 16"):
        compare_models(whole, SEGMENT, [ReplayConfig("token")])


def test_a_watching_visitor_changes_nothing_and_gets_the_new_tokens(whole: ModelPair) -> None:
    seen: list[tuple[int, int]] = []

    def watch(layer: int, rows: slice, hidden_TD: Tensor) -> None:
        seen.append((layer, len(hidden_TD)))

    watched, plain = ReplaySession(whole, TOKEN), ReplaySession(whole, TOKEN)
    for session, visitor in ((watched, watch), (plain, None)):
        session.append(SEGMENT)
        session.generate(max_new_tokens=2)
        session.append(builders.segment(2, ("image", (1, 4, 4), 9)), watch=visitor)
    assert seen == [(layer, size) for size in (3, 4, 1) for layer in range(4)]
    seen.clear()
    assert torch.equal(watched.next_logits, plain.next_logits)
    watched.append(builders.segment(3))
    assert not seen


def comparison(entropy_LT: Tensor) -> LensComparison:
    return LensComparison(
        kl=10 * entropy_LT,
        base_entropy=entropy_LT,
        entropy=entropy_LT,
        base_top=torch.zeros_like(entropy_LT),
        top=(entropy_LT > 2).float(),
    )


def test_groups_are_formed_within_each_block() -> None:
    first = torch.tensor([[3.0, 1.0, 0.5, 2.0]])
    second = torch.tensor([[5.0, 4.0]])
    shift = Shift.of([comparison(first), comparison(second)], groups=2, bins=5, vocabulary=148)
    assert shift.base_entropy_LQ[0].tolist() == pytest.approx([5.5 / 3, 10 / 3])
    torch.testing.assert_close(shift.kl_LQ, 10 * shift.base_entropy_LQ)
    torch.testing.assert_close(shift.changed_LQ, torch.tensor([[1 / 3, 2 / 3]]))
    assert shift.entropy_LB.tolist() == shift.base_entropy_LB.tolist() == [[1, 1, 1, 1, 2]]


@pytest.mark.parametrize(
    ("tokens", "sizes"), [(8, [2, 2, 2, 2]), (6, [2, 1, 2, 1]), (2, [1, 0, 1, 0])]
)
def test_groups_are_as_even_as_can_be(tokens: int, sizes: list[int]) -> None:
    groups = entropy_groups(torch.rand(1, tokens), 4)
    assert torch.bincount(groups[0], minlength=4).tolist() == sizes


def test_a_group_without_a_token_has_no_mean() -> None:
    shift: Any = Shift.of([comparison(torch.tensor([[1.0]]))], groups=2, bins=5, vocabulary=149)
    assert shift.kl_LQ[0, 0] == 10
    assert shift.kl_LQ[0, 1].isnan()
