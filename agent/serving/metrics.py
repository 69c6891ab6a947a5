"""Counters and times of a server, for Prometheus."""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from visreplay.agent.policy.replay_policy import Reading
from visreplay.agent.policy.session_cache import SessionCache
from visreplay.agent.serving.decoding import Event, TokenEvent
from visreplay.agent.serving.engine import Engine

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counts what a server does.

    Args:
        engine: The engine whose queue is measured.
        sessions: The cache whose size is measured.

    Attributes:
        registry: The counters and times, for `prometheus_client`.
    """

    def __init__(self, engine: Engine, sessions: SessionCache) -> None:
        registry = self.registry = CollectorRegistry()

        def counter(name: str, help_text: str, *labels: str) -> Counter:
            return Counter(f"visreplay_{name}", help_text, labels, registry=registry)

        def seconds(name: str, help_text: str) -> Histogram:
            return Histogram(
                f"visreplay_{name}_seconds",
                help_text,
                ("model",),
                registry=registry,
                buckets=_SECONDS,
            )

        self._requests = counter("requests", "Chat completions", "model", "status")
        self._prompt = counter("prompt_tokens", "Tokens of conversations", "model")
        self._known = counter("known_tokens", "Tokens of conversations from the cache", "model")
        self._replayed = counter(
            "replayed_visual_tokens", "Visual tokens that were new and replayed", "model"
        )
        self._generated = counter("generated_tokens", "Tokens that were decoded", "model")
        self._prefill = seconds("read", "Prefill of a conversation, from its admission on")
        self._first = seconds("first_token", "Time to the first token, from the admission on")
        queue = engine.admission
        for name, help_text, value in (
            ("running", "Turns that are prefilled or decoded", lambda: queue.running),
            ("waiting", "Requests that wait for admission", lambda: queue.waiting),
            ("sessions", "Conversations in the cache", lambda: len(sessions)),
            ("cache_bytes", "Bytes of the cache", lambda: sessions.bytes),
        ):
            Gauge(f"visreplay_{name}", help_text, registry=registry).set_function(value)

    def answered(self, model: str, status: int) -> None:
        """Count a request that was answered, or whose stream has begun."""
        self._requests.labels(model, status).inc()

    def prefilled(self, model: str, reading: Reading, seconds: float) -> None:
        """Count a conversation that was prefilled."""
        self._prompt.labels(model).inc(reading.tokens)
        self._known.labels(model).inc(reading.known)
        self._prefill.labels(model).observe(seconds)
        if reading.replay and reading.tokens > reading.known:
            self._replayed.labels(model).inc(reading.replay["new_visual_tokens"])

    async def counted(
        self, model: str, began: float, events: AsyncIterator[Event]
    ) -> AsyncGenerator[Event, None]:
        """Pass events on, and count their tokens."""
        first = True
        async with aclosing(events):  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, TokenEvent):
                    self._generated.labels(model).inc()
                    if first:
                        self._first.labels(model).observe(time.perf_counter() - began)
                        first = False
                yield event
