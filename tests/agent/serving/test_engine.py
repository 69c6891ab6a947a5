"""Many callers at once: each gets the turn it would get alone, and none waits for another."""

import asyncio
import threading
from collections.abc import Generator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from visreplay.agent.messages import Message, image, text, user
from visreplay.agent.policy.replay_policy import PolicyTurn, ReplayPolicy
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.serving.admission import BusyError, ClosedError
from visreplay.agent.serving.decoding import EndEvent, Event, TokenEvent
from visreplay.agent.serving.engine import Engine
from visreplay.replay_core import (
    Batch,
    ConfigError,
    Method,
    ModelPair,
    embedded_config,
    generation,
)
from visreplay.replay_core.sampling import Sampler
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Split
from visreplay.tools import ImageStore

STORE = ImageStore()
SAMPLING = Sampling(max_new_tokens=60)


def prompt(number: int, pictures: int = 1) -> list[Message]:
    sample = get_task("visual-search-medium").sample(Split.TUNING + number)
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
    async with engine.slot(len(seeds)) as slot:
        reading = await slot.prefill(policy.read(messages))
        decoding = {**policy.decoding(), **options}
        async for event in slot.decode(policy, reading, seeds, **decoding):
            match event:
                case TokenEvent(choice, token_id, _):
                    written[choice].append(token_id)
                case EndEvent(choice, turn):
                    ended[choice] = turn
    results = [ended[choice] for choice in range(len(seeds))]
    assert [turn.message["token_ids"] for turn in results] == list(written.values())
    return results


async def test_every_caller_gets_the_turn_it_would_get_alone(embedded_pair: ModelPair) -> None:
    """Also callers that share a batch with policies of other replay."""
    policies = [policy_of(embedded_pair, method) for method in Method]
    calls = [(policies[n % 3], prompt(n // 2)) for n in range(12)]
    async with Engine(max_running=8) as engine:
        results = await asyncio.gather(*(turns(engine, *call) for call in calls))
        assert (engine.admission.running, engine.admission.waiting) == (0, 0)
    for (policy, messages), (turn,) in zip(calls, results, strict=True):
        alone = policy_of(embedded_pair, policy.replay.method).act(messages)
        assert (turn.text, turn.finish_reason) == (alone.text, alone.finish_reason)
        assert turn.context_tokens == alone.context_tokens
        # The turn is in the cache: the next one costs its new tokens alone.
        going_on = policy.act([*messages, turn.message, user(text("And?"))])
        assert going_on.known_tokens == turn.context_tokens + len(turn.message["token_ids"])


async def test_several_turns_of_one_caller(embedded_pair: ModelPair) -> None:
    policy, messages = policy_of(embedded_pair), prompt(3)
    async with Engine() as engine:
        results = await turns(engine, policy, messages, (1, 2, 3), temperature=1.5, logprobs=2)
    policy.sampling = Sampling(temperature=1.5, max_new_tokens=60)
    alone = policy.act_together([(messages, seed) for seed in (1, 2, 3)])
    assert [turn.text for turn in results] == [turn.text for turn in alone]
    for turn in results:
        assert len(turn.logprobs) == len(turn.message["token_ids"])
        assert all(len(entry.top) == 2 for entry in turn.logprobs)


async def test_turns_of_one_caller_need_not_run_at_once(
    embedded_pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of two callers with more turns than places come to their ends, and are the same."""
    policy, most = policy_of(embedded_pair), [0]
    step = Batch.step

    def counted(batch: Batch) -> list[Any]:
        most[0] = max(most[0], len(batch))
        return step(batch)

    monkeypatch.setattr(Batch, "step", counted)
    async with Engine(max_running=3) as engine:
        calls = [turns(engine, policy, prompt(3), (1, 2, 3), temperature=1.5) for _ in range(3)]
        results = await asyncio.gather(*calls)
        assert (engine.admission.running, engine.admission.waiting) == (0, 0)
    assert most[0] == 3
    policy.sampling = Sampling(temperature=1.5, max_new_tokens=60)
    alone = [turn.text for turn in policy.act_together([(prompt(3), seed) for seed in (1, 2, 3)])]
    assert [[turn.text for turn in each] for each in results] == [alone] * 3


async def test_the_turn_of_a_caller_that_leaves_is_not_decoded_further(
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
        async with engine.slot() as slot:
            reading = await slot.prefill(policy.read(prompt(0)))
            stream = slot.decode(policy, reading, [0], **policy.decoding())
            async for _ in stream:
                break
            await stream.aclose()  # type: ignore[attr-defined]
        before = len(steps)
        await turns(engine, policy, prompt(1))
        assert max(steps[before + 1 :]) == 1  # the other is not in the batch any more


async def test_a_long_prefill_lets_a_short_one_pass(embedded_pair: ModelPair) -> None:
    policy = policy_of(embedded_pair)
    order: list[str] = []

    def recorded(name: str, pieces: Generator[None, None, Any]) -> Generator[None, None, Any]:
        read = yield from pieces
        order.append(name)
        return read

    async with Engine(prefillers=1) as engine, engine.slot() as first, engine.slot() as second:
        long = asyncio.create_task(
            first.prefill(recorded("long", policy.read(prompt(0, pictures=6))))
        )
        await asyncio.sleep(0)
        await second.prefill(recorded("short", policy.read(prompt(1))))
        await long
    assert order == ["short", "long"]


async def test_a_mistake_ends_the_turn_of_its_caller_alone(embedded_pair: ModelPair) -> None:
    policy = policy_of(embedded_pair)
    async with Engine() as engine:
        other = asyncio.create_task(turns(engine, policy, prompt(0)))
        with pytest.raises(ConfigError, match="temperature is -1"):
            await turns(engine, policy, prompt(1), temperature=-1)
        with pytest.raises(ValueError, match="must end with a turn"):
            await turns(engine, policy, [])
        async with engine.slot() as slot:
            reading = await slot.prefill(policy.read(prompt(0)))
            with pytest.raises(ValueError, match="2 seeds, but the slot is for 1"):
                await anext(aiter(slot.decode(policy, reading, [0, 1], **policy.decoding())))
        assert (await other)[0].text
        assert engine.admission.running == 0


async def test_a_step_that_fails_ends_its_turns_and_no_later_ones(
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
            await turns(engine, policy, prompt(0))
        (turn,) = await turns(engine, policy, prompt(0))
    assert turn.text == policy_of(embedded_pair).act(prompt(0)).text


async def test_a_turn_that_fails_ends_no_turn_of_others(
    embedded_pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(embedded_pair)
    draw = generation.draw

    def ill(logits_KV: Tensor, samplers: Sequence[Sampler]) -> list[int | None]:
        bad = torch.tensor([not sampler.greedy for sampler in samplers])
        return draw(logits_KV.masked_fill(bad[:, None], torch.nan), samplers)

    monkeypatch.setattr(generation, "draw", ill)
    async with Engine() as engine:
        well = asyncio.create_task(turns(engine, policy, prompt(0), (None,)))
        with pytest.raises(RuntimeError, match="no numbers"):
            await turns(engine, policy, prompt(1), (1, 2), temperature=1.0)
        assert (await well)[0].text
        assert engine.admission.running == 0


class Panic(BaseException):
    """Like a panic in Rust, which is no `Exception`."""


async def test_a_panic_does_not_end_the_prefill_threads(embedded_pair: ModelPair) -> None:
    def panics() -> Generator[None, None, None]:
        yield
        raise Panic

    async with Engine(prefillers=1) as engine:
        async with engine.slot() as slot:
            with pytest.raises(Panic):
                await slot.prefill(panics())
        assert engine.works
        (turn,) = await turns(engine, policy_of(embedded_pair), prompt(0))
    assert turn.text


async def test_callers_that_wait_get_an_error_when_the_engine_closes(
    embedded_pair: ModelPair,
) -> None:
    policy = policy_of(embedded_pair)

    async def write(engine: Engine, seen: asyncio.Queue[Event]) -> None:
        async with engine.slot() as slot:
            reading = await slot.prefill(policy.read(prompt(0)))
            async for event in slot.decode(policy, reading, [0], **policy.decoding()):
                seen.put_nowait(event)

    seen: asyncio.Queue[Event] = asyncio.Queue()
    async with Engine(max_running=2, prefillers=1) as engine:
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


async def test_what_is_prepared_when_the_engine_closes_is_not_waited_for() -> None:
    going_on = threading.Event()
    async with Engine() as engine, engine.slot() as slot:
        preparing = asyncio.create_task(slot.prepare(going_on.wait, 60))
        await asyncio.sleep(0)
        engine.close()
        with pytest.raises(ClosedError):
            await preparing
        with pytest.raises(ClosedError):
            await slot.prefill(iter(()))  # type: ignore[arg-type]
    going_on.set()


def test_prefillers_out_of_range() -> None:
    with pytest.raises(ValueError, match="prefillers is 0"):
        Engine(prefillers=0)
