"""The queue of callers in front of an engine."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class BusyError(RuntimeError):
    """A caller is turned away: too many wait already, or the engine is closed."""


class AdmissionQueue:
    """Admits turns in the order in which their callers came, on one event loop.

    Args:
        max_running: How many turns run at once.
        max_waiting: How many callers may wait.

    Attributes:
        running: How many turns run.
        is_open: Whether any turns are admitted.
    """

    def __init__(self, max_running: int, max_waiting: int) -> None:
        if max_running < 1 or max_waiting < 0:
            raise ValueError(
                f"max_running is {max_running} and max_waiting {max_waiting}, but must be at least "
                "1 and 0"
            )
        self.max_running = max_running
        self.max_waiting = max_waiting
        self.running = 0
        self.is_open = False
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """The number of callers that wait."""
        return len(self._queue)

    def open(self) -> None:
        """Admit turns from now on."""
        self.is_open = True

    def close(self) -> None:
        """Admit no more turns, and turn away the callers that wait."""
        self.is_open = False
        while self._queue:
            _, admitted = self._queue.popleft()
            if not admitted.done():
                admitted.set_exception(engine_closed())

    @asynccontextmanager
    async def admitted(self, turns: int) -> AsyncIterator[None]:
        """Wait until a caller's turns are admitted; they run to the end of the context.

        Args:
            turns: How many. They are admitted together, and later callers wait for that.

        Raises:
            BusyError: If too many callers wait already, or none are admitted.
            ValueError: If `turns` is more than can run at once.
        """
        if not 1 <= turns <= self.max_running:
            raise ValueError(
                f"{turns} turns were requested, but 1 to {self.max_running} can run at once"
            )
        if not self.is_open:
            raise engine_closed()
        if self._queue or self.running + turns > self.max_running:
            await self._wait(turns)
        else:
            self.running += turns
        try:
            yield
        finally:
            self.running -= turns
            self._admit_next()

    async def _wait(self, turns: int) -> None:
        if len(self._queue) >= self.max_waiting:
            raise BusyError(
                f"{self.running} turns are running and {len(self._queue)} callers wait: "
                "try again later"
            )
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((turns, admitted))
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.cancelled():
                self._queue = deque(each for each in self._queue if each[1] is not admitted)
            elif admitted.exception() is None:  # both happened at once
                self.running -= turns
            self._admit_next()
            raise

    def _admit_next(self) -> None:
        while self._queue and self.running + self._queue[0][0] <= self.max_running:
            turns, admitted = self._queue.popleft()
            if not admitted.done():
                self.running += turns
                admitted.set_result(None)


def engine_closed() -> BusyError:
    """The error of every caller once the engine is closed."""
    return BusyError("the engine is closed")
