"""Callers are admitted in their order, and no slot is lost when one leaves."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from visreplay.agent.serving.admission import AdmissionQueue, BusyError


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
        async with self.queue.admitted(many):
            self.served.append(name)
            await self._leave[name].wait()


@pytest.fixture
async def callers() -> AsyncIterator[Callers]:
    """Two turns may run, and three callers wait."""
    queue = AdmissionQueue(2, 3)
    queue.open()
    yield Callers(queue)
    assert (queue.running, queue.waiting) == (0, 0)


async def test_callers_are_admitted_in_their_order(callers: Callers) -> None:
    for name, many in (("a", 1), ("b", 1), ("c", 2), ("d", 1), ("e", 1)):
        await callers.come(name, many)
    assert callers.served == ["a", "b"]
    assert (callers.queue.running, callers.queue.waiting) == (2, 3)
    with pytest.raises(BusyError, match="2 turns are running and 3 callers wait"):
        await (await callers.come("f"))
    # One slot is not enough for the two turns of c, and d does not jump the queue.
    await callers.leave("a")
    assert callers.served == ["a", "b"]
    await callers.leave("b")
    assert callers.served == ["a", "b", "c"]
    await callers.leave("c")
    assert callers.served == ["a", "b", "c", "d", "e"]
    await callers.leave("d")
    await callers.leave("e")


async def test_a_caller_that_gives_up_is_passed_over(callers: Callers) -> None:
    for name, many in (("a", 2), ("b", 2), ("c", 1)):
        await callers.come(name, many)
    await callers.give_up("b")
    await callers.leave("a")
    assert callers.served == ["a", "c"]
    await callers.give_up("c")  # after its admission


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
        with pytest.raises(BusyError, match="the engine is closed"):
            await late
    await callers.leave("a")


async def test_more_turns_than_can_run(callers: Callers) -> None:
    with pytest.raises(ValueError, match="3 turns were requested, but 1 to 2"):
        await (await callers.come("a", 3))


def test_limits_out_of_range() -> None:
    with pytest.raises(ValueError, match="max_running is 0"):
        AdmissionQueue(0, 1)
