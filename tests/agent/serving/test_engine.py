"""Many callers at once: each gets what he would get alone, and nobody waits for another's end."""

import asyncio
from collections.abc import Generator
from typing import Any

import pytest
import torch
from torch import Tensor

from visreplay.agent.messages import Message, image, text, user
from visreplay.agent.policy.replay_policy import PolicyTurn, ReplayPolicy
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.serving.admission import BusyError
from visreplay.agent.serving.engine import EndEvent, Engine, Event, TokenEvent
from visreplay.replay_core import Batch, ConfigError, Method, ModelPair, embedded_config
from visreplay.replay_core.generation import Sampler
from visreplay.tasks.registry import task_named
from visreplay.tasks.types import Split
from visreplay.tools import ImageStore

STORE = ImageStore()
SAMPLING = Sampling(max_new_tokens=60)


def asked(number: int, pictures: int = 1) -> list[Message]:
    sample = task_named("visual-search-medium").sample(Split.TUNING + number)
    reference = STORE.put(sample.images[0])
    return [user(*[image(reference)] * pictures, text(sample.question))]


def policy_of(pair: ModelPair, method: Method = Method.TOKEN) -> ReplayPolicy:
    return ReplayPolicy(pair, embedded_config(method), STORE, sampling=SAMPLING)


async def turns(
    engine: Engine,
    policy: ReplayPolicy,
    messages: list[Message],
    seeds: tuple[int | None, ...] = (0,),
    **options: Any,
) -> list[PolicyTurn]:
    ended: dict[int, PolicyTurn] = {}
    written: dict[int, list[int]] = {choice: [] for choice in range(len(seeds))}
    async with engine.place(len(seeds)) as place:
        reading = await place.read(policy.read(messages))
        decoding = {**policy.decoding(), **options}
        async for event in place.write(policy, reading, seeds, **decoding):
            match event:
                case TokenEvent(choice, token_id, _):
                    written[choice].append(token_id)
                case EndEvent(choice, turn):
                    ended[choice] = turn
    found = [ended[choice] for choice in range(len(seeds))]
    assert [turn.message["token_ids"] for turn in found] == list(written.values())
    return found


async def test_everybody_gets_what_he_would_get_alone(embedded_pair: ModelPair) -> None:
    """Also where policies with other replay, and their batch, are shared."""
    policies = [policy_of(embedded_pair, method) for method in Method]
    calls = [(policies[n % 3], asked(n // 2)) for n in range(12)]
    async with Engine(max_running=8) as engine:
        found = await asyncio.gather(*(turns(engine, *call) for call in calls))
        assert (engine.places.running, engine.places.waiting) == (0, 0)
    for (policy, messages), (turn,) in zip(calls, found, strict=True):
        alone = policy_of(embedded_pair, policy.replay.method).act(messages)
        assert (turn.text, turn.finish_reason) == (alone.text, alone.finish_reason)
        assert turn.context_tokens == alone.context_tokens
        # What was written is kept: the next turn costs what is new alone.
        going_on = policy.act([*messages, turn.message, user(text("And?"))])
        assert going_on.known_tokens == turn.context_tokens + len(turn.message["token_ids"])


async def test_several_turns_of_one_caller(embedded_pair: ModelPair) -> None:
    policy, messages = policy_of(embedded_pair), asked(3)
    async with Engine() as engine:
        found = await turns(engine, policy, messages, (1, 2, 3), temperature=1.5, logprobs=2)
    policy.sampling = Sampling(temperature=1.5, max_new_tokens=60)
    alone = policy.act_together(messages, [1, 2, 3])
    assert [turn.text for turn in found] == [turn.text for turn in alone]
    for turn in found:
        assert len(turn.logprobs) == len(turn.message["token_ids"])
        assert all(len(entry.top) == 2 for entry in turn.logprobs)


async def test_who_leaves_is_not_written_any_longer(
    embedded_pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(embedded_pair)
    steps: list[int] = []
    step = Batch.step

    def counted(batch: Batch) -> list[Any]:
        steps.append(len(batch))
        return step(batch)

    monkeypatch.setattr(Batch, "step", counted)
    async with Engine() as engine:
        async with engine.place() as place:
            reading = await place.read(policy.read(asked(0)))
            stream = place.write(policy, reading, [0], **policy.decoding())
            async for _ in stream:
                break
            await stream.aclose()  # type: ignore[attr-defined]
        before = len(steps)
        await turns(engine, policy, asked(1))
        assert max(steps[before + 1 :]) == 1  # the other is not in the batch any more


async def test_who_has_much_to_read_lets_others_read_too(embedded_pair: ModelPair) -> None:
    policy = policy_of(embedded_pair)
    order: list[str] = []

    def told(name: str, pieces: Generator[None, None, Any]) -> Generator[None, None, Any]:
        read = yield from pieces
        order.append(name)
        return read

    async with Engine(readers=1) as engine, engine.place() as first, engine.place() as second:
        long = asyncio.create_task(first.read(told("long", policy.read(asked(0, pictures=6)))))
        await asyncio.sleep(0)
        await second.read(told("short", policy.read(asked(1))))
        await long
    assert order == ["short", "long"]


async def test_a_mistake_is_told_to_who_made_it(embedded_pair: ModelPair) -> None:
    policy = policy_of(embedded_pair)
    async with Engine() as engine:
        other = asyncio.create_task(turns(engine, policy, asked(0)))
        with pytest.raises(ConfigError, match="temperature is -1"):
            await turns(engine, policy, asked(1), temperature=-1)
        with pytest.raises(ValueError, match="must end with a turn"):
            await turns(engine, policy, [])
        async with engine.place() as place:
            reading = await place.read(policy.read(asked(0)))
            with pytest.raises(ValueError, match="2 seeds, but the place is for 1"):
                await anext(aiter(place.write(policy, reading, [0, 1], **policy.decoding())))
        assert (await other)[0].text
        assert engine.places.running == 0


async def test_a_step_that_fails_is_told_and_forgotten(
    embedded_pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(embedded_pair)
    step = Batch.step

    def fails(batch: Batch) -> list[Any]:
        monkeypatch.setattr(Batch, "step", step)
        raise MemoryError("no more of it")

    async with Engine() as engine:
        monkeypatch.setattr(Batch, "step", fails)
        with pytest.raises(MemoryError, match="no more of it"):
            await turns(engine, policy, asked(0))
        (turn,) = await turns(engine, policy, asked(0))
    assert turn.text == policy_of(embedded_pair).act(asked(0)).text


async def test_one_turn_that_fails_is_its_callers_alone(
    embedded_pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(embedded_pair)
    call = Sampler.__call__

    def ill(self: Sampler, logits_V: Tensor) -> int:
        return call(self, logits_V * torch.nan if self._generator else logits_V)

    monkeypatch.setattr(Sampler, "__call__", ill)
    async with Engine() as engine:
        well = asyncio.create_task(turns(engine, policy, asked(0), (None,)))
        with pytest.raises(RuntimeError, match="probability"):
            await turns(engine, policy, asked(1), (1, 2), temperature=1.0)
        assert (await well)[0].text
        assert engine.places.running == 0


class Panic(BaseException):
    """What a thread of Rust's raises into Python."""


async def test_what_is_no_exception_does_not_end_the_readers(embedded_pair: ModelPair) -> None:
    def panics() -> Generator[None, None, None]:
        yield
        raise Panic

    async with Engine(readers=1) as engine:
        async with engine.place() as place:
            with pytest.raises(Panic):
                await place.read(panics())
        assert engine.works
        (turn,) = await turns(engine, policy_of(embedded_pair), asked(0))
    assert turn.text


async def test_closing_is_told_to_who_still_waits(embedded_pair: ModelPair) -> None:
    policy = policy_of(embedded_pair)

    async def write(engine: Engine, seen: asyncio.Queue[Event]) -> None:
        async with engine.place() as place:
            reading = await place.read(policy.read(asked(0)))
            async for event in place.write(policy, reading, [0], **policy.decoding()):
                seen.put_nowait(event)

    seen: asyncio.Queue[Event] = asyncio.Queue()
    async with Engine(max_running=2, readers=1) as engine:
        writer = asyncio.create_task(write(engine, seen))
        await seen.get()
        reader = asyncio.create_task(write(engine, seen))
        waiting = asyncio.create_task(write(engine, seen))
        await asyncio.sleep(0)
        assert engine.works
    for task in (writer, reader, waiting):
        with pytest.raises(BusyError, match="the engine is closed"):
            await task
    with pytest.raises(BusyError, match="the engine is closed"):
        await write(engine, seen)
    assert not engine.works


def test_readers_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="readers is 0"):
        Engine(readers=0)
