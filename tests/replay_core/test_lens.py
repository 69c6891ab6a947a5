"""The lens against plain full softmaxes."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from visreplay.replay_core.lens import Lens, Targets


def make(rows: int, vocabulary: int, *, bias: bool = False, memory_bytes: int = 1) -> Any:
    torch.manual_seed(rows * 31 + vocabulary)
    head = nn.Linear(8, vocabulary, bias=bias).requires_grad_(False)
    return Lens(nn.RMSNorm(8), head, memory_bytes), torch.randn(rows, 8)


def naive_kl(lens: Lens, hidden: Tensor, targets: Targets) -> Tensor:
    logits = lens.head(lens.norm(hidden)).gather(-1, targets.ids_NK.long())
    log_q = logits.log_softmax(-1)
    return (targets.log_probs_NK.exp() * (targets.log_probs_NK - log_q)).sum(-1)


@given(
    rows=st.integers(1, 20),
    vocabulary=st.integers(2, 60),
    top_k=st.integers(1, 80),
    memory_bytes=st.integers(1, 20_000),
)
@settings(deadline=None, max_examples=60)
def test_reading_in_chunks_equals_a_full_softmax(
    rows: int, vocabulary: int, top_k: int, memory_bytes: int
) -> None:
    lens, hidden = make(rows, vocabulary, memory_bytes=memory_bytes)
    entropy, targets = lens.read(hidden, top_k)
    log_p = lens.head(lens.norm(hidden)).double().log_softmax(-1)
    torch.testing.assert_close(entropy.double(), -(log_p.exp() * log_p).sum(-1), atol=1e-5, rtol=0)
    expected = log_p.topk(min(top_k, vocabulary))
    assert torch.equal(targets.ids_NK.long(), expected.indices)
    torch.testing.assert_close(
        targets.log_probs_NK.double(), expected.values.log_softmax(-1), atol=1e-5, rtol=0
    )


def test_a_certain_prediction_has_no_entropy() -> None:
    head = nn.Linear(1, 3, bias=False)
    head.weight.data = torch.tensor([[1000.0], [0.0], [0.0]])
    entropy, targets = Lens(nn.Identity(), head, 1).read(torch.ones(1, 1))
    assert entropy.item() == 0 and targets is None


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("memory_bytes", [1, 4000, 10**9])
def test_restricted_kl_and_its_gradient_equal_the_naive_ones(bias: bool, memory_bytes: int) -> None:
    lens, hidden = make(9, 40, bias=bias, memory_bytes=memory_bytes)
    _, targets = lens.read(torch.randn(9, 8), 5)
    weights = torch.rand(9)
    gradients, values = [], []
    for kl in (lens.restricted_kl, lambda h, t: naive_kl(lens, h, t)):
        leaf = hidden.clone().requires_grad_()
        values.append(kl(leaf, targets))
        (weights * values[-1]).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


def test_the_divergence_of_a_model_from_itself_is_zero() -> None:
    lens, hidden = make(6, 30)
    _, targets = lens.read(hidden, 30)
    torch.testing.assert_close(lens.restricted_kl(hidden, targets), torch.zeros(6))


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that an operation wrote."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not func.is_view:
            self.elements = max(self.elements, result.numel())
        return result


def test_logits_never_exceed_the_memory_bound() -> None:
    cells = 400
    lens, hidden = make(50, 700, memory_bytes=12 * cells)
    with Largest() as read:
        _, targets = lens.read(hidden)
    assert read.elements <= max(cells, hidden.numel())
    _, targets = lens.read(hidden, 3)
    assert targets is not None
    with Largest() as compared:
        lens.restricted_kl(hidden, targets)
    # Rows of the head are gathered for so many positions at a time, each 8 wide.
    assert compared.elements <= max(12 * cells // 4, hidden.numel())


def test_the_norm_is_applied_exactly_once() -> None:
    calls = []

    def norm(hidden: Tensor) -> Tensor:
        calls.append(len(hidden))
        return hidden

    lens = Lens(norm, nn.Linear(8, 10), memory_bytes=12 * 10 * 4)
    _, targets = lens.read(torch.randn(10, 8), 3)
    assert sum(calls) == 10
    assert targets is not None
    lens.restricted_kl(torch.randn(10, 8), targets)
    assert sum(calls) == 20


def test_bfloat16_reduces_in_float32() -> None:
    lens, hidden = make(5, 30)
    half = Lens(nn.RMSNorm(8).bfloat16(), lens.head.bfloat16(), 10**6)
    entropy, targets = half.read(hidden.bfloat16(), 4)
    assert entropy.dtype == torch.float32 and targets is not None
    leaf = torch.randn(5, 8, dtype=torch.bfloat16, requires_grad=True)
    kl = half.restricted_kl(leaf, targets)
    kl.sum().backward()
    assert kl.dtype == torch.float32 and leaf.grad is not None and leaf.grad.any()


def test_a_divergence_in_bfloat16_has_no_noise_of_the_head() -> None:
    torch.manual_seed(0)
    head = nn.Linear(64, 500, bias=False).requires_grad_(False)
    head.weight.data *= 30  # logits of the size that trained models have
    half = Lens(nn.Identity(), head.bfloat16(), 10**6)
    exact = Lens(nn.Identity(), copy.deepcopy(head).float(), 10**6)
    base = torch.randn(200, 64).bfloat16()
    policy = (base + 0.01 * torch.randn(200, 64)).bfloat16()
    _, targets = half.read(base, 50)
    assert targets is not None
    torch.testing.assert_close(half.restricted_kl(base, targets), torch.zeros(200))
    expected = naive_kl(exact, policy.float(), exact.read(base.float(), 50)[1])
    torch.testing.assert_close(half.restricted_kl(policy, targets), expected, rtol=0.02, atol=1e-5)
