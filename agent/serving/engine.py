"""Turns for many callers at once: who reads in turns, who writes together, who has to wait.

Everything here happens on one event loop, so that nothing needs a lock; models run in threads
beside it. What is new of a conversation is read piece by piece (`ReplayPolicy.read`), a piece of
each caller's in turn, and turns are written in batches (`Batch`) that a caller joins as soon as his
conversation is read: who has much to read or to write holds up nobody for longer than a piece.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from visreplay.agent.policy.replay_policy import PolicyTurn, Reading, ReplayPolicy
from visreplay.agent.serving.admission import AdmissionQueue, closed
from visreplay.replay_core import Batch, Continuation, TokenLogprob

T = TypeVar("T")

logger = logging.getLogger(__name__)

_SHORT = 12
"""Continuations of at most two to the power of this many positions are written together."""


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """A token of a turn.

    Attributes:
        choice: Of which of the turns that are written at once.
        token_id: The token.
        logprob: How probable it was, where that was asked for.
    """

    choice: int
    token_id: int
    logprob: TokenLogprob | None = None


@dataclass(frozen=True, slots=True)
class EndEvent:
    """The end of a turn.

    Attributes:
        choice: Which.
        turn: All of it.
    """

    choice: int
    turn: PolicyTurn


Event = TokenEvent | EndEvent


@dataclass(eq=False)
class _Read:
    """A conversation that is being read."""

    pieces: Generator[None, None, Any]
    result: asyncio.Future[Any]


@dataclass(eq=False)
class _Writing:
    """Turns that are being written for one caller."""

    policy: ReplayPolicy
    reading: Reading
    seeds: Sequence[int | None]
    options: dict[str, Any]
    events: asyncio.Queue[Event | BaseException] = field(default_factory=asyncio.Queue)
    rows: list[Continuation] = field(default_factory=list)
    gone: bool = False

    @property
    def batch(self) -> tuple[int, int]:
        """What writes, and how long it may become, in powers of two.

        Those who have it in common are written together: each row takes the memory of the longest.
        """
        session = self.reading.session
        longest = session.length + int(self.options["max_new_tokens"])
        return id(session.pair.policy), max(_SHORT, longest.bit_length())

    def goes_on(self, told: Sequence[Event | BaseException]) -> bool:
        """Whether there is more to write, or to leave, after a step that told this."""
        failed = bool(told) and isinstance(told[-1], BaseException)
        begun = not self.rows and not self.gone
        return not failed and (begun or any(not row.finished for row in self.rows))


_Told = dict[_Writing, list[Event | BaseException]]
"""What a step has to tell each caller."""


class Engine:
    """Reads and writes for many callers on one set of models.

    Args:
        max_running: Turns that are read or written at once; each holds a context in memory.
        max_waiting: Callers that may wait for a place.
        readers: Threads that read.

    Attributes:
        places: How many are read and written, and how many wait.

    Example:
        >>> async with Engine() as engine, engine.place() as place:
        ...     reading = await place.read(policy.read(messages))
        ...     async for event in place.write(policy, reading, [None]):
        ...         print(event)
    """

    def __init__(self, max_running: int = 16, max_waiting: int = 64, readers: int = 2) -> None:
        if readers < 1:
            raise ValueError(f"readers is {readers}, but must be at least 1")
        self.places = AdmissionQueue(max_running, max_waiting)
        self._readers = readers
        self._reads: set[_Read] = set()
        self._to_read: asyncio.Queue[_Read] = asyncio.Queue()
        self._writings: list[_Writing] = []
        self._some_to_write = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        # Of the thread that writes, and of no other.
        self._batches: dict[tuple[int, int], Batch] = {}

    async def __aenter__(self) -> Self:
        """Begin to work."""
        self.places.open()
        self._threads = ThreadPoolExecutor(self._readers + 1, "visreplay")
        # For whoever left too, until what was being prepared for him is done.
        self._preparers = ThreadPoolExecutor(4 * self.places.max_running, "visreplay-media")
        loops = [self._read() for _ in range(self._readers)]
        self._tasks = [asyncio.create_task(loop) for loop in (*loops, self._write())]
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stop working. Who still waits for something is told so (`BusyError`)."""
        self.places.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writing in self._writings:
            writing.events.put_nowait(closed())
        for job in self._reads:
            if not job.result.done():
                job.result.set_exception(closed())
        self._preparers.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._threads.shutdown)

    @property
    def works(self) -> bool:
        """Whether it was opened, was not closed, and did not break down."""
        return self.places.are_open and not any(task.done() for task in self._tasks)

    @asynccontextmanager
    async def place(self, turns: int = 1) -> AsyncIterator["Slot"]:
        """Wait for a place, first come, first served.

        Args:
            turns: How many are to be written.

        Raises:
            BusyError: If too many wait already, or the engine is closed.
            ValueError: If more turns are asked for than there are places.
        """
        async with self.places.taken(turns):
            yield Slot(self, turns)

    async def _in_thread(self, work: Callable[..., T], *given: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *given)

    async def _read(self) -> None:
        """Read a piece of each conversation in turn."""
        while True:
            job = await self._to_read.get()
            end = None
            if not job.result.done():
                end = await self._in_thread(_advance, job.pieces)
            if job.result.done():
                continue  # who asked is gone
            if end is None:
                self._to_read.put_nowait(job)
            elif isinstance(end, BaseException):
                job.result.set_exception(end)
            else:
                job.result.set_result(end[0])

    async def _write(self) -> None:
        """Write a token of each turn at a time."""
        while True:
            await self._some_to_write.wait()
            writings = list(self._writings)
            try:
                told = await self._in_thread(self._step, writings)
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                # Keys and values may be those of half a step: all of them go.
                logger.exception("a step failed; %d answers end with it", len(writings))
                self._batches.clear()
                told = {writing: [error] for writing in writings}
            for writing, events in told.items():
                for event in events:
                    writing.events.put_nowait(event)
            self._writings = [each for each in self._writings if each.goes_on(told.get(each, ()))]
            if not self._writings:
                self._some_to_write.clear()

    def _step(self, writings: Sequence[_Writing]) -> _Told:
        """Let callers join and leave the batches, and each of these write a token a turn."""
        told: _Told = {}
        for writing in writings:
            if writing.gone:
                self._leave(writing)
            elif not writing.rows:
                self._join(writing, told)
        for key, batch in list(self._batches.items()):
            written = batch.step()
            if not batch:
                del self._batches[key]
            for writing in writings:
                self._tell(writing, written, told)
        return told

    def _join(self, writing: _Writing, told: _Told) -> None:
        batch = self._batches.setdefault(writing.batch, Batch())
        session = writing.reading.session
        try:
            for seed in writing.seeds:
                writing.rows.append(session.join(batch, seed=seed, **writing.options))
        except Exception as error:
            self._leave(writing)
            told[writing] = [error]  # of his own making: a setting out of range, say
        self._tell(writing, writing.rows, told)

    def _leave(self, writing: _Writing) -> None:
        batch = self._batches.get(writing.batch)
        for row in writing.rows:
            if batch is not None:
                batch.drop(row)
        writing.rows = []

    def _tell(self, writing: _Writing, written: Sequence[Continuation], told: _Told) -> None:
        """Tell of the newest tokens of a caller's turns, and of their ends."""
        policy, reading = writing.policy, writing.reading
        for choice, row in enumerate(writing.rows):
            if row not in written:
                continue
            events = told.setdefault(writing, [])
            if row.error is not None:
                self._leave(writing)
                events.append(row.error)
                return
            if row.ids:
                logprob = row.logprobs[-1] if row.logprobs else None
                events.append(TokenEvent(choice, row.ids[-1], logprob))
            if row.finished:
                session = reading.session.continued(row)
                generated = row.generation(policy.pair.tokenizer)
                events.append(EndEvent(choice, policy.turn(reading, session, generated)))


@dataclass(frozen=True)
class Slot:
    """A caller's place in an engine.

    Attributes:
        engine: Whose.
        turns: How many may be written at once.
    """

    engine: Engine
    turns: int

    async def prepare(self, work: Callable[..., T], *given: Any) -> T:
        """Do something in a thread that may have to wait: for files, for the network.

        Args:
            work: What is to be done. It is done to its end even if the caller leaves.
            *given: Its arguments.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.engine._preparers, work, *given)

    async def read(self, pieces: Generator[None, None, T]) -> T:
        """Work through a generator, as `ReplayPolicy.read` gives one, by turns with other callers.

        Args:
            pieces: What is to be done, a piece at a time, each in some thread.

        Returns:
            The generator's value; what it raises is raised here.
        """
        job = _Read(pieces, asyncio.get_running_loop().create_future())
        self.engine._reads.add(job)
        self.engine._to_read.put_nowait(job)
        try:
            read: T = await job.result
        finally:
            self.engine._reads.remove(job)
        return read

    async def write(
        self,
        policy: ReplayPolicy,
        reading: Reading,
        seeds: Sequence[int | None],
        **options: Any,
    ) -> AsyncIterator[Event]:
        """Write turns in a batch with those of other callers.

        Who stops to iterate, and closes the iterator, is not written for any longer.

        Args:
            policy: Writes.
            reading: What it answers.
            seeds: One for each turn.
            **options: Of `ReplaySession.join`, as `ReplayPolicy.decoding` gives them.

        Yields:
            Every token as soon as it is drawn, what a turn had to begin with aside, and turns.
        """
        if not 1 <= len(seeds) <= self.turns:
            raise ValueError(f"there are {len(seeds)} seeds, but the place is for {self.turns}")
        writing = _Writing(policy, reading, seeds, options)
        self.engine._writings.append(writing)
        self.engine._some_to_write.set()
        try:
            ended = 0
            while ended < len(seeds):
                event = await writing.events.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                ended += isinstance(event, EndEvent)
        finally:
            writing.gone = True


def _advance(pieces: Generator[None, None, T]) -> tuple[T] | BaseException | None:
    """One step of a generator; at its end what it returns, or raises."""
    try:
        next(pieces)
    except StopIteration as end:
        return (end.value,)
    except BaseException as error:  # a panic of Rust's is one, and does not end the thread
        return error
    return None
