"""Sessions are kept within a bound on memory, and what they share counts once."""

from collections.abc import Callable

import pytest

from visreplay.agent.messages import Message
from visreplay.agent.policy.session_cache import SessionCache, keys_of
from visreplay.replay_core import Method, ModelPair, ReplayConfig, ReplaySession, Segment

MakeSession = Callable[..., ReplaySession]


@pytest.fixture
def make_session(embedded_pair: ModelPair) -> MakeSession:
    def make(tokens: int, method: Method = Method.NONE) -> ReplaySession:
        session = ReplaySession(embedded_pair, ReplayConfig(method, replay_layers=4))
        session.append(Segment.from_ids(list(range(100, 100 + tokens))))
        return session

    return make


def test_what_several_share_counts_once(make_session: MakeSession) -> None:
    cache = SessionCache()
    session = make_session(40, Method.TOKEN)
    alone = sum(session.memory.values())
    layers = session.pair.policy.depth + 4
    # Keys and values of every layer, and the last outputs, in float32 and with spare room.
    config = session.pair.policy.text_config
    heads = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    assert alone == (40 + 64) * 4 * (2 * heads * layers + config.hidden_size)
    cache.keep(("a",), session, None)
    assert cache.bytes == alone
    fork = session.fork()
    fork.append(Segment.from_ids([7] * 3))
    cache.keep(("a", "b"), fork, None)
    assert len(cache) == 2
    assert cache.bytes == alone
    # A second one cannot have the same rows, and moves to memory of its own.
    other = session.fork()
    other.append(Segment.from_ids([8] * 3))
    cache.keep(("a", "c"), other, None)
    assert cache.bytes == alone + sum(other.memory.values())
    cache.keep(("a", "c"), session.fork(), None)
    assert cache.bytes == alone
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)


def test_the_least_recently_used_goes_first(make_session: MakeSession) -> None:
    one = sum(make_session(10).memory.values())
    cache = SessionCache(max_bytes=3 * one)
    for name in "abc":
        cache.keep((name,), make_session(10), None)
    assert cache.longest([("a",)]) is not None
    cache.keep(("d",), make_session(10), None)
    assert cache.longest([("b",)]) is None
    assert cache.bytes == 3 * one
    cached = cache.longest([("a",), ("a", "x"), ("c",)])
    assert cached is not None and cached.messages == ("c",)
    assert cached.session.fork().length == 10


def test_the_last_one_stays_however_large(make_session: MakeSession) -> None:
    cache = SessionCache(max_bytes=0)
    for name in "ab":
        cache.keep((name,), make_session(10), None)
    assert len(cache) == 1
    assert cache.longest([("b",)]) is not None
    with cache.holding(3):
        for name in "cdef":
            cache.keep((name,), make_session(10), None)
        assert len(cache) == 4
    assert len(cache) == 1
    small = SessionCache(max_sessions=2)
    for name in "abc":
        small.keep((name,), make_session(10), None)
    assert len(small) == 2
    with pytest.raises(ValueError, match="max_bytes is -1"):
        SessionCache(max_bytes=-1)


def test_keys_are_short_and_tell_messages_apart() -> None:
    long: Message = {"role": "user", "content": [{"type": "text", "text": "a" * 10**6}]}
    other: Message = {"role": "user", "content": [{"type": "text", "text": "a" * 10**6 + "b"}]}
    assert len(set(keys_of([long, other]))) == 2
    assert max(map(len, keys_of([long]))) == 64
