"""Recomputation by itself, and running out of memory: real allocations that fail."""

import weakref
from collections.abc import Callable
from typing import Any

import builders
import pytest
import torch
from builders import segment
from replay_cases import config
from torch import Tensor

from visreplay.replay_core import (
    Batch,
    ConfigError,
    MemoryExhaustedError,
    ModelPair,
    ReplayConfig,
    ReplayError,
    ReplaySession,
    memory,
)
from visreplay.replay_core.memory import SHARE, free_bytes, kept_bytes, memory_errors, recomputes

IMPOSSIBLE = 2**60
TURN = (4, ("image", (1, 4, 6), 1), 3)


def too_much(*_: Any) -> None:
    torch.empty(IMPOSSIBLE)


def test_the_setting_decides(pair: ModelPair) -> None:
    for setting in (True, False):
        assert recomputes(setting, pair.policy, 10**9, range(3)) is setting


@pytest.mark.parametrize("layers", [range(1), range(3), range(1, 3)])
def test_auto_compares_what_would_be_kept_with_free_memory(
    pair: ModelPair, monkeypatch: pytest.MonkeyPatch, layers: range
) -> None:
    tokens = 100
    bytes_kept = tokens * len(layers) * kept_bytes(pair.policy, recompute=False)
    limit = int(bytes_kept / SHARE)
    for free, expected in ((limit - 2, True), (limit, False), (None, False), (0, True)):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        assert recomputes("auto", pair.policy, tokens, layers) is expected


def test_auto_looks_at_each_device_of_a_split_model(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = builders.pair().policy
    for layer in adapter.language_model.layers[1:]:
        layer.to("meta")
    free = 100 * kept_bytes(adapter, recompute=False) / SHARE
    monkeypatch.setattr(
        memory, "free_bytes", lambda device: free if device.type == "meta" else 10 * free
    )
    assert [recomputes("auto", adapter, 100, range(n)) for n in (1, 2, 3)] == [False, False, True]


def test_the_free_memory_of_a_device() -> None:
    free = free_bytes(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    assert free_bytes(torch.device("meta")) is None
    if torch.cuda.is_available():
        device = torch.device("cuda")
        assert 0 < free_bytes(device) <= torch.cuda.mem_get_info(device)[1]  # type: ignore[operator]


def test_the_decision_changes_no_result(pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for free in (0, IMPOSSIBLE):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        with ReplaySession(pair, config("token")) as session:
            assert session.config.recompute_activations == "auto"
            session.append(segment(*TURN))
            found.append((session.blocks[0].kl_path, session.next_logits))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'always'.* 'auto'"):
        ReplayConfig(recompute_activations="always")  # type: ignore[arg-type]


def _append(session: ReplaySession) -> None:
    session.append(segment(2, ("image", (1, 6, 6), 2)))


def _generate(session: ReplaySession) -> None:
    session.generate(max_new_tokens=3)


def _sample(session: ReplaySession) -> None:
    session.sample_many([1, 2], max_new_tokens=3)


@pytest.mark.parametrize("work", [_append, _generate, _sample])
@pytest.mark.parametrize("method", ["none", "token", "state"])
def test_a_session_is_as_it_was_after_memory_ran_out(
    method: str, work: Callable[[ReplaySession], None]
) -> None:
    pair = builders.pair()
    with ReplaySession(pair, config(method)) as session:
        session.append(segment(*TURN))
        before = session.token_ids, session.blocks, session.next_logits
        _generate(session.fork())  # the first token needs no layer: a later one fails
        hook = pair.policy.language_model.layers[-1].register_forward_hook(too_much)
        with pytest.raises(MemoryExhaustedError) as caught:
            work(session)
        hook.remove()
        assert session.token_ids == before[0] and session.blocks == before[1]
        assert torch.equal(session.next_logits, before[2])
        work(session)
    assert isinstance(caught.value, ReplayError) and isinstance(caught.value, MemoryError)
    message = str(caught.value)
    assert "\n" not in message and str(IMPOSSIBLE * 4) in message
    for way_out in ("--recompute", "'state'", "max_pixels", "memory_bytes", "base_device"):
        assert way_out in message


def test_a_step_of_a_batch_that_fails_is_told() -> None:
    pair = builders.pair()
    session, batch = ReplaySession(pair, "none"), Batch()
    session.append(segment(4))
    session.join(batch, max_new_tokens=3)
    pair.policy.language_model.layers[0].register_forward_hook(too_much)
    with pytest.raises(MemoryExhaustedError):
        batch.step()


def test_the_error_holds_no_tensor_of_the_failed_call() -> None:
    held: list[weakref.ref[Tensor]] = []

    def work() -> None:
        large = torch.ones(1000)
        held.append(weakref.ref(large))
        too_much()

    try:
        with memory_errors():
            work()
    except MemoryExhaustedError as error:
        assert held[0]() is None
        assert error.__cause__ is None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore text"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
    ids=["cuda", "mps", "cublas", "python"],
)
def test_every_kind_of_exhaustion_is_recognised(error: Exception) -> None:
    with pytest.raises(MemoryExhaustedError) as caught, memory_errors():
        raise error
    assert "\n" not in str(caught.value)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes") as caught, memory_errors():
        raise RuntimeError("shapes differ")
    assert not isinstance(caught.value, ReplayError)
    error = MemoryExhaustedError("once")
    with pytest.raises(MemoryExhaustedError) as again, memory_errors(), memory_errors():
        raise error
    assert again.value is error
