"""The session against the method from scratch (method.md, "Incremental refresh")."""

from dataclasses import replace
from typing import Any

import builders
import pytest
import torch
from builders import segment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import Oracle
from replay_cases import assert_same

from visreplay.replay_core import ModelPair, ReplayConfig, ReplaySession, Segment

EPISODE: list[tuple[Any, ...]] = [
    (4, ("image", (1, 4, 6), 1), 3),
    (2, ("image", (1, 4, 4), 2), ("image", (1, 6, 4), 3), 2),
    (5,),
    # A video no longer in time than wide: elsewhere transformers' two rules for the text behind it
    # differ (`ModelAdapter.extent`).
    (1, ("video", (2, 4, 6), 4), 2),
]

CONFIGS = {
    "none": {"method": "none"},
    "token": {"method": "token", "threshold": "quantile"},
    "token adam": {"method": "token", "threshold": "quantile", "optimizer": "adam"},
    "token relative": {"method": "token", "tau": 0.97},
    "token absolute": {"method": "token", "threshold": "absolute", "theta": (4.75, 4.74, 4.78)},
    "state quantile": {"method": "state", "threshold": "quantile", "tau": 0.7},
    "state relative": {"method": "state", "threshold": "relative", "tau": 0.98},
    "state absolute": {"method": "state", "threshold": "absolute", "theta": (4.75, 4.74, 4.78)},
    "token, reference's alignment": {"threshold": "quantile", "alignment": "reference"},
    "state, reference's alignment": {
        "method": "state",
        "threshold": "quantile",
        "tau": 0.7,
        "alignment": "reference",
    },
}


def family_of(pair: ModelPair) -> Any:
    return pair.policy.model.config.model_type


def episode(pair: ModelPair) -> list[Segment]:
    return [segment(*parts, family=family_of(pair)) for parts in EPISODE]


def config(name: str, **changes: Any) -> ReplayConfig:
    defaults = {"replay_layers": 3, "state_layers": 3, "steps": 4, "alignment": "same"}
    return ReplayConfig.paper(**{**defaults, "top_k": 20, **CONFIGS[name], **changes})


def oracle(family: Any, chosen: ReplayConfig, **kwargs: Any) -> Oracle:
    policy = builders.model(family, noise=0.02, **kwargs)
    return Oracle.of(policy, builders.model(family), chosen)


def assert_an_episode_equals_the_recomputation(pair: ModelPair, chosen: ReplayConfig) -> None:
    expected = oracle(family_of(pair), chosen)
    with ReplaySession(pair, chosen) as session:
        for part in episode(pair):
            session.append(part)
            expected.append(part)
            assert session.generate(max_new_tokens=4).token_ids == expected.generate(4)
        assert_same(session, expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_episode_equals_the_recomputation(any_pair: ModelPair, name: str) -> None:
    assert_an_episode_equals_the_recomputation(any_pair, config(name))


@pytest.mark.parametrize("name", CONFIGS)
def test_chunks_change_nothing(pair: ModelPair, name: str) -> None:
    chosen = config(name, query_chunk=4, memory_bytes=12 * 220 * 3)
    assert_an_episode_equals_the_recomputation(pair, chosen)


@pytest.mark.parametrize("name", ["token", "state quantile"])
@pytest.mark.parametrize("family", builders.FAMILIES)
def test_a_vision_tower_for_each_model(family: Any, name: str) -> None:
    """Features for deeper layers, too, are each model's own."""
    pair, chosen = builders.pair(family, vision_noise=0.02), config(name)
    expected = oracle(family, chosen, vision_noise=0.02)
    assert not pair.shares_vision
    with ReplaySession(pair, chosen) as session:
        for part in episode(pair)[::3]:
            session.append(part)
            expected.append(part)
        assert_same(session, expected)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "none"])
def test_the_settings_make_a_difference(any_pair: ModelPair, name: str) -> None:
    """The results above must not be those of the plain policy, nor of all or no positions."""
    with (
        ReplaySession(any_pair, config(name)) as session,
        ReplaySession(any_pair, config("none")) as plain,
    ):
        for part in episode(any_pair):
            session.append(part)
            plain.append(part)
        assert (session.next_logits - plain.next_logits).abs().max() > 1e-2
        masks = torch.cat([block.chosen_LT for block in session.blocks], dim=1)
        assert (masks.any(dim=1) & ~masks.all(dim=1)).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_crop_and_append_equals_a_context_without_the_detour(pair: ModelPair, name: str) -> None:
    chosen = config(name)
    first, second, third, _ = episode(pair)
    with ReplaySession(pair, chosen) as straight, ReplaySession(pair, chosen) as detour:
        straight.append(first)
        written = straight.generate(max_new_tokens=4).token_ids
        straight.append(second)
        detour.append(first)
        assert detour.generate(max_new_tokens=4).token_ids == written
        end = detour.length
        detour.append(segment(3, ("image", (1, 4, 4), 9), 6))
        detour.generate(max_new_tokens=3)
        detour.crop(end - 2)  # into the generated words
        detour.extend_generated(written[-2:])
        detour.append(second)
        assert_sessions_equal(straight, detour)
        detour.append(third)
        detour.crop(straight.length)
        assert_sessions_equal(straight, detour)


@pytest.mark.parametrize("name", CONFIGS)
def test_forks_equal_separate_runs(pair: ModelPair, name: str) -> None:
    chosen = config(name)
    ends = segment(3), segment(1, ("image", (1, 4, 4), 4), 2)
    first, second, *_ = episode(pair)
    with ReplaySession(pair, chosen) as trunk:
        trunk.append(first)
        words = trunk.generate(max_new_tokens=3).token_ids
        forks = [trunk.fork(), trunk.fork()]
        for fork, end in zip(forks, ends, strict=True):
            fork.append(end)
            fork.generate(max_new_tokens=3)
        trunk.append(second)
        for fork, end in zip(forks, ends, strict=True):
            alone = ReplaySession(pair, chosen)
            alone.append(first)
            alone.extend_generated(words)
            alone.append(end)
            alone.generate(max_new_tokens=3)
            assert_sessions_equal(alone, fork)


@pytest.mark.parametrize("name", CONFIGS)
def test_one_append_of_two_images_equals_two_appends(pair: ModelPair, name: str) -> None:
    whole = segment(4, ("image", (1, 4, 6), 1), 3, ("image", (1, 4, 4), 2), 2)
    cut = whole.blocks[0].stop + 2
    head = Segment(whole.token_ids[:cut], whole.blocks[:1])
    with ReplaySession(pair, config(name)) as one, ReplaySession(pair, config(name)) as two:
        one.append(whole)
        two.append(head)
        two.append(whole.after(cut))
        assert_sessions_equal(one, two)


SIDES, SEEDS = st.sampled_from([4, 6, 8]), st.integers(1, 9)
TURN = st.fixed_dictionaries(
    {
        "before": st.integers(0, 4),
        # A video is wider than long: behind longer ones transformers counts on differently inside
        # a prompt than when it generates (`ModelAdapter.extent`).
        "visual": st.one_of(
            st.none(),
            st.tuples(st.just("image"), st.tuples(st.just(1), SIDES, SIDES), st.integers(1, 9)),
            st.tuples(
                st.just("video"), st.tuples(st.just(2), st.just(6), SIDES), st.integers(1, 9)
            ),
        ),
        "after": st.integers(1, 4),
        "words": st.integers(0, 3),
        "detour": st.booleans(),
        "fork": st.booleans(),
    }
)


@given(
    st.sampled_from(["token", "state quantile", "state absolute", "none"]),
    st.lists(TURN, min_size=1, max_size=5),
)
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
def test_random_episodes_equal_the_recomputation(
    pair: ModelPair, name: str, turns: list[dict[str, Any]]
) -> None:
    """Images and videos of any size, with detours that were cropped away, on forks of forks."""
    chosen = config(name, steps=2)
    session, expected = ReplaySession(pair, chosen), oracle("qwen2_5_vl", chosen)
    for turn in turns:
        if turn["detour"]:
            length = session.length
            session.append(segment(2, ("image", (1, 4, 4), 11), 1))
            session.generate(max_new_tokens=2)
            session.crop(length)
        if turn["fork"]:
            session = session.fork()
        visual = [turn["visual"]] if turn["visual"] else []
        part = segment(*([turn["before"]] if turn["before"] else []), *visual, turn["after"])
        session.append(part)
        expected.append(part)
        if turn["words"]:
            words = session.generate(max_new_tokens=turn["words"]).token_ids
            assert len(words) == turn["words"] or words[-1] == builders.EOS
            assert words == expected.generate(len(words))
    assert_same(session, expected)


STEPS = st.one_of(
    st.tuples(st.just("text"), st.integers(1, 5)),
    st.tuples(st.just("image"), st.integers(1, 3)),
    st.tuples(st.just("generate"), st.integers(1, 3)),
    st.tuples(st.just("crop"), st.integers(0, 40)),
    st.tuples(st.just("fork"), st.just(0)),
    st.tuples(st.just("look"), st.just(0)),
)


@given(
    st.sampled_from(["token", "state quantile", "state absolute"]),
    st.lists(STEPS, min_size=3, max_size=8),
)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_any_history_equals_its_straight_line(
    pair: ModelPair, name: str, steps: list[tuple[str, int]]
) -> None:
    """Whatever was cropped and forked on the way, only what is left of the history counts."""
    session = ReplaySession(pair, config(name, steps=2))
    session.append(segment(2))
    # For every token of the context: the segment of the one token or block it came with, or None.
    line: list[tuple[int, Segment | None]] = [(0, part) for part in single(segment(2))]
    for step, size in steps:
        if step in ("text", "image"):
            part = segment(size) if step == "text" else segment(1, ("image", (1, 4, 4), size))
            session.append(part)
            line += [(len(line), each) for each in single(part)]
        elif step == "generate":
            words = session.generate(max_new_tokens=size).token_ids
            line += [(word, None) for word in words]
        elif step == "crop":
            keep = max(1, min(size, len(line)))
            session.crop(sum(width(part) for _, part in line[:keep]))
            line = line[:keep]
        elif step == "fork":
            session.fork().append(segment(1, ("image", (1, 4, 4), 9)))
        else:
            _ = session.next_logits
    straight = ReplaySession(pair, config(name, steps=2))
    for word, part in line:
        if part is None:
            straight.extend_generated([word])
        else:
            straight.append(part)
    assert_sessions_equal(session, straight)


def single(whole: Segment) -> list[Segment]:
    """A segment cut into single tokens and single blocks."""
    parts = []
    for ids_T, block in whole.pieces():
        if block is None:
            parts += [Segment(token_id[None]) for token_id in ids_T]
        else:
            parts.append(Segment(ids_T, (replace(block, start=0),)))
    return parts


def width(part: Segment | None) -> int:
    return 1 if part is None else len(part)


def assert_sessions_equal(first: ReplaySession, second: ReplaySession) -> None:
    assert first.token_ids == second.token_ids
    for ours, theirs in zip(first.blocks, second.blocks, strict=True):
        torch.testing.assert_close(ours.entropy_LT, theirs.entropy_LT, atol=1e-4, rtol=0)
        assert torch.equal(ours.chosen_LT, theirs.chosen_LT)
    torch.testing.assert_close(first.next_logits, second.next_logits, atol=1e-4, rtol=0)
