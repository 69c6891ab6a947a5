"""Feature replay: the base's visual features at low-entropy visual tokens of the policy."""

from typing import Any

import builders
import pytest
import torch
from builders import segment
from oracle import Oracle
from replay_cases import assert_same

from visreplay.replay_core import ConfigError, ModelPair, ReplayConfig, ReplaySession, load_pair
from visreplay.replay_core.families.registry import adapter_for

PARTS = [
    segment(4, ("image", (1, 4, 6), 1), 3),
    segment(2, ("image", (1, 4, 4), 2), ("image", (1, 6, 4), 3), 2),
    segment(5),
]


def config(**changes: Any) -> ReplayConfig:
    settings = {"threshold": "quantile", "tau": 0.5, "feature_layers": 2}
    return ReplayConfig("feature", **{**settings, **changes})  # type: ignore[arg-type]


def tower_of_its_own(family: Any = "qwen2_5_vl", noise: float = 0.02) -> Any:
    """A policy whose vision tower, and whose language model if there is noise, was trained."""
    policy = builders.model(family, noise=noise)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in adapter_for(policy).vision.values():
            weight += 0.02 * torch.randn_like(weight)
    return policy


def disturbed(family: Any = "qwen2_5_vl", noise: float = 0.02) -> ModelPair:
    policy = tower_of_its_own(family, noise)
    return ModelPair.of(policy, builders.model(family), builders.Processor(), 3)


@pytest.mark.parametrize("changes", [{}, {"query_chunk": 4}, {"patched_layers": 3}])
@pytest.mark.parametrize("family", builders.FAMILIES)
def test_an_episode_equals_the_recomputation(family: Any, changes: dict[str, int]) -> None:
    pair, chosen = disturbed(family), config(**changes)
    expected = Oracle.of(tower_of_its_own(family), builders.model(family), chosen)
    with ReplaySession(pair, chosen) as session:
        for parts in ((4, ("image", (1, 4, 6), 1), 3), (2, ("image", (1, 4, 4), 2), 2)):
            part = segment(*parts, family=family)
            session.append(part)
            expected.append(part)
            assert session.generate(max_new_tokens=3).token_ids == expected.generate(3)
        assert_same(session, expected)
        for block in session.blocks:
            assert 0 < block.chosen_LT[1].sum() < block.length
            assert changes.get("patched_layers") or not block.chosen_LT[0].any()


def test_all_features_of_a_policy_that_differs_in_its_tower_alone_are_the_base() -> None:
    pair = disturbed(noise=0.0)
    base = ModelPair.of(builders.model(), None, builders.Processor())
    with (
        ReplaySession(pair, config(side="all")) as session,
        ReplaySession(pair, config()) as low,
        ReplaySession(pair, ReplayConfig("none")) as plain,
        ReplaySession(base, ReplayConfig("none")) as expected,
    ):
        for part in PARTS:
            for each in (session, low, plain, expected):
                each.append(part)
        torch.testing.assert_close(session.next_logits, expected.next_logits)
        far, near = ((each.next_logits - expected.next_logits).norm() for each in (plain, low))
        assert 0 < near < far


def test_all_visual_activations_of_all_layers_are_the_base_at_visual_tokens() -> None:
    """What is left of the policy then is what it makes of text."""
    pair = ModelPair.of(tower_of_its_own(), builders.model(), builders.Processor())
    alone = ModelPair.of(builders.model(), None, builders.Processor())
    everything = config(side="all", patched_layers=builders.LAYERS, feature_layers=1)
    image = segment(0, ("image", (1, 4, 6), 1), 0)
    with ReplaySession(pair, everything) as session, ReplaySession(alone, "none") as base:
        session.append(image)
        base.append(image)
        ours, theirs = (each._context.final.data for each in (session, base))  # type: ignore[union-attr]
        # The first and the last token mark the image, and are text.
        torch.testing.assert_close(ours[1:-1], theirs[1:-1], atol=1e-5, rtol=0)


def test_the_divergence_is_that_of_the_chosen_tokens() -> None:
    pair = disturbed(noise=0.0)
    with ReplaySession(pair, config(side="all")) as session:
        report = session.append(PARTS[0])
    assert report.kl_before is not None and report.kl_before > 1e-4
    assert report.kl_after is not None and report.kl_after < 1e-6


def test_a_shared_tower_leaves_nothing_to_replay(pair: ModelPair) -> None:
    assert pair.shares_vision
    with (
        ReplaySession(pair, config()) as session,
        ReplaySession(pair, ReplayConfig("none")) as plain,
    ):
        for part in PARTS:
            session.append(part)
            plain.append(part)
        assert torch.equal(session.next_logits, plain.next_logits)


def test_a_crop_is_as_if_the_rest_had_never_been_there() -> None:
    pair = disturbed()
    with ReplaySession(pair, config()) as session, ReplaySession(pair, config()) as fresh:
        for part in PARTS:
            session.append(part)
        session.crop(len(PARTS[0]))
        fresh.append(PARTS[0])
        for each in (session, fresh):
            each.append(PARTS[2])
        torch.testing.assert_close(session.next_logits, fresh.next_logits)


def test_settings_that_belong_to_other_methods() -> None:
    with pytest.raises(ConfigError, match="entry_layer is a setting of token replay"):
        config(entry_layer=1)
    with pytest.raises(ConfigError, match="alignment 'reference' is one of the paper's methods"):
        config(alignment="reference")
    with pytest.raises(ConfigError, match="is one of token replay, but the method is 'feature'"):
        config(teacher="local", side="all")
    with pytest.raises(ConfigError, match="the paper has no settings for it"):
        ReplayConfig.paper("feature")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="feature_layers is 0, but must be at least 1"):
        config(feature_layers=0)
    with pytest.raises(ConfigError, match="patched_layers is -1, but must be 0"):
        config(patched_layers=-1)


def test_more_layers_than_the_pair_has(pair: ModelPair) -> None:
    with pytest.raises(ConfigError, match="feature_layers is 9, but the policy has 4"):
        ReplaySession(pair, config(feature_layers=9))


def test_the_embedded_pair_has_settings_of_its_own() -> None:
    settings = load_pair("embedded").replay_config("feature")
    assert (settings.threshold, settings.tau, settings.feature_layers) == ("quantile", 0.5, 1)
