"""The contract of a session besides the numbers: transactions, generation, history, closing."""

import gc
import weakref
from typing import Any

import builders
import pytest
import torch
from builders import segment
from replay_cases import METHODS, checksum, config

from visreplay.replay_core import (
    ConfigError,
    ContextError,
    ModelPair,
    ReplaySession,
    Segment,
    SessionClosedError,
)

IMAGE = segment(4, ("image", (1, 4, 6), 1), 3)


@pytest.mark.parametrize("method", METHODS)
def test_models_are_left_as_they_were(pair: ModelPair, method: str) -> None:
    before = checksum(pair)
    models = [adapter.model for adapter in (pair.policy, pair.base) if adapter]
    with ReplaySession(pair, config(method)) as session:
        session.append(IMAGE)
        session.generate(max_new_tokens=3)
    assert checksum(pair) == before
    for module in (module for model in models for module in model.modules()):
        assert not (module._forward_hooks or module._forward_pre_hooks or module.training)


def test_the_plain_policy_equals_transformers_generate(any_pair: ModelPair) -> None:
    model = any_pair.policy.model
    parts = (4, ("image", (1, 4, 6), 1), 3, ("video", (2, 4, 6), 2), 2)
    inputs = builders.inputs(*parts, family=model.config.model_type)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :]
    with ReplaySession(any_pair, config("none")) as session:
        session.append(segment(*parts, family=model.config.model_type))
        assert session.generate(max_new_tokens=6).token_ids == tuple(expected.tolist())


def test_method_none_needs_no_base() -> None:
    alone = ModelPair.of(builders.model(), None, builders.Processor())
    with ReplaySession(alone, config("none")) as session:
        report = session.append(IMAGE)
        assert (report.new_visual_tokens, report.kl_before) == (6, None)
        assert session.blocks[0].entropy_LT.shape == (0, 6)
    with pytest.raises(ConfigError, match="needs a base"):
        ReplaySession(alone, config("token"))


@pytest.mark.parametrize(
    ("method", "name"), [("token", "replay_layers"), ("state", "state_layers")]
)
def test_more_layers_than_there_are(pair: ModelPair, method: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 9, but the policy has 4 decoder layers"):
        ReplaySession(pair, config(method, **{name: 9}))
    with pytest.raises(ConfigError, match=f"{name} is 4, but the base has 3 decoder layers"):
        ReplaySession(pair, config(method, **{name: 4}))


@pytest.mark.parametrize("method", METHODS)
def test_an_error_leaves_the_session_as_it_was(
    pair: ModelPair, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ReplaySession(pair, config(method)) as session, ReplaySession(pair, config(method)) as ref:
        for each in (session, ref):
            each.append(IMAGE)
            each.generate(max_new_tokens=3)
        layer = pair.policy.language_model.layers[3]
        calls = []

        def fail(*args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            raise MemoryError("no room")

        with monkeypatch.context() as patch:
            patch.setattr(layer, "forward", fail)
            for work in (
                lambda: session.append(segment(2, ("image", (1, 4, 4), 2))),
                lambda: session.generate(max_new_tokens=3),
                lambda: session.next_logits,
            ):
                with pytest.raises(MemoryError):
                    work()
        assert len(calls) == 3
        assert session.token_ids == ref.token_ids and len(session.blocks) == 1
        for each in (session, ref):
            each.append(segment(2, ("image", (1, 4, 4), 2)))
        assert torch.equal(session.next_logits, ref.next_logits)


def test_a_closed_session_is_an_error(pair: ModelPair) -> None:
    session = ReplaySession(pair, config("none"))
    session.append(IMAGE)
    session.close()
    session.close()
    for use in (
        lambda: session.append(IMAGE),
        lambda: session.generate(max_new_tokens=1),
        lambda: session.next_logits,
        lambda: session.length,
        lambda: session.blocks,
        lambda: session.fork(),
        lambda: session.crop(0),
        lambda: session.extend_generated([1]),
    ):
        with pytest.raises(SessionClosedError):
            use()


def test_nothing_is_kept_after_closing(pair: ModelPair) -> None:
    session = ReplaySession(pair, config("state"))
    session.append(IMAGE)
    session.generate(max_new_tokens=2)
    caches = [weakref.ref(session._context), weakref.ref(session._context.policy_run.cache)]  # type: ignore[union-attr]
    session.close()
    gc.collect()
    assert [cache() for cache in caches] == [None, None]


def test_a_fork_outlives_its_origin(pair: ModelPair) -> None:
    with ReplaySession(pair, config("token")) as session:
        session.append(IMAGE)
        fork = session.fork()
    assert fork.generate(max_new_tokens=2).token_ids


@pytest.mark.parametrize("method", METHODS)
def test_works_inside_a_callers_inference_mode(pair: ModelPair, method: str) -> None:
    with ReplaySession(pair, config(method)) as session:
        with torch.inference_mode():
            session.append(IMAGE)
        session.append(segment(("image", (1, 4, 4), 2)))


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_rollouts_equals_single_ones(pair: ModelPair, method: str) -> None:
    """In their tokens, whatever their lengths, and in what they generate afterwards."""
    stops = [builders.letter(i) for i in range(0, 200, 8)]
    with ReplaySession(pair, config(method)) as session:
        session.append(IMAGE)
        session.generate(max_new_tokens=2)
        settings: Any = {"max_new_tokens": 12, "stop_strings": stops, "temperature": 1.5}
        seeds = [1, 2, 3, 4, 5, 6]
        together = session.sample_many(seeds, **settings)
        assert session.length == 17
        assert len({len(generation.token_ids) for _, generation in together}) > 2
        for seed, (sampled, generation) in zip(seeds, together, strict=True):
            alone = session.fork()
            assert alone.generate(seed=seed, **settings) == generation
            for each in (alone, sampled):
                each.append(segment(2, ("image", (1, 4, 4), 2), 1))
            assert sampled.token_ids == alone.token_ids
            torch.testing.assert_close(sampled.next_logits, alone.next_logits, atol=1e-4, rtol=0)
        greedy = session.sample_many([None, None], max_new_tokens=5, temperature=0)
        expected = session.fork().generate(max_new_tokens=5)
        assert [generation for _, generation in greedy] == [expected, expected]
        assert session.sample_many([], max_new_tokens=5) == []


def test_nothing_to_continue(pair: ModelPair) -> None:
    with ReplaySession(pair, config("none")) as session:
        with pytest.raises(ContextError, match="append a segment"):
            session.generate(max_new_tokens=1)
        with pytest.raises(ContextError, match="append a segment"):
            session.sample_many([1, 2], max_new_tokens=1)
        with pytest.raises(ContextError, match="empty context"):
            _ = session.next_logits


def test_ids_outside_the_vocabulary(pair: ModelPair) -> None:
    with ReplaySession(pair, config("none")) as session:
        with pytest.raises(ContextError, match="token id 220 is not in the vocabulary of 220"):
            session.append(Segment.from_ids([1, 220]))
        with pytest.raises(ContextError, match="token id -1"):
            session.extend_generated([-1])
        assert session.length == 0


def test_positions_run_out() -> None:
    model = builders.model(max_position_embeddings=12)
    alone = ModelPair.of(model, None, builders.Processor())
    with ReplaySession(alone, config("none")) as session:
        with pytest.raises(ContextError, match="13 positions, but the model has 12"):
            session.append(Segment.from_ids([1] * 13))
        session.append(Segment.from_ids([1] * 10))
        generation = session.generate(max_new_tokens=9)
        assert (len(generation.token_ids), generation.finish_reason) == (2, "length")


def test_crop_keeps_blocks_whole(pair: ModelPair) -> None:
    with ReplaySession(pair, config("none")) as session:
        session.append(IMAGE)
        for length in (6, 10):
            with pytest.raises(ContextError, match="as a whole"):
                session.crop(length)
        with pytest.raises(ContextError, match="of 15 tokens to 16"):
            session.crop(16)
        session.crop(5)
        assert session.length == 5 and session.blocks == ()


@pytest.mark.parametrize("method", METHODS)
def test_logits_can_be_had_again_after_a_crop(pair: ModelPair, method: str) -> None:
    with ReplaySession(pair, config(method)) as session:
        session.append(IMAGE)
        logits, length = session.next_logits, session.length
        first = session.generate(max_new_tokens=4)
        session.crop(length)
        torch.testing.assert_close(session.next_logits, logits)
        assert session.generate(max_new_tokens=4) == first


def test_a_stream_is_what_generate_writes(pair: ModelPair) -> None:
    settings: Any = {"max_new_tokens": 8, "temperature": 1.5, "seed": 3}
    with ReplaySession(pair, config("token")) as session:
        session.append(IMAGE)
        before = session.token_ids
        expected = session.fork().generate(**settings)
        stream = session.stream(**settings)
        ids = []
        with pytest.raises(StopIteration) as end:
            while True:
                ids.append(next(stream))
                assert torch.is_grad_enabled() and session.token_ids == before
        assert end.value.value == expected
        assert tuple(ids) == expected.token_ids
        assert session.token_ids == (*before, *ids)
        dropped = session.stream(**settings)
        next(dropped)
        dropped.close()
        assert session.token_ids == (*before, *ids)


def test_stops(pair: ModelPair) -> None:
    letters = [builders.letter(i) for i in range(builders.VOCABULARY)]
    with ReplaySession(pair, config("none")) as session:
        session.append(IMAGE)
        start = session.length
        free = session.generate(max_new_tokens=6)
        assert free.finish_reason == "length" and len(free.token_ids) == 6
        assert free.text == " ".join(letters[i] for i in free.token_ids)
        session.crop(start)
        stop = f"{letters[free.token_ids[1]]} {letters[free.token_ids[2]]}"
        stopped = session.generate(max_new_tokens=6, stop_strings=["no such", stop])
        assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]
        assert stopped.finish_reason == "stop" and stopped.text.endswith(stop)
        session.crop(start)
        pair.policy.model.generation_config.eos_token_id = [free.token_ids[0]]
        ended = session.generate(max_new_tokens=6)
        pair.policy.model.generation_config.eos_token_id = builders.EOS
        assert ended.token_ids == free.token_ids[:1] and ended.finish_reason == "stop"
        assert session.token_ids[-1] == free.token_ids[0]


def test_no_step_decodes_more_than_a_tail(pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost of a token does not grow with the text; the whole of it is decoded once."""
    lengths: list[int] = []
    decode = pair.tokenizer.decode

    def counted(ids: Any, **options: Any) -> str:
        lengths.append(len(ids))
        return str(decode(ids, **options))

    monkeypatch.setattr(pair.tokenizer, "decode", counted)
    with ReplaySession(pair, config("none")) as session:
        session.append(IMAGE)
        session.fork().generate(max_new_tokens=40, stop_strings=["no such"])
        assert lengths == [*(min(n, 4 * 7) for n in range(1, 41)), 40]
        lengths.clear()
        session.sample_many([1, 2], max_new_tokens=40)
        assert lengths == [40, 40]


def test_sampling_follows_its_seed(pair: ModelPair) -> None:
    with ReplaySession(pair, config("none")) as session:
        session.append(IMAGE)
        drawn = [
            session.fork().generate(max_new_tokens=8, temperature=1.5, top_p=0.9, seed=seed)
            for seed in (1, 1, 2)
        ]
        greedy = session.fork().generate(max_new_tokens=8)
        almost = session.fork().generate(max_new_tokens=8, temperature=1e-4, seed=3)
        nucleus = session.fork().generate(max_new_tokens=8, temperature=1.0, top_p=1e-6, seed=3)
        coldest = session.fork().generate(max_new_tokens=8, temperature=5e-324, top_p=0.9, seed=3)
        whole = session.fork().generate(max_new_tokens=8, temperature=1, seed=3)
    assert drawn[0] == drawn[1] != drawn[2]
    assert greedy == almost == nucleus == coldest
    assert len(whole.token_ids) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p is 0"),
        ({"stop_strings": [""]}, "empty"),
    ],
)
def test_settings_of_generate(pair: ModelPair, changes: Any, message: str) -> None:
    with ReplaySession(pair, config("none")) as session:
        session.append(IMAGE)
        with pytest.raises(ConfigError, match=message):
            session.generate(**{"max_new_tokens": 3, **changes})


def test_videos_are_blocks_too(pair: ModelPair) -> None:
    video = segment(3, ("video", (3, 4, 4), 5), 2, ("image", (1, 4, 4), 1), 2, seconds=0.7)
    with ReplaySession(pair, config("token", steps=8)) as session:
        report = session.append(video)
        assert [block.kind for block in session.blocks] == ["video", "image"]
        assert report.new_visual_tokens == 16 and report.optimisation_steps == 16
        assert report.kl_after < report.kl_before  # type: ignore[operator]
