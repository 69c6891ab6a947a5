"""Prefill and decode for many callers at once, on one set of models.

Everything here happens on one event loop, so nothing needs a lock; models run in threads beside it.
Conversations are prefilled piece by piece (`ReplayPolicy.read`), a piece of each caller's in turn.
Turns are decoded in batches (`Batch`), which a caller joins as soon as its conversation is
prefilled. So a long conversation or a long turn holds up no other for more than a piece or a step,
and a caller with many turns lines up again for each of them.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from visreplay.agent.policy.replay_policy import Reading, ReplayPolicy
from visreplay.agent.policy.writing import ModelWriter
from visreplay.agent.serving.admission import AdmissionQueue, ClosedError, engine_closed
from visreplay.agent.serving.decoding import (
    BatchDecoder,
    DecodeJob,
    EndEvent,
    Event,
    write_elsewhere,
)

T = TypeVar("T")

STEP_SECONDS = 10.0
"""Time that a step or a piece has to end when the engine is closed."""


@dataclass(eq=False)
class _PrefillJob:
    """A conversation that is being prefilled."""

    pieces: Generator[None, None, Any]
    result: asyncio.Future[Any]


class Engine:
    """Prefills and decodes for many callers.

    Args:
        max_running: Turns that are prefilled or decoded at once; each holds a context in memory.
        max_waiting: Callers that may wait for a slot.
        prefillers: Threads that prefill.

    Attributes:
        admission: The queue of callers that wait for a slot.

    Examples:
        >>> async with Engine() as engine, engine.slot() as slot:
        ...     reading = await slot.prefill(policy.read(messages))
        ...     async for event in slot.decode(policy, reading, [None], **policy.decoding()):
        ...         print(event)
    """

    def __init__(self, max_running: int = 16, max_waiting: int = 64, prefillers: int = 2) -> None:
        if prefillers < 1:
            raise ValueError(f"prefillers is {prefillers}, but must be at least 1")
        self.admission = AdmissionQueue(max_running, max_waiting)
        self._prefillers = prefillers
        self._prefills: set[_PrefillJob] = set()
        self._to_prefill: asyncio.Queue[_PrefillJob] = asyncio.Queue()
        self._decodes: list[DecodeJob] = []
        self._elsewhere: set[DecodeJob] = set()
        self._some_to_decode = asyncio.Event()
        self._decoder = BatchDecoder()
        self._tasks: list[asyncio.Task[None]] = []
        self._in_threads: set[asyncio.Future[Any]] = set()
        self._closing = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Start to work."""
        self.admission.open()
        self._threads = ThreadPoolExecutor(self._prefillers + 1, "visreplay")
        # A thread waits for each turn that something else than the pair's own model writes.
        self._waiters = ThreadPoolExecutor(self.admission.max_running, "visreplay-waits")
        # More than there are slots: what is prepared for a caller that left goes on to its end.
        self._preparers = ThreadPoolExecutor(4 * self.admission.max_running, "visreplay-media")
        loops = [self._prefill() for _ in range(self._prefillers)]
        self._tasks = [asyncio.create_task(loop) for loop in (*loops, self._decode())]
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stop to work; callers that still wait for something get a `ClosedError`."""
        self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._in_threads:
            await asyncio.wait(self._in_threads, timeout=STEP_SECONDS)
        self._preparers.shutdown(wait=False, cancel_futures=True)
        self._waiters.shutdown(wait=False, cancel_futures=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Give every caller that waits for something, or comes later, a `ClosedError`."""
        self.admission.close()
        self._closing.set()
        for decode in (*self._decodes, *self._elsewhere):
            decode.events.put_nowait(engine_closed())
        for prefill in self._prefills:
            if not prefill.result.done():
                prefill.result.set_exception(engine_closed())

    def check_open(self) -> None:
        """Raise a `ClosedError` if the engine is closed."""
        if self._closing.is_set():
            raise engine_closed()

    @property
    def works(self) -> bool:
        """Tell whether it is open and has not broken down."""
        return self.admission.is_open and not any(task.done() for task in self._tasks)

    @asynccontextmanager
    async def slot(self, turns: int = 1) -> AsyncIterator["Slot"]:
        """Wait for a slot, first come, first served.

        Args:
            turns: How many turns it is for.

        Raises:
            BusyError: If too many callers wait already, or the engine is closed.
            ValueError: If `turns` is more than can run at once.
        """
        await self.admission.first_place(turns)
        slot = Slot(self, turns)
        try:
            yield slot
        finally:
            self.admission.give_back(slot.places)

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        running = asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        self._in_threads.add(running)
        running.add_done_callback(self._in_threads.discard)
        return await asyncio.shield(running)  # a thread goes on, whoever waits for it

    def _begin(self, job: DecodeJob) -> None:
        """Begin to decode a turn: in the batches here, or where its policy's writer does."""
        if isinstance(job.policy.writer, ModelWriter):
            self._decodes.append(job)
            self._some_to_decode.set()
        else:
            loop = asyncio.get_running_loop()

            def send(event: Event | BaseException) -> None:
                loop.call_soon_threadsafe(job.events.put_nowait, event)

            self._elsewhere.add(job)
            ended = loop.run_in_executor(self._waiters, write_elsewhere, job, send)
            ended.add_done_callback(lambda _: self._elsewhere.discard(job))

    async def _prefill(self) -> None:
        """Prefill a piece of each conversation in turn."""
        while True:
            job = await self._to_prefill.get()
            end = None
            if not job.result.done():
                end = await self._in_thread(_advance, job.pieces)
            if job.result.done():
                continue  # the caller has left
            if end is None:
                self._to_prefill.put_nowait(job)
            elif isinstance(end, BaseException):
                job.result.set_exception(end)
            else:
                job.result.set_result(end[0])

    async def _decode(self) -> None:
        """Decode a token of each turn at a time."""
        while True:
            await self._some_to_decode.wait()
            events = await self._in_thread(self._decoder.step, list(self._decodes))
            for job, new in events.items():
                for event in new:
                    job.events.put_nowait(event)
            self._decodes = [job for job in self._decodes if job.needs_step(events.get(job, ()))]
            if not self._decodes:
                self._some_to_decode.clear()


@dataclass
class Slot:
    """A caller's share of an engine.

    Attributes:
        engine: The engine.
        turns: How many turns may be decoded.
        places: How many places of the admission queue it has.
    """

    engine: Engine
    turns: int
    places: int = 1

    async def prepare(self, work: Callable[..., T], *arguments: Any) -> T:
        """Call something in a thread that may wait: for files, for the network.

        Args:
            work: The call; it goes on to its end even if the caller leaves.
            *arguments: Its arguments.

        Raises:
            ClosedError: The engine is closed meanwhile.
        """
        loop = asyncio.get_running_loop()
        result = loop.run_in_executor(self.engine._preparers, work, *arguments)
        closing = asyncio.create_task(self.engine._closing.wait())
        either: set[asyncio.Future[Any]] = {result, closing}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                raise engine_closed()
            return await result
        finally:
            result.cancel()
            closing.cancel()

    async def prefill(self, pieces: Generator[None, None, T]) -> T:
        """Run a generator such as `ReplayPolicy.read` to its end, by turns with other callers.

        Args:
            pieces: The generator; each of its steps may run in another thread.

        Returns:
            The value of the generator; what it raises is raised here.
        """
        self.engine.check_open()
        job = _PrefillJob(pieces, asyncio.get_running_loop().create_future())
        self.engine._prefills.add(job)
        self.engine._to_prefill.put_nowait(job)
        try:
            result: T = await job.result
        finally:
            self.engine._prefills.remove(job)
        return result

    async def decode(
        self,
        policy: ReplayPolicy,
        reading: Reading,
        seeds: Sequence[int | None],
        **options: Any,
    ) -> AsyncIterator[Event]:
        """Decode turns in batches with those of other callers.

        The first turn begins at once, and the others as there are places for them: a place is
        handed on to the next turn, and given back when none is left. Closing the iterator ends the
        turns.

        Args:
            policy: Decodes them.
            reading: The prefilled conversation that they answer.
            seeds: The seed of each turn.
            **options: Arguments of `ReplaySession.join`, such as `ReplayPolicy.decoding` returns.

        Yields:
            Every token as soon as it is drawn, without those that a turn had to begin with, and
            every turn at its end.
        """
        if not 1 <= len(seeds) <= self.turns:
            raise ValueError(f"there are {len(seeds)} seeds, but the slot is for {self.turns}")
        self.engine.check_open()
        events: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        ahead = deque(
            DecodeJob(policy, reading, choice, seed, options, events)
            for choice, seed in enumerate(seeds)
        )
        begun: list[DecodeJob] = []
        queue = self.engine.admission

        def begin() -> None:
            begun.append(ahead.popleft())
            self.engine._begin(begun[-1])

        begin()
        while ahead and queue.place_now():
            self.places += 1
            begin()
        lining_up = asyncio.create_task(self._line_up(ahead, begin))
        try:
            ended = 0
            while ended < len(seeds):
                event = await events.get()
                if isinstance(event, BaseException):
                    raise event
                if isinstance(event, EndEvent):
                    ended += 1
                    if ahead:
                        begin()
                    else:
                        self.places -= 1
                        queue.give_back()
                yield event
        finally:
            lining_up.cancel()
            for job in begun:
                job.cancelled = True

    async def _line_up(self, ahead: deque[DecodeJob], begin: Callable[[], None]) -> None:
        """Begin each turn that is still ahead as soon as there is a place for it."""
        queue = self.engine.admission
        while ahead:
            try:
                await queue.further_place()
            except ClosedError:
                return  # which the turns that have begun are told
            if ahead:
                self.places += 1
                begin()
            else:
                queue.give_back()


def _advance(pieces: Generator[None, None, T]) -> tuple[T] | BaseException | None:
    """Take a step of a generator; at its end, return its value in a tuple, or its exception."""
    try:
        next(pieces)
    except StopIteration as end:
        return (end.value,)
    except BaseException as error:  # a panic in Rust is one, and must not end the thread
        return error
    return None
