"""Counters and times of a server, for Prometheus."""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from visreplay.agent.policy.replay_policy import Reading
from visreplay.agent.policy.session_cache import SessionCache
from visreplay.agent.serving.engine import Engine, Event, TokenEvent

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """What a server did so far.

    Args:
        engine: Whose places are told.
        sessions: Whose memory is told.
    """

    def __init__(self, engine: Engine, sessions: SessionCache) -> None:
        registry = self.registry = CollectorRegistry()

        def counter(name: str, told: str, *labels: str) -> Counter:
            return Counter(f"visreplay_{name}", told, labels, registry=registry)

        def seconds(name: str, told: str) -> Histogram:
            names = ("model",)
            return Histogram(
                f"visreplay_{name}_seconds", told, names, registry=registry, buckets=_SECONDS
            )

        self._requests = counter("requests", "Chat completions", "model", "status")
        self._prompt = counter("prompt_tokens", "Tokens of conversations", "model")
        self._known = counter("known_tokens", "Of these, read before", "model")
        self._replayed = counter("replayed_visual_tokens", "New visual tokens, replayed", "model")
        self._written = counter("generated_tokens", "Tokens written", "model")
        self._read = seconds("read", "From a place to a conversation that is read")
        self._first = seconds("first_token", "From a place to the first token")
        for name, told, value in (
            ("running", "Answers that are read or written", lambda: engine.places.running),
            ("waiting", "Requests that wait for a place", lambda: engine.places.waiting),
            ("sessions", "Conversations that are kept", lambda: len(sessions)),
            ("cache_bytes", "Bytes of their keys, values and outputs", lambda: sessions.bytes),
        ):
            Gauge(f"visreplay_{name}", told, registry=registry).set_function(value)

    def answered(self, model: str, status: int) -> None:
        """A request was answered, or its stream begun."""
        self._requests.labels(model, status).inc()

    def read(self, model: str, reading: Reading, seconds: float) -> None:
        """A conversation was read."""
        self._prompt.labels(model).inc(reading.tokens)
        self._known.labels(model).inc(reading.known)
        self._read.labels(model).observe(seconds)
        if reading.replay and reading.tokens > reading.known:
            self._replayed.labels(model).inc(reading.replay["new_visual_tokens"])

    async def counted(
        self, model: str, began: float, events: AsyncIterator[Event]
    ) -> AsyncGenerator[Event, None]:
        """Events, and their tokens counted."""
        first = True
        async with aclosing(events):  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, TokenEvent):
                    self._written.labels(model).inc()
                    if first:
                        self._first.labels(model).observe(time.perf_counter() - began)
                        first = False
                yield event
