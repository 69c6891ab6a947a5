"""The released objective's terms, against transformers' own forward and full softmaxes."""

from typing import Any

import builders
import pytest
import torch
from torch import Tensor

from visreplay.replay_core import (
    ConfigError,
    ModelPair,
    ReplayConfig,
    ReplaySession,
    objective_terms,
)
from visreplay.replay_core.families.adapter import Features, ModelAdapter

SEGMENT = builders.segment(5, ("image", (1, 8, 8), 1), 4, ("image", (1, 4, 8), 2), 3)
FIELDS: dict[str, Any] = {"replay_layers": 3, "threshold": "quantile", "tau": 0.5, "top_k": 20}
TOKEN = ReplayConfig("token", **FIELDS)


@torch.no_grad()
def lens_of_inputs(adapter: ModelAdapter, features: list[Features]) -> list[Tensor]:
    """Log-probabilities `(T, V)` at the input of every layer, the first being the embeddings."""
    embeds = adapter.embed(SEGMENT.token_ids).embeds_TD
    for block, block_features in zip(SEGMENT.blocks, features, strict=True):
        embeds[block.start : block.stop] = block_features.embeds_TD
    ids_1T = SEGMENT.token_ids[None]
    positions, _ = adapter.model.model.get_rope_index(
        ids_1T,
        mm_token_type_ids=(ids_1T == builders.IMAGE).int(),
        image_grid_thw=torch.cat([block.inputs["image_grid_thw"] for block in SEGMENT.blocks]),
    )
    out = adapter.language_model(
        inputs_embeds=embeds[None], position_ids=positions, output_hidden_states=True
    )
    # The last entry is the output of all layers, normed already; no layer that is compared.
    return [
        adapter.head(adapter.norm(hidden))[0].double().log_softmax(-1)
        for hidden in out.hidden_states[:-1]
    ]


def kl(base_TV: Tensor, other_TV: Tensor, rows: Tensor) -> float:
    """Mean KL on some positions, on the base's top 20 entries alone."""
    p, ids = base_TV[rows].topk(20, dim=-1)
    p, q = p.log_softmax(-1), other_TV[rows].gather(-1, ids).log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("vision_noise", [0.0, 0.05])
def test_every_term_against_full_softmaxes(vision_noise: float) -> None:
    pair = builders.pair(replay_layers=None, vision_noise=vision_noise)
    assert pair.base is not None
    features = [pair.features(block) for block in SEGMENT.blocks]
    policy = lens_of_inputs(pair.policy, [ours for ours, _ in features])
    base = lens_of_inputs(pair.base, [theirs for _, theirs in features])
    # Chunks of one row of logits, and of three positions.
    config = ReplayConfig("token", **FIELDS, memory_bytes=2000, query_chunk=3)
    for block, found in zip(SEGMENT.blocks, objective_terms(pair, SEGMENT, config), strict=True):
        assert found.tokens == block.length
        for layer in range(3):
            output = base[layer + 1]
            entropy_T = -(output.exp() * output).sum(-1)[block.start : block.stop]
            low = (entropy_T <= entropy_T.quantile(0.5)).nonzero().flatten() + block.start
            assert len(low) == block.length // 2
            for name, other in (
                ("released_L", policy[layer]),
                ("released_base_L", base[layer]),
                ("same_depth_L", policy[layer + 1]),
            ):
                expected = pytest.approx(kl(output, other, low), rel=1e-3)
                assert float(getattr(found, name)[layer]) == expected


def test_the_base_in_the_policys_place_leaves_the_released_objective_alone() -> None:
    pair = builders.pair(noise=0.0, replay_layers=None)
    for found in objective_terms(pair, SEGMENT, TOKEN):
        assert found.same_depth_L.abs().max() < 1e-6
        assert (found.released_L > 1e-3).all()
        torch.testing.assert_close(found.released_L, found.released_base_L)


def test_the_same_depth_is_what_replay_reports() -> None:
    pair = builders.pair(replay_layers=3)
    (block,) = objective_terms(pair, builders.segment(5, ("image", (1, 8, 8), 1), 4), TOKEN)
    with ReplaySession(pair, ReplayConfig("token", **FIELDS, steps=0)) as session:
        report = session.append(builders.segment(5, ("image", (1, 8, 8), 1), 4))
    assert float(block.same_depth_L.mean()) == pytest.approx(report.kl_before, rel=1e-4)


def test_an_empty_set_has_no_part() -> None:
    config = ReplayConfig("token", replay_layers=2, threshold="absolute", theta=(0.0, 9.0))
    for found in objective_terms(builders.pair(), SEGMENT, config):
        assert found.released_L[0] == found.released_base_L[0] == found.same_depth_L[0] == 0
        assert found.released_L[1] > 0


def test_more_layers_than_there_are_become_all() -> None:
    (first, _) = objective_terms(builders.pair(), SEGMENT, ReplayConfig("token"))
    assert len(first.released_L) == 3


def test_other_settings_and_pairs_are_refused() -> None:
    alone = ModelPair.of(builders.model(), None, builders.Processor())
    with pytest.raises(ConfigError, match="with a base"):
        objective_terms(alone, SEGMENT, TOKEN)
    with pytest.raises(ConfigError, match="the method is state"):
        objective_terms(builders.pair(), SEGMENT, ReplayConfig("state"))
