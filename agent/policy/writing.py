"""Writers of turns, once the conversation has been read: the policy's model here, or an engine."""

from collections.abc import Generator, Sequence
from typing import Any, Protocol

from visreplay.replay_core import Batch, Generation, ReplayError, ReplaySession, TokenLogprob

Written = tuple[int, TokenLogprob | None]
"""A token, and its log-probability if it was requested."""

Wish = tuple[ReplaySession, dict[str, Any]]
"""A session that has read a conversation, and the options of `ReplaySession.join` for its turn."""

Ended = tuple[ReplaySession, Generation]
"""A fork of the session with the new tokens, and the generation."""


class WriterError(ReplayError, RuntimeError):
    """What writes the turns has failed: no mistake of whoever asked."""


class Writer(Protocol):
    """Writes the continuations of sessions."""

    def stream(self, session: ReplaySession, **options: Any) -> Generator[Written, None, Ended]:
        """Write a continuation, and yield its tokens as they come.

        Args:
            session: Has read a conversation; it stays as it is.
            **options: As of `ReplaySession.join`.
        """
        ...

    def together(self, wishes: Sequence[Wish]) -> Generator[None, None, list[Ended]]:
        """Write several continuations at once; the generator may pause between two tokens."""
        ...

    def forget(self, sessions: Sequence[ReplaySession]) -> None:
        """Free what is kept for the conversations of some sessions."""
        ...


class ModelWriter:
    """The policy's own model writes, in this process."""

    def stream(self, session: ReplaySession, **options: Any) -> Generator[Written, None, Ended]:
        """Write token by token; without log-probabilities."""
        twin = session.fork()
        writing = twin.stream(**options)
        while True:
            try:
                token_id = next(writing)
            except StopIteration as end:
                return twin, end.value
            yield token_id, None

    def together(self, wishes: Sequence[Wish]) -> Generator[None, None, list[Ended]]:
        """Write all of them as a batch, and pause after every token."""
        batch = Batch()
        begun = [(session, session.join(batch, **options)) for session, options in wishes]
        while batch.step():
            yield
        return [
            (session.continued(each), each.generation(session.pair.tokenizer))
            for session, each in begun
        ]

    def forget(self, sessions: Sequence[ReplaySession]) -> None:
        """Do nothing: sessions hold all there is."""
