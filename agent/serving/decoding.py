"""Decoding for many callers: each step gives every turn its next token, in shared batches."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from visreplay.agent.policy.replay_policy import PolicyTurn, Reading, ReplayPolicy
from visreplay.replay_core import Batch, Continuation, TokenLogprob

logger = logging.getLogger(__name__)

_SHORT = 12
"""Turns whose contexts stay within two to the power of this many tokens share a batch."""


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """A turn has a new token.

    Attributes:
        choice: The number of the turn among those of the request.
        token_id: The token.
        logprob: Its log-probability, if the request wants it.
    """

    choice: int
    token_id: int
    logprob: TokenLogprob | None = None


@dataclass(frozen=True, slots=True)
class EndEvent:
    """A turn is complete.

    Attributes:
        choice: The number of the turn among those of the request.
        turn: The whole turn.
    """

    choice: int
    turn: PolicyTurn


Event = TokenEvent | EndEvent
Events = list[Event | BaseException]


@dataclass(eq=False)
class DecodeJob:
    """A turn that is decoded for a request.

    Attributes:
        policy: Decodes it.
        reading: The prefilled conversation that it answers.
        choice: Its number among the turns of the request.
        seed: The seed of its sampler.
        options: Arguments of `ReplaySession.join`.
        events: What the request is sent; an exception ends the whole request.
        row: The turn, once it has joined a batch.
        cancelled: Whether nobody waits for the events any more.
    """

    policy: ReplayPolicy
    reading: Reading
    choice: int
    seed: int | None
    options: dict[str, Any]
    events: asyncio.Queue[Event | BaseException]
    row: Continuation | None = None
    cancelled: bool = False

    @property
    def batch(self) -> tuple[int, int]:
        """The key of its batch: the model, and the longest context in powers of two.

        Each row of a batch takes the memory of the longest.
        """
        session = self.reading.session
        longest = session.length + int(self.options["max_new_tokens"])
        return id(session.pair.policy), max(_SHORT, longest.bit_length())

    def needs_step(self, last: Sequence[Event | BaseException]) -> bool:
        """Tell whether another step is due, to decode or to leave the batch.

        Args:
            last: Its events of the last step.
        """
        if last and isinstance(last[-1], BaseException):
            return False
        return not self.cancelled if self.row is None else not self.row.finished


def write_elsewhere(job: DecodeJob, send: Callable[[Event | BaseException], object]) -> None:
    """Let the policy's writer write a turn, in a thread that waits for it.

    Args:
        job: The turn; nothing is sent any more once it is cancelled.
        send: Takes its events.
    """
    policy, reading = job.policy, job.reading
    try:
        writing = policy.writer.stream(reading.session, seed=job.seed, **job.options)
        while not job.cancelled:
            try:
                token_id, logprob = next(writing)
            except StopIteration as end:
                send(EndEvent(job.choice, policy.turn(reading, *end.value)))
                return
            send(TokenEvent(job.choice, token_id, logprob))
        writing.close()
    except BaseException as error:  # the request's own: the others go on
        send(error)


class BatchDecoder:
    """The batches of an engine. All methods are called from one thread at a time."""

    def __init__(self) -> None:
        self._batches: dict[tuple[int, int], Batch] = {}

    def step(self, jobs: Sequence[DecodeJob]) -> dict[DecodeJob, Events]:
        """Let jobs join and leave the batches, and decode a token of each turn.

        Returns:
            The new events of the jobs that have any.
        """
        try:
            return self._step(jobs)
        except BaseException as error:  # a panic in Rust is one, and must not end the thread
            # Some keys and values may be those of half a step: all of them go.
            logger.exception("a step failed; %d requests end with it", len(jobs))
            self._batches.clear()
            return {job: [error] for job in jobs}

    def _step(self, jobs: Sequence[DecodeJob]) -> dict[DecodeJob, Events]:
        events: dict[DecodeJob, Events] = {}
        for job in jobs:
            if job.cancelled:
                self._leave(job)
            elif job.row is None:
                self._join(job, events)
        for key, batch in list(self._batches.items()):
            decoded = batch.step()
            if not batch:
                del self._batches[key]
            for job in jobs:
                if (row := job.row) is not None and row in decoded:
                    self._report(job, row, events)
        return events

    def _join(self, job: DecodeJob, events: dict[DecodeJob, Events]) -> None:
        batch = self._batches.setdefault(job.batch, Batch())
        try:
            job.row = job.reading.session.join(batch, seed=job.seed, **job.options)
        except Exception as error:  # the request's own: a setting out of range, say
            events[job] = [error]
        else:
            self._report(job, job.row, events)

    def _leave(self, job: DecodeJob) -> None:
        batch = self._batches.get(job.batch)
        if batch is not None and job.row is not None:
            batch.drop(job.row)
        job.row = None

    def _report(self, job: DecodeJob, row: Continuation, events: dict[DecodeJob, Events]) -> None:
        """Add the events of a turn that was just decoded."""
        policy, reading = job.policy, job.reading
        new = events.setdefault(job, [])
        if row.error is not None:
            self._leave(job)
            new.append(row.error)
            return
        if row.ids:
            logprob = row.logprobs[-1] if row.logprobs else None
            new.append(TokenEvent(job.choice, row.ids[-1], logprob))
        if row.finished:
            session = reading.session.continued(row)
            generated = row.generation(policy.pair.tokenizer)
            new.append(EndEvent(job.choice, policy.turn(reading, session, generated)))
