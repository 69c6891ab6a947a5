"""Sketched entropies: the same masks as exact ones, at a part of the cost."""

from dataclasses import replace
from typing import Any

import builders
import pytest
import torch
from builders import segment
from replay_cases import SAMPLES

from visreplay.replay_core import (
    ConfigError,
    Method,
    ModelPair,
    ReplayConfig,
    ReplaySession,
    Segment,
)

IMAGE = segment(4, ("image", (1, 8, 8), 1), 3)


def config(method: Any = "state", **changes: Any) -> ReplayConfig:
    settings = {"threshold": "quantile", "tau": 0.5, "replay_layers": 3, "state_layers": 3}
    return ReplayConfig(method=method, **{**settings, **changes})


@pytest.fixture(scope="module")
def sketched(pair: ModelPair) -> ModelPair:
    return pair.sketched(SAMPLES, layers=3, rank=16, config=config())


def masks(pair: ModelPair, settings: ReplayConfig) -> torch.Tensor:
    """The positions where state replay replaced activations, or that token replay compares."""
    with ReplaySession(pair, settings) as session:
        session.append(IMAGE)
        (record,) = session.blocks
    return record.chosen_LT if record.replaced_LT is None else record.replaced_LT


def with_margins(pair: ModelPair, nats: float) -> ModelPair:
    """The same sketch, which does not decide within so many nats."""
    assert pair.sketch is not None
    margins = torch.full_like(pair.sketch.gap_margin_L, nats)
    base = replace(pair.sketch.base, margin_L=margins)
    return replace(pair, sketch=replace(pair.sketch, base=base, gap_margin_L=margins))


@pytest.mark.parametrize("method", ["token", "state"])
@pytest.mark.parametrize("rule", [{}, {"threshold": "relative", "tau": 0.97}])
def test_masks_agree(pair: ModelPair, sketched: ModelPair, method: str, rule: Any) -> None:
    settings = config(method, **rule)
    assert (masks(sketched, settings) == masks(pair, settings)).float().mean() > 0.95


@pytest.mark.parametrize("rule", [{}, {"threshold": "relative", "tau": 0.97}])
def test_margins_decide_what_is_read_exactly(
    pair: ModelPair, sketched: ModelPair, rule: Any
) -> None:
    """A sketch that never trusts itself gives the exact masks, and one that always does not."""
    exact = masks(pair, config(**rule))
    assert torch.equal(masks(with_margins(sketched, 100.0), config(**rule)), exact)
    assert not torch.equal(masks(with_margins(sketched, 0.0), config(**rule)), exact)


def test_history_does_not_matter(sketched: ModelPair) -> None:
    with ReplaySession(sketched, config()) as straight, ReplaySession(sketched, config()) as other:
        straight.append(IMAGE)
        other.append(Segment(IMAGE.token_ids[:2]))
        other.append(IMAGE.after(2))
        for session in (straight, other):
            session.append(segment(9))
        other.crop(len(IMAGE) + 4)
        for token in segment(9).token_ids[4:]:
            other.append(Segment(token[None]))
        torch.testing.assert_close(straight.next_logits, other.next_logits, atol=1e-4, rtol=0)


def test_a_full_rank_is_exact(pair: ModelPair) -> None:
    exact = pair.sketched(SAMPLES, layers=3, rank=32, config=config())
    logits = []
    for each in (pair, exact):
        with ReplaySession(each, config()) as session:
            session.append(IMAGE)
            session.append(segment(6, ("image", (1, 4, 4), 3), 2))
            logits.append(session.next_logits)
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)


def test_a_bad_sketch_hardly_decides(pair: ModelPair) -> None:
    """With one direction of 32 nearly every position is in doubt, and so is read exactly."""
    bad = pair.sketched(SAMPLES, layers=3, rank=1, config=config())
    assert (masks(bad, config()) == masks(pair, config())).float().mean() > 0.95
    assert bad.sketch is not None and bad.sketch.base.margin_L.min() > 0.02


def test_the_cheap_head_is_narrow_and_shared_where_the_heads_are(sketched: ModelPair) -> None:
    sketch = sketched.sketch
    assert sketch is not None and sketch.depth == 3
    assert sketch.base.lens.head.weight.shape == (builders.VOCABULARY, 16)
    assert sketch.policy.lens.head is not sketch.base.lens.head  # this policy's head differs
    same = builders.pair(noise=0.0).sketched(SAMPLES, layers=3, rank=16, config=config())
    assert same.sketch is not None
    assert same.sketch.policy.lens.head is same.sketch.base.lens.head


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank is 0, but must lie in 1 to the hidden size, 32"),
        ({"rank": 33}, "rank is 33"),
        ({"segments": SAMPLES[:1]}, "16 activations a layer are too few for rank 16"),
    ],
)
def test_sketches_that_cannot_be_fitted(pair: ModelPair, changes: Any, message: str) -> None:
    settings = {"segments": SAMPLES, "layers": 3, "rank": 16, "config": config(), **changes}
    with pytest.raises(ConfigError, match=message):
        pair.sketched(**settings)


def test_more_layers_than_were_fitted(pair: ModelPair) -> None:
    two = pair.sketched(SAMPLES, layers=2, rank=16, config=config())
    with pytest.raises(ConfigError, match="fitted for 2 layers, but state replay looks at 3"):
        ReplaySession(two, config())
    ReplaySession(two, ReplayConfig(Method.NONE))


def test_another_teacher_is_read_exactly(pair: ModelPair, sketched: ModelPair) -> None:
    """The sketch knows the base's lens only."""
    for teacher in ("window", "jitter"):
        settings = config(teacher=teacher)
        assert torch.equal(masks(pair, settings), masks(sketched, settings))


def test_state_replay_reports_no_divergence(sketched: ModelPair) -> None:
    with (
        ReplaySession(sketched, config("token")) as token,
        ReplaySession(sketched, config("state")) as state,
    ):
        assert token.append(IMAGE).kl_after is not None
        assert state.append(IMAGE).kl_after is None
        assert state.blocks[0].replaced_LT is not None and state.blocks[0].replaced_LT.any()


def test_a_pair_without_a_base_has_no_sketch() -> None:
    alone = ModelPair.of(builders.model(), None, builders.Processor())
    with pytest.raises(ConfigError, match="no base"):
        alone.sketched(SAMPLES, layers=3, rank=16, config=config())
