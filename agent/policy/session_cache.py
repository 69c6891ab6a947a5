"""A cache of sessions, by the conversations that they have read."""

import hashlib
import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from visreplay.agent.messages import Message

if TYPE_CHECKING:
    from visreplay.replay_core import ReplaySession

Replay = dict[str, Any] | None
"""A result of `telemetry.replay_record`."""

Keys = tuple[str, ...]
"""One key for each message of a conversation, after a key of the policy that owns the session."""

CACHE_BYTES = 2 * 2**30
"""Default bound of a cache's memory."""


@dataclass(frozen=True, slots=True)
class CachedSession:
    """A session in the cache.

    Attributes:
        messages: Keys of the conversation that it has read.
        session: The session; to be forked, never changed.
        replay: The report on the last part that it read.
        memory: Size in bytes of each tensor storage that it holds, by the storage's address.
    """

    messages: Keys
    session: "ReplaySession"
    replay: Replay
    memory: dict[int, int]


class SessionCache:
    """Sessions by the conversations that they have read, within a bound on their memory.

    Sessions that share a beginning share its storages, which count once. The least recently used
    session goes first; the last one used always stays. The cache may be used from several threads.

    Args:
        max_bytes: Largest size of keys, values and outputs, on all devices together.
        max_sessions: Largest number of sessions, however small.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES, max_sessions: int = 4096) -> None:
        if max_bytes < 0 or max_sessions < 1:
            raise ValueError(
                f"max_bytes is {max_bytes} and max_sessions {max_sessions}, but must be at least "
                "0 and 1"
            )
        self.max_bytes = max_bytes
        self.max_sessions = max_sessions
        self.bytes = 0
        self._held = 1
        self._known: OrderedDict[Keys, CachedSession] = OrderedDict()
        self._holders: Counter[int] = Counter()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Count the sessions."""
        return len(self._known)

    def longest(self, beginnings: Sequence[Keys]) -> CachedSession | None:
        """Find the session that has read the longest beginning of a conversation.

        Args:
            beginnings: Keys of the beginnings, the shortest first.
        """
        with self._lock:
            for messages in reversed(beginnings):
                if messages in self._known:
                    self._known.move_to_end(messages)
                    return self._known[messages]
        return None

    def keep(self, messages: Keys, session: "ReplaySession", replay: Replay) -> None:
        """Add a session, which belongs to the cache from now on."""
        with self._lock:
            if messages in self._known:
                self._drop(self._known.pop(messages))
            known = self._known[messages] = CachedSession(messages, session, replay, session.memory)
            for storage, size in known.memory.items():
                self.bytes += size * (not self._holders[storage])
                self._holders[storage] += 1
            self._shrink()

    @contextmanager
    def holding(self, sessions: int) -> Iterator[None]:
        """Keep at least `sessions` more inside the context, whatever their memory.

        Each rollout of a batch has its own memory, and should not be read again from the start.
        """
        with self._lock:
            self._held += sessions
        try:
            yield
        finally:
            with self._lock:
                self._held -= sessions
                self._shrink()

    def clear(self) -> "list[ReplaySession]":
        """Drop every session, and return them."""
        with self._lock:
            dropped = list(self._known.values())
            self._known.clear()
            for known in dropped:
                self._drop(known)
        return [known.session for known in dropped]

    def _shrink(self) -> None:
        while len(self._known) > self._held and (
            self.bytes > self.max_bytes or len(self._known) > self.max_sessions
        ):
            self._drop(self._known.popitem(last=False)[1])

    def _drop(self, known: CachedSession) -> None:
        for storage, size in known.memory.items():
            self._holders[storage] -= 1
            if not self._holders[storage]:
                del self._holders[storage]
                self.bytes -= size


def keys_of(messages: Sequence[Message]) -> Keys:
    """Hash each message: a short key, though a message may be long."""
    texts = (json.dumps(message, sort_keys=True) for message in messages)
    return tuple(hashlib.sha256(text.encode()).hexdigest() for text in texts)
