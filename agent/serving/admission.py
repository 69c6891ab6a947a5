"""How many may be served at once, and who waits."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class BusyError(RuntimeError):
    """There are too many callers, or nobody is served any more."""


class AdmissionQueue:
    """Places that are given first come, first served, on one event loop.

    Args:
        max_running: How many there are.
        max_waiting: How many callers may wait.

    Attributes:
        running: How many places are taken.
        are_open: Whether any are given.
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
        self.are_open = False
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return len(self._queue)

    def open(self) -> None:
        """Give places from now on."""
        self.are_open = True

    def close(self) -> None:
        """Give no more, and tell those who wait."""
        self.are_open = False
        while self._queue:
            _, called = self._queue.popleft()
            if not called.done():
                called.set_exception(closed())

    @asynccontextmanager
    async def taken(self, count: int) -> AsyncIterator[None]:
        """Wait for places; they are taken until the end.

        Args:
            count: How many. All of them are given at once, and who comes later waits for that.

        Raises:
            BusyError: If too many wait already, or none are given.
            ValueError: If there are not so many.
        """
        if not 1 <= count <= self.max_running:
            raise ValueError(
                f"{count} turns at once were asked for; 1 to {self.max_running} can be"
            )
        if not self.are_open:
            raise closed()
        if self._queue or self.running + count > self.max_running:
            await self._wait(count)
        else:
            self.running += count
        try:
            yield
        finally:
            self.running -= count
            self._call_next()

    async def _wait(self, count: int) -> None:
        if len(self._queue) >= self.max_waiting:
            raise BusyError(
                f"{self.running} turns are being written and {len(self._queue)} callers wait: "
                "ask again later"
            )
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((count, called))
        try:
            await called
        except asyncio.CancelledError:
            if called.cancelled():
                self._queue = deque(each for each in self._queue if each[1] is not called)
            elif called.exception() is None:  # he was called in the same moment
                self.running -= count
            self._call_next()
            raise

    def _call_next(self) -> None:
        while self._queue and self.running + self._queue[0][0] <= self.max_running:
            count, called = self._queue.popleft()
            if not called.done():
                self.running += count
                called.set_result(None)


def closed() -> BusyError:
    """What is told where nobody is served any more."""
    return BusyError("the engine is closed")
