"""Contexts of different lengths, decoded together: each as if it were alone."""

import random
from typing import Any

import builders
import pytest
import torch
from builders import segment
from torch import Tensor

from visreplay.replay_core import (
    Batch,
    ConfigError,
    ContextError,
    Continuation,
    ModelPair,
    ReplayConfig,
    ReplaySession,
)
from visreplay.replay_core.lens import Lens

SETTINGS: list[dict[str, Any]] = [
    {},
    {"top_k": 3},
    {"top_p": 0.7},
    {"repetition_penalty": 1.3},
    {"top_k": 5, "top_p": 0.9, "repetition_penalty": 0.8},
]

GREEDY = {"temperature": 0.0}

SLIDING = {
    "use_sliding_window": True,
    "sliding_window": 6,
    "layer_types": ["full_attention", "sliding_attention"] * 2,
}


def sessions(pair: ModelPair) -> list[ReplaySession]:
    """Sessions of every method, with and without images, from 3 to about 40 tokens long."""
    family = pair.policy.model.config.model_type
    contexts: list[tuple[str, list[Any]]] = [
        ("none", [3]),
        ("token", [4, ("image", (1, 4, 8), 1), 3]),
        ("state", [2, ("image", (1, 4, 4), 2), 9]),
        ("none", [5, ("image", (1, 4, 8), 3), 2, ("image", (1, 4, 4), 1), 1]),
        ("token", [12]),
    ]
    begun = []
    for method, parts in contexts:
        settings: dict[str, Any] = {"threshold": "quantile", "replay_layers": 3, "state_layers": 3}
        session = ReplaySession(pair, ReplayConfig(method, steps=2, **settings))  # type: ignore[arg-type]
        session.append(segment(*parts, family=family))
        begun.append(session)
    return begun


def check(pair: ModelPair, seed: int) -> None:
    """Let continuations come and go at random, and compare each with one that is alone."""
    dice = random.Random(seed)
    waiting = [(session, number) for session in sessions(pair) for number in range(2)]
    dice.shuffle(waiting)
    batch = Batch()
    begun: list[tuple[ReplaySession, dict[str, Any], Continuation]] = []
    dropped = None
    while waiting or len(batch):
        for _ in range(dice.randrange(3)):
            if waiting:
                session, number = waiting.pop()
                options = {"max_new_tokens": dice.randrange(1, 12), "seed": number}
                options["temperature"] = float(number)
                options.update(dice.choice(SETTINGS))
                begun.append((session, options, session.join(batch, **options)))
        if dropped is None and len(batch) >= 3:
            many = len(batch)
            dropped = next(each for *_, each in begun if not each.finished)
            batch.drop(dropped)
            assert len(batch) == many - 1
        written = batch.step()
        assert all(each.finished or len(each.ids) > 1 for each in written)
        assert dropped not in written
    assert dropped is not None
    tail = segment(2, ("image", (1, 4, 4), 5), 1, family=pair.policy.model.config.model_type)
    for session, options, each in begun:
        alone = session.fork()
        generation = alone.generate(**options)
        if each is dropped:
            assert generation.token_ids[: len(each.ids)] == tuple(each.ids)
            with pytest.raises(ContextError, match="written to its end"):
                session.continued(each)
            continue
        assert each.generation(pair.tokenizer) == generation
        together = session.continued(each)
        for twin in (alone, together):
            twin.append(tail)
        assert together.token_ids == alone.token_ids
        torch.testing.assert_close(together.next_logits, alone.next_logits, atol=1e-4, rtol=0)


def test_contexts_come_and_go(any_pair: ModelPair) -> None:
    for seed in range(2):
        check(any_pair, seed)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_sliding_window_layers(attention: str) -> None:
    check(builders.pair(attention=attention, **SLIDING), seed=3)


def test_joining_leaves_the_session_as_it_is(pair: ModelPair) -> None:
    session = sessions(pair)[1]
    before = session.token_ids, session.next_logits
    batch = Batch()
    each = session.join(batch, max_new_tokens=4)
    while batch.step():
        pass
    assert each.finished and len(batch) == 0
    assert session.token_ids == before[0]
    torch.testing.assert_close(session.next_logits, before[1])


def test_log_probabilities_are_the_models_own(pair: ModelPair) -> None:
    """The temperature does not count; the drawn token and the most probable ones have them."""
    session = sessions(pair)[3]
    batch = Batch()
    each = session.join(batch, max_new_tokens=5, temperature=2.0, seed=1, logprobs=3)
    plain = session.join(batch, max_new_tokens=2, logprobs=0)
    while batch.step():
        pass
    logprobs = each.generation(pair.tokenizer).logprobs
    assert [entry.token_id for entry in logprobs] == list(each.ids)
    twin = session.fork()
    for entry in logprobs:
        expected_V = twin.next_logits.log_softmax(-1)
        assert entry.logprob == pytest.approx(float(expected_V[entry.token_id]), abs=1e-4)
        ids, values = zip(*entry.top, strict=True)
        best = expected_V.topk(3)
        assert list(ids) == best.indices.tolist()
        assert list(values) == pytest.approx(best.values.tolist(), abs=1e-4)
        twin.extend_generated([entry.token_id])
    assert [entry.top for entry in plain.generation(pair.tokenizer).logprobs] == [(), ()]


def test_one_that_fails_ends_alone(pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits that are no numbers, say: the others go on."""
    batch = Batch()
    session = sessions(pair)[0]
    settings: dict[str, Any] = {"max_new_tokens": 9, "temperature": 1.0, "seed": 1}
    alone = session.fork().generate(**settings)
    well, *ill = (session.join(batch, **{**settings, **each}) for each in ({}, {}, GREEDY))
    logits = Lens.logits

    def broken(self: Lens, output_KD: Tensor) -> Tensor:
        good_KV = logits(self, output_KD)
        bad = [each in ill for each in batch._rows]
        return good_KV.masked_fill(torch.tensor(bad)[:, None], torch.nan)

    monkeypatch.setattr(Lens, "logits", broken)
    while batch.step():
        pass
    for each in ill:
        assert isinstance(each.error, RuntimeError) and each.finished and len(each.ids) == 1
        with pytest.raises(RuntimeError, match="no numbers"):
            session.continued(each)
    assert well.generation(pair.tokenizer) == alone


def test_continuations_that_cannot_be_together(pair: ModelPair) -> None:
    batch = Batch()
    assert batch.step() == []
    session, other = sessions(pair)[0], sessions(builders.pair(seed=1))[0]
    session.join(batch, max_new_tokens=3)
    with pytest.raises(ContextError, match="written by one policy"):
        other.join(batch, max_new_tokens=3)
    with pytest.raises(ConfigError, match="logprobs is -1"):
        session.join(batch, max_new_tokens=3, logprobs=-1)
    assert len(batch) == 1
