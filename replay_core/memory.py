"""The memory of token replay's gradient, and what happens when memory runs out.

The way back through the decoder needs activations of the way forth. How many bytes are kept for it
follows from the sizes of the model; `benchmarks/memory_counted.py` counts them through autograd.
"""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from visreplay.replay_core.errors import MemoryExhaustedError, ReplayError
from visreplay.replay_core.families.adapter import ModelAdapter

SHARE = 0.5
"""Share of a device's free memory that may be kept; the way back itself needs some, too."""

FLOAT32 = 4
"""Bytes of a number in the copies that the norms of a decoder layer make."""


def kept_bytes(adapter: ModelAdapter, *, recompute: bool) -> int:
    """Compute the bytes that are kept for the way back, for one token and decoder layer.

    Without recomputation these are the inner activations of a layer whose weights are frozen: the
    float32 copies of its two norms; queries, keys and values for every head, and the attention's
    output; and three activations of the gated feed-forward network. With it, only the input of
    the layer is kept. Both add the gradient of the divergence at a chosen position.

    Args:
        adapter: The model.
        recompute: Whether activations are computed again.
    """
    config, number = adapter.text_config, int(adapter.model.dtype.itemsize)
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    query = heads * int(getattr(config, "head_dim", None) or hidden // heads)
    inner = 2 * FLOAT32 * hidden + number * (4 * query + 3 * int(config.intermediate_size))
    return (number * hidden if recompute else inner) + number * hidden


def recomputes(
    setting: bool | Literal["auto"], adapter: ModelAdapter, positions: int, layers: range
) -> bool:
    """Decide whether the optimisation of a block computes activations again.

    No result depends on it.

    Args:
        setting: The setting; "auto" recomputes where the activations that would be kept exceed
            `SHARE` of the free memory of a device.
        adapter: The policy.
        positions: Number of positions of the block.
        layers: The decoder layers that the gradient passes.
    """
    if setting != "auto":
        return setting
    decoder = adapter.language_model.layers
    layers_on = Counter(next(decoder[layer].parameters()).device for layer in layers)
    each = positions * kept_bytes(adapter, recompute=False)
    for device, count in layers_on.items():
        free = free_bytes(device)
        if free is not None and each * count > SHARE * free:
            return True
    return False


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that can still be allocated on a device; None if that is not known."""
    if device.type == "cuda" and torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info(device)
        # The allocator of torch keeps what it once got.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    if device.type == "cpu":
        return _available()
    return None


def _available() -> int | None:
    """Read the memory that Linux could give to a process without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(sizes[0]) * 1024 if sizes else None


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn the errors of torch that mean too little memory into one of this package.

    Raises:
        MemoryExhaustedError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, ReplayError) or not _is_exhaustion(error):
            raise
        # The frames of the failed call hold its tensors, and would as long as the error is held.
        traceback.clear_frames(error.__traceback__)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no memory"
        raise MemoryExhaustedError(
            f"memory ran out ({reason}): compute activations again (recompute_activations=True, "
            "--recompute on), replay states instead (method 'state', --replay state), use smaller "
            "images (max_pixels) or smaller chunks (memory_bytes, query_chunk), or put the base on "
            "another device (base_device)"
        ) from None


def _is_exhaustion(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU, Apple's GPUs and cuBLAS raise a RuntimeError without a class of its own.
    text = str(error)
    signs = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return any(sign in text for sign in signs)
