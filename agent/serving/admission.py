"""The queue of callers in front of an engine."""

import asyncio
from collections import deque


class BusyError(RuntimeError):
    """A caller is turned away: too many wait already, or the engine is closed."""


class ClosedError(BusyError):
    """The engine is closed, or is being closed."""


class AdmissionQueue:
    """Gives places to turns in the order in which their callers came, on one event loop.

    A caller with several turns begins with one place, and lines up again for each further one. So
    each caller that waits is passed over at most once for each of these turns, and no caller waits
    until many places are free at once.

    Args:
        max_running: How many turns run at once.
        max_waiting: How many callers may wait for their first place.

    Attributes:
        running: How many turns run.
        waiting: How many callers wait for their first place.
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
        self.waiting = 0
        self.is_open = False
        self._queue: deque[asyncio.Future[None]] = deque()

    def open(self) -> None:
        """Admit turns from now on."""
        self.is_open = True

    def close(self) -> None:
        """Admit no more turns, and turn away the callers that wait."""
        self.is_open = False
        while self._queue:
            admitted = self._queue.popleft()
            if not admitted.done():
                admitted.set_exception(engine_closed())

    async def first_place(self, turns: int = 1) -> None:
        """Wait for the first place of a caller.

        Args:
            turns: How many turns the caller has in all.

        Raises:
            BusyError: If too many callers wait already.
            ClosedError: If none are admitted.
            ValueError: If `turns` is more than can run at once.
        """
        if not 1 <= turns <= self.max_running:
            raise ValueError(
                f"{turns} turns were requested, but 1 to {self.max_running} can run at once"
            )
        if self.place_now():
            return
        if self.is_open and self.waiting >= self.max_waiting:
            raise BusyError(
                f"{self.running} turns are running and {self.waiting} callers wait: try again later"
            )
        self.waiting += 1
        try:
            await self.further_place()
        finally:
            self.waiting -= 1

    def place_now(self) -> bool:
        """Take a place if one is free and nobody waits; returns whether it did."""
        free = self.is_open and not self._queue and self.running < self.max_running
        self.running += free
        return free

    async def further_place(self) -> None:
        """Wait for another place of a caller.

        Raises:
            ClosedError: If none are admitted.
        """
        if not self.is_open:
            raise engine_closed()
        if self.place_now():
            return
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(admitted)
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.cancelled():
                self._queue = deque(each for each in self._queue if each is not admitted)
                self._admit_next()
            elif admitted.exception() is None:  # both happened at once
                self.give_back()
            raise

    def give_back(self, places: int = 1) -> None:
        """Give back places, which the next in the queue get."""
        self.running -= places
        self._admit_next()

    def _admit_next(self) -> None:
        while self._queue and self.running < self.max_running:
            admitted = self._queue.popleft()
            if not admitted.done():
                self.running += 1
                admitted.set_result(None)


def engine_closed() -> ClosedError:
    """The error of every caller once the engine is closed."""
    return ClosedError("the engine is closed")
