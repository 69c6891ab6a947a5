"""The low-entropy rule, and token replay's loss, gradient and guarantees."""

from typing import Any

import builders
import pytest
import torch
from builders import segment
from hypothesis import given
from hypothesis import strategies as st
from oracle import Oracle, entropy
from reference import lens, top_kl
from torch import Tensor

from visreplay.replay_core import (
    ModelPair,
    OptimisationError,
    ReplayConfig,
    ReplaySession,
    compare_models,
)
from visreplay.replay_core.cache import KVCache
from visreplay.replay_core.lens import Lens
from visreplay.replay_core.objectives import Divergence
from visreplay.replay_core.replay import token_replay
from visreplay.replay_core.selection import choose, entropy_limits
from visreplay.replay_core.visitors import LensReader


def low_entropy(entropy_LT: Tensor, config: ReplayConfig) -> Tensor:
    return choose(entropy_LT, entropy_limits(entropy_LT, config), config, start=0)


IMAGE = segment(4, ("image", (1, 4, 8), 1), 3)


def config(**changes: Any) -> ReplayConfig:
    settings = {"replay_layers": 3, "state_layers": 3, "threshold": "quantile", "tau": 0.6}
    settings["alignment"] = "same"
    return ReplayConfig.paper(**{**settings, **changes})


@given(
    st.lists(st.lists(st.floats(0, 12), min_size=5, max_size=5), min_size=1, max_size=4),
    st.floats(0.01, 1),
)
def test_the_relative_rule(rows: list[list[float]], tau: float) -> None:
    entropy_LT = torch.tensor(rows)
    mask = low_entropy(entropy_LT, ReplayConfig(tau=tau))
    for layer, row in enumerate(entropy_LT):
        for t, value in enumerate(row):
            assert mask[layer, t] == (value <= tau * row.max())


def test_tau_1_takes_every_position() -> None:
    assert low_entropy(torch.rand(3, 7), ReplayConfig(tau=1.0)).all()
    assert low_entropy(torch.rand(3, 7), ReplayConfig(tau=1.0, threshold="quantile")).all()


def test_the_other_rules() -> None:
    entropy_LT = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [5.0, 5.0, 1.0, 5.0, 5.0]])
    quantile = low_entropy(entropy_LT, ReplayConfig(threshold="quantile", tau=0.5))
    assert quantile[0].tolist() == [True, True, True, False, False]
    absolute = ReplayConfig(threshold="absolute", theta=(2.5, 0.5), replay_layers=2)
    assert low_entropy(entropy_LT, absolute).sum(dim=1).tolist() == [2, 0]
    published = ReplayConfig(method="state", threshold="absolute")
    assert entropy_limits(torch.zeros(7, 1), published)[2] == pytest.approx(3.734)


def test_replay_lowers_the_divergence(any_pair: ModelPair) -> None:
    family = any_pair.policy.model.config.model_type
    with ReplaySession(any_pair, config(steps=25)) as session:
        report = session.append(segment(4, ("image", (1, 4, 8), 1), 3, family=family))
        (block,) = session.blocks
    assert report.kl_before is not None and report.kl_after is not None
    assert report.kl_after < 0.75 * report.kl_before
    assert report.optimisation_steps == len(block.kl_path) == 25
    assert block.kl_path[0] == report.kl_before
    assert list(block.kl_path) == sorted(block.kl_path, reverse=True)


def test_adam_lowers_it_too(pair: ModelPair) -> None:
    with ReplaySession(pair, config(optimizer="adam")) as session:
        report = session.append(IMAGE)
    assert report.kl_after < report.kl_before / 2  # type: ignore[operator]


def test_the_optimisation_ends_on_a_plateau(pair: ModelPair) -> None:
    paths = []
    for plateau in (0.0, 0.2, 0.999):
        with ReplaySession(pair, config(optimizer="adam", steps=12, plateau=plateau)) as session:
            session.append(IMAGE)
            paths.append(session.blocks[0].kl_path)
    whole, some, shortest = paths
    assert len(whole) == 12 and len(shortest) == 2
    stopped = next(n for n in range(2, 12) if whole[n] > 0.8 * whole[n - 2])
    assert some == whole[:stopped]


def test_adam_does_not_depend_on_the_size_of_the_loss(pair: ModelPair) -> None:
    """More visual tokens mean a smaller mean, and must not mean smaller steps."""
    offsets = []
    for size in (1.0, 1e-7):
        (block,) = IMAGE.blocks
        features = pair.policy.features(block)
        base = pair.base
        assert base is not None
        reader = LensReader(Lens(base.norm, base.head, 2**20), 3, top_k=20)
        positions_3T = pair.policy.block_positions(block, 0)
        base.run(features, positions_3T, KVCache(3), visit=reader)
        chosen_LT = torch.ones_like(reader.entropy_LT, dtype=torch.bool)
        lens = Lens(pair.policy.norm, pair.policy.head, 2**20)

        class Scaled(Divergence):
            def fresh(self, size: float = size) -> Divergence:
                return Scaled(self._lens, self._targets, self.chosen_LT)

            def means(self, size: float = size) -> Tensor:
                return size * super().means()

        divergence = Scaled(lens, reader.targets(chosen_LT), chosen_LT)
        offset, _ = token_replay(
            pair.policy, divergence, features, positions_3T, KVCache(3), config(optimizer="adam")
        )
        offsets.append(offset.delta_TD)
    torch.testing.assert_close(*offsets, atol=1e-5, rtol=1e-3)


def test_adam_spares_positions_that_are_not_chosen(pair: ModelPair) -> None:
    """A token that hardly matters to the loss must not be carried away from the base."""
    image = segment(3, ("image", (1, 16, 16), 2))
    settings = config(optimizer="adam", steps=10, tau=0.2)
    with ReplaySession(pair, settings) as session:
        session.append(image)
        chosen_LT = session.blocks[0].chosen_LT
    found = compare_models(pair, image, [config(method="none"), settings])
    (plain,), (replayed,) = (each.blocks for each in found)
    assert replayed.kl[chosen_LT].mean() < 0.5 * plain.kl[chosen_LT].mean()
    assert replayed.kl[~chosen_LT].mean() < 1.1 * plain.kl[~chosen_LT].mean()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_half_precision_lowers_it_too(dtype: torch.dtype, optimizer: str) -> None:
    """A gradient that is a mean over many tokens must not vanish on its way back."""
    policy, base = builders.model(noise=0.02).to(dtype), builders.model().to(dtype)
    half = ModelPair.of(policy, base, builders.Processor(), 3)
    with ReplaySession(half, config(optimizer=optimizer)) as session:
        report = session.append(segment(2, ("image", (1, 16, 16), 1)))
    assert report.kl_after < report.kl_before  # type: ignore[operator]


def test_state_replay_lowers_the_divergence(pair: ModelPair) -> None:
    with ReplaySession(pair, config(method="state")) as session:
        report = session.append(IMAGE)
    assert report.kl_after < report.kl_before / 2  # type: ignore[operator]
    assert report.optimisation_steps == 0


def test_divergence_before_is_the_plain_policys(pair: ModelPair) -> None:
    """Both methods report the same number, and it is the one by definition."""
    oracle = Oracle.of(builders.model(noise=0.02), builders.model(), config(steps=0))
    oracle.append(IMAGE)
    (block,) = IMAGE.blocks
    rows = slice(block.start, block.stop)
    with torch.no_grad():
        base = lens(oracle.base.model, oracle.activations(oracle.base)[:3, rows])
        plain = lens(oracle.policy.model, oracle.activations(oracle.policy)[:3, rows])
    divergence = torch.stack([top_kl(*each, 50) for each in zip(base, plain, strict=True)])
    mask = entropy(base) <= entropy(base).quantile(0.6, dim=1, keepdim=True)
    expected = sum(divergence[layer, mask[layer]].mean() for layer in range(3)) / 3
    for method, steps in (("token", 0), ("token", 2), ("state", 0)):
        with ReplaySession(pair, config(method=method, steps=steps)) as session:
            assert session.append(IMAGE).kl_before == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("method", ["token", "state"])
def test_chunks_do_not_change_the_report(pair: ModelPair, method: str) -> None:
    reports = []
    for chunks in ({}, {"query_chunk": 3, "memory_bytes": 1}):
        with ReplaySession(pair, config(method=method, steps=3, **chunks)) as session:
            reports.append(session.append(IMAGE))
    assert reports[0].kl_before == pytest.approx(reports[1].kl_before, abs=1e-6)
    assert reports[0].kl_after == pytest.approx(reports[1].kl_after, abs=1e-6)


@pytest.mark.parametrize("recompute", [False, True])
def test_one_step_equals_the_naive_gradient(pair: ModelPair, recompute: bool) -> None:
    """The path of the loss, and where it leads, against whole forwards and full logits."""
    settings = config(steps=3, recompute_activations=recompute)
    oracle = Oracle.of(builders.model(noise=0.02), builders.model(), settings)
    oracle.append(IMAGE)
    with ReplaySession(pair, settings) as session:
        session.append(IMAGE)
        torch.testing.assert_close(session.next_logits, oracle.next_logits(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"threshold": "absolute", "theta": (-1.0,) * 3}], ids=["0", "empty"]
)
def test_without_steps_or_positions_the_policy_is_exactly_the_plain_one(
    pair: ModelPair, changes: Any
) -> None:
    logits = []
    for settings in (config(**changes), config(method="none")):
        with ReplaySession(pair, settings) as session:
            session.append(IMAGE)
            logits.append(session.next_logits)
    assert torch.equal(*logits)


def test_steps_that_diverge_are_an_error_and_not_an_answer() -> None:
    policy, base = builders.model(noise=0.02).half(), builders.model().half()
    half = ModelPair.of(policy, base, builders.Processor())
    with ReplaySession(half, config(learning_rate=1e30)) as session:
        with pytest.raises(OptimisationError, match=r"diverged at learning rate 1e\+30"):
            session.append(IMAGE)
        assert session.length == 0


def test_an_empty_set_is_not_reported_as_a_divergence_of_zero(pair: ModelPair) -> None:
    with ReplaySession(pair, config(threshold="absolute", theta=(-1.0,) * 3)) as session:
        report = session.append(IMAGE)
    assert (report.kl_before, report.kl_after, report.optimisation_steps) == (None, None, 0)
    assert report.new_visual_tokens == 8


def test_a_policy_that_is_its_base_stays_where_it_is() -> None:
    pair = builders.pair(noise=0.0)
    with ReplaySession(pair, config()) as session:
        report = session.append(IMAGE)
        replayed = session.next_logits
    with ReplaySession(pair, config(method="none")) as plain:
        plain.append(IMAGE)
        torch.testing.assert_close(replayed, plain.next_logits, atol=1e-4, rtol=0)
    assert report.kl_before == pytest.approx(0, abs=1e-6)
