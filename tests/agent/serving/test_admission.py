"""Places are given in the order of the callers, and none is lost when one leaves."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from visreplay.agent.serving.admission import AdmissionQueue, BusyError, ClosedError


class Callers:
    """Callers that come, are admitted, and stay until they are let go."""

    def __init__(self, queue: AdmissionQueue) -> None:
        self.queue = queue
        self.served: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, many: int = 1) -> asyncio.Task[None]:
        self._leave[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._stay(name, many))
        await asyncio.sleep(0)
        return self._tasks[name]

    async def leave(self, name: str) -> None:
        self._leave[name].set()
        await self._tasks[name]
        await asyncio.sleep(0)

    async def give_up(self, name: str) -> None:
        self._tasks[name].cancel()
        await asyncio.wait([self._tasks[name]])
        await asyncio.sleep(0)

    async def _stay(self, name: str, many: int) -> None:
        """Take places one after the other, and keep all of them."""
        await self.queue.first_place(many)
        places = 1
        try:
            self.served.append(name)
            for _ in range(many - 1):
                await self.queue.further_place()
                places += 1
                self.served.append(name)
            await self._leave[name].wait()
        finally:
            self.queue.give_back(places)


@pytest.fixture
async def callers() -> AsyncIterator[Callers]:
    """Two turns may run, and three callers wait."""
    queue = AdmissionQueue(2, 3)
    queue.open()
    yield Callers(queue)
    assert (queue.running, queue.waiting) == (0, 0)


async def test_callers_are_admitted_in_their_order(callers: Callers) -> None:
    for name in "abcde":
        await callers.come(name)
    assert callers.served == ["a", "b"]
    assert (callers.queue.running, callers.queue.waiting) == (2, 3)
    with pytest.raises(BusyError, match="2 turns are running and 3 callers wait"):
        await (await callers.come("f"))
    for name in "abcde":
        await callers.leave(name)
    assert callers.served == ["a", "b", "c", "d", "e"]


async def test_a_caller_with_many_turns_is_passed_once_for_each() -> None:
    queue = AdmissionQueue(4, 9)
    queue.open()
    callers = Callers(queue)
    await callers.come("a")
    await callers.come("many", 4)
    # It has the three places that are free, and lines up for the fourth.
    assert callers.served == ["a", "many", "many", "many"]
    assert (queue.running, queue.waiting) == (4, 0)
    for name in "bc":
        await callers.come(name)
    await callers.leave("a")
    assert callers.served[4:] == ["many"]
    queue.give_back()  # a turn of it has ended: the next place is another's
    await asyncio.sleep(0)
    assert callers.served[5:] == ["b"]
    await callers.come("more", 3)
    await callers.leave("b")
    await callers.leave("c")
    # Between two places of one caller, everybody else who waits gets one.
    await callers.come("d")
    assert callers.served[6:] == ["c", "more"]
    queue.give_back()
    await asyncio.sleep(0)
    queue.give_back()
    await asyncio.sleep(0)
    assert callers.served[8:] == ["more", "d"]


async def test_a_caller_that_gives_up_is_passed_over(callers: Callers) -> None:
    for name, many in (("a", 2), ("b", 2), ("c", 1)):
        await callers.come(name, many)
    await callers.give_up("b")
    await callers.leave("a")
    assert callers.served == ["a", "a", "c"]
    await callers.give_up("c")  # after its admission


async def test_a_caller_that_gives_up_between_its_places(callers: Callers) -> None:
    await callers.come("a")
    await callers.come("b", 2)
    await callers.come("c")
    assert callers.served == ["a", "b"]
    await callers.give_up("b")
    assert callers.served == ["a", "b", "c"]
    await callers.leave("a")
    await callers.leave("c")


async def test_a_caller_that_gives_up_at_the_moment_of_its_admission(
    callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    await callers.come("a")
    await callers.come("b")
    waits = await callers.come("c")
    call = callers.queue._admit_next

    def call_and_cancel() -> None:
        call()
        waits.cancel()  # before c goes on

    with monkeypatch.context() as patched:
        patched.setattr(callers.queue, "_admit_next", call_and_cancel)
        callers._leave["a"].set()
        await asyncio.wait([waits])
    assert waits.cancelled() and callers.served == ["a", "b"]
    assert callers.queue.running == 1
    await callers.leave("b")


async def test_waiting_callers_are_turned_away_when_the_queue_closes(callers: Callers) -> None:
    await callers.come("a", 2)
    waits = await callers.come("b")
    callers.queue.close()
    for late in (waits, await callers.come("c")):
        with pytest.raises(ClosedError, match="the engine is closed"):
            await late
    await callers.leave("a")


async def test_more_turns_than_can_run(callers: Callers) -> None:
    with pytest.raises(ValueError, match="3 turns were requested, but 1 to 2"):
        await (await callers.come("a", 3))


def test_limits_out_of_range() -> None:
    with pytest.raises(ValueError, match="max_running is 0"):
        AdmissionQueue(0, 1)
