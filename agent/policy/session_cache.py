"""Sessions that have read conversations, kept for those who go on with one."""

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
"""Of `telemetry.replay_record`."""

Keys = tuple[str, ...]
"""Of the messages of a conversation, one each; who shares a cache begins with a key of his own."""

CACHE_BYTES = 2 * 2**30


@dataclass(frozen=True, slots=True)
class CachedSession:
    """A session that is kept.

    Attributes:
        messages: Which conversation it has read.
        session: It; to be forked, never to be changed.
        replay: The report on the last part that it read.
        memory: Bytes of each storage that it holds on to.
    """

    messages: Keys
    session: "ReplaySession"
    replay: Replay
    memory: dict[int, int]


class SessionCache:
    """Sessions by what they have read, within a bound on their memory.

    Those of one conversation share what they have in common, which counts once. The least recently
    used go first; the one last used stays in any case. It may be used from several threads.

    Args:
        max_bytes: Of keys, values and outputs, on all devices together.
        max_sessions: How many at most, however small.
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
        """How many are kept."""
        return len(self._known)

    def longest(self, beginnings: Sequence[Keys]) -> CachedSession | None:
        """The session that has read the most.

        Args:
            beginnings: Of a conversation, the shortest first.
        """
        with self._lock:
            for messages in reversed(beginnings):
                if messages in self._known:
                    self._known.move_to_end(messages)
                    return self._known[messages]
        return None

    def keep(self, messages: Keys, session: "ReplaySession", replay: Replay) -> None:
        """Keep a session, which belongs to the cache from now on."""
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
        """Keep at least so many meanwhile, whatever their memory.

        Each branch of a batch has memory of its own, and is not to be read again from the start.
        """
        with self._lock:
            self._held += sessions
        try:
            yield
        finally:
            with self._lock:
                self._held -= sessions
                self._shrink()

    def clear(self) -> None:
        """Free everything."""
        with self._lock:
            while self._known:
                self._drop(self._known.popitem()[1])

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
    """A key for each message: short, though a message may be long."""
    texts = (json.dumps(message, sort_keys=True) for message in messages)
    return tuple(hashlib.sha256(text.encode()).hexdigest() for text in texts)
