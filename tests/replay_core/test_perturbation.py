"""Noise on visual activations, and the probability of answers under it."""

from dataclasses import replace
from math import isnan

import builders
import pytest
import torch

from visreplay.replay_core import (
    ConfigError,
    ContextError,
    ModelPair,
    Perturbation,
    ReplayConfig,
    ReplaySession,
    Segment,
    Side,
    perturb,
)
from visreplay.replay_core.perturbation import Noise

SEGMENT = builders.segment(5, ("image", (1, 8, 8), 1), 4, ("image", (1, 4, 8), 2), 3)
TOKEN = ReplayConfig("token", replay_layers=2, threshold="quantile", tau=0.5, steps=0)
ANSWERS = [torch.tensor([7, 9, 11]), torch.tensor([8])]
NONE = Perturbation(Side.LOW, 0.0)


@pytest.fixture(scope="module")
def models() -> ModelPair:
    return builders.pair(replay_layers=3)


def test_without_noise_it_is_the_plain_policy(models: ModelPair) -> None:
    (found,) = perturb(models, SEGMENT, ANSWERS, [NONE], TOKEN)
    for answer, log_probs in zip(ANSWERS, found.log_probs, strict=True):
        with ReplaySession(models, "none") as session:
            session.append(SEGMENT)
            for token, log_prob in zip(answer.tolist(), log_probs.tolist(), strict=True):
                expected = session.next_logits.log_softmax(-1)[token]
                assert log_prob == pytest.approx(float(expected), abs=1e-4)
                session.extend_generated([token])
    with ReplaySession(models, TOKEN) as session:
        assert found.kl == pytest.approx(session.append(SEGMENT).kl_before, rel=1e-4)


@pytest.mark.parametrize("family", ["qwen3_vl", "internvl"])
def test_other_families(family: builders.Family) -> None:
    pair = builders.pair(family)
    segment = builders.segment(3, ("image", (1, 8, 8), 1), 4, family=family)
    (found,) = perturb(pair, segment, ANSWERS[:1], [NONE], TOKEN)
    with ReplaySession(pair, "none") as session:
        session.append(segment)
        expected = session.next_logits.log_softmax(-1)[7]
    assert float(found.log_probs[0][0]) == pytest.approx(float(expected), abs=1e-4)


def test_more_noise_is_further_from_the_base_and_moves_the_answers(models: ModelPair) -> None:
    sizes = (0.0, 0.1, 0.5)
    low, high = (
        list(perturb(models, SEGMENT, ANSWERS, [Perturbation(side, s) for s in sizes], TOKEN))
        for side in (Side.LOW, Side.HIGH)
    )
    for found in (low, high):
        assert found[0].kl < found[1].kl < found[2].kl
        assert (found[0].log_probs[0] - found[2].log_probs[0]).abs().max() > 1e-3
    # Noise elsewhere reaches the low-entropy tokens through attention alone.
    assert high[2].kl < low[2].kl


def test_the_same_seed_gives_the_same_in_any_chunks(models: ModelPair) -> None:
    noisy = [Perturbation(Side.ALL, 0.3)]

    def found(config: ReplayConfig, seed: int) -> tuple[float, list[float]]:
        (each,) = perturb(models, SEGMENT, ANSWERS, noisy, config, seed=(seed,))
        return each.kl, each.log_probs[0].tolist()

    kl, log_probs = found(TOKEN, 1)
    for config in (TOKEN, replace(TOKEN, query_chunk=3, memory_bytes=1)):
        again = found(config, 1)
        assert again[0] == pytest.approx(kl, rel=1e-4)
        assert again[1] == pytest.approx(log_probs, abs=1e-4)
    assert found(TOKEN, 2)[1] != pytest.approx(log_probs, abs=1e-3)


def test_noise_has_its_size_and_its_places() -> None:
    chosen_LT = torch.zeros(2, 40, dtype=torch.bool)
    chosen_LT[1, ::2] = True
    hidden_TD = torch.randn(40, 512) * torch.logspace(-2, 2, 40)[:, None]
    noise = Noise(chosen_LT, 0.1, (0,))
    assert noise(2, slice(0, 40), hidden_TD) is None
    added_TD = noise(1, slice(0, 40), hidden_TD) - hidden_TD  # type: ignore[operator]
    assert not added_TD[1::2].any()
    relative_N = added_TD[::2].norm(dim=1) / hidden_TD[::2].norm(dim=1)
    torch.testing.assert_close(relative_N, torch.full((20,), 0.1), atol=0, rtol=0.15)


def test_the_direction_of_noise_does_not_depend_on_its_size() -> None:
    chosen_LT, hidden_TD = torch.ones(1, 6, dtype=torch.bool), torch.randn(6, 16)
    small, large = (
        Noise(chosen_LT, size, (3,))(0, slice(0, 6), hidden_TD) - hidden_TD  # type: ignore[operator]
        for size in (0.1, 0.4)
    )
    torch.testing.assert_close(4 * small, large, atol=1e-5, rtol=1e-4)


def test_the_models_and_the_dtype_stay(models: ModelPair) -> None:
    hidden_TD = torch.randn(6, 16, dtype=torch.bfloat16)
    kept_TD = hidden_TD.clone()
    noisy_TD = Noise(torch.ones(1, 6, dtype=torch.bool), 0.1, (0,))(0, slice(0, 6), hidden_TD)
    assert noisy_TD is not None and noisy_TD.dtype == torch.bfloat16
    assert torch.equal(hidden_TD, kept_TD)


def test_without_a_low_position_there_is_no_divergence(models: ModelPair) -> None:
    config = replace(TOKEN, threshold="absolute", theta=(0.0, 0.0))
    (found,) = perturb(models, SEGMENT, ANSWERS, [NONE], config)
    assert isnan(found.kl)


def test_a_prompt_that_begins_with_an_image(models: ModelPair) -> None:
    block = SEGMENT.blocks[0]
    segment = Segment(SEGMENT.token_ids[block.start : block.stop + 2], (block.at(0),))
    (found,) = perturb(models, segment, ANSWERS, [NONE], TOKEN)
    with ReplaySession(models, "none") as session:
        session.append(segment)
        expected = session.next_logits.log_softmax(-1)[8]
    assert float(found.log_probs[1][0]) == pytest.approx(float(expected), abs=1e-4)


def test_studies_that_are_refused(models: ModelPair) -> None:
    alone = ModelPair.of(builders.model(), None, builders.Processor())
    with pytest.raises(ConfigError, match="with a base"):
        list(perturb(alone, SEGMENT, ANSWERS, [NONE], TOKEN))
    with pytest.raises(ConfigError, match="the method is state"):
        list(perturb(models, SEGMENT, ANSWERS, [NONE], ReplayConfig("state")))
    with pytest.raises(ContextError, match="no image and no video"):
        list(perturb(models, builders.segment(4), ANSWERS, [NONE], TOKEN))
    with pytest.raises(ContextError, match="without a token"):
        list(perturb(models, SEGMENT, [torch.tensor([], dtype=torch.long)], [NONE], TOKEN))
