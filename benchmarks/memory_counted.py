"""Count the memory of token replay at 7B: `python benchmarks/memory_counted.py`.

Two tables. The first counts what autograd keeps for the gradient, on one and on two decoder layers
of a 7B model with random weights, through the hooks of saved tensors: no estimate, and the same on
every device. The second adds up a whole pair for images of several sizes, from the sizes of its
weights and `kept_bytes`; `tests/benchmarks/test_memory_counted.py` compares that with the counts.

The first table takes some minutes; `estimate` behind it prints the second alone.
"""

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from weakref import WeakSet

import torch
from memory import resident, sampled_peak
from sizes import SEVEN_B, Sizes, meta_pair
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import Qwen2_5_VLForConditionalGeneration

from visreplay.replay_core import ModelAdapter, ReplayConfig
from visreplay.replay_core.cache import KVCache
from visreplay.replay_core.families.adapter import Features
from visreplay.replay_core.families.registry import adapter_for
from visreplay.replay_core.lens import Lens, Targets
from visreplay.replay_core.memory import kept_bytes
from visreplay.replay_core.objectives import Divergence

GIB = 2**30

WAY_BACK = 1.25
"""Memory of the gradients inside a layer, as a share of its inner activations.

`way_back` measures 1.1.
"""

CONTEXT = 32
"""Text tokens before the image."""

TOKENS = (640, 4096, 8192, 12_288, 16_384)
"""Visual tokens of an image: the budget of MM-Eureka up to that of Qwen2.5-VL."""


@dataclass(frozen=True)
class Kept:
    """What is kept for the gradient.

    Attributes:
        bytes: All of it but weights, masks and the context.
        masks: Bytes of attention masks: tensors of T x S entries.
    """

    bytes: int
    masks: int


class _Packed:
    """A tensor that autograd keeps; it goes when autograd lets it go."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def kept(forward: Callable[[], Tensor], ignored: set[int]) -> list[Tensor]:
    """Run forward, and list the tensors that autograd keeps then, one for each storage.

    Args:
        forward: Computes a loss.
        ignored: Addresses of storages to leave out.
    """
    packed: WeakSet[_Packed] = WeakSet()

    def pack(tensor: Tensor) -> _Packed:
        one = _Packed(tensor)
        packed.add(one)
        return one

    with saved_tensors_hooks(pack, lambda one: one.tensor):
        loss = forward()
        storages = {one.tensor.untyped_storage().data_ptr(): one.tensor for one in packed}
    del loss
    return [tensor for at, tensor in storages.items() if at not in ignored]


def decoder(layers: int, sizes: Sizes = SEVEN_B) -> ModelAdapter:
    """Make the first layers of a model in bfloat16, with a small vocabulary and vision tower."""
    small = replace(sizes, layers=layers, vision_layers=1, vocabulary=512)
    torch.manual_seed(0)
    return adapter_for(
        Qwen2_5_VLForConditionalGeneration._from_config(small.config(), dtype=torch.bfloat16)
    )


def count(adapter: ModelAdapter, tokens: int, *, recompute: bool) -> Kept:
    """Count what one step of token replay keeps, with every position in every set S.

    Args:
        adapter: The policy.
        tokens: Number T of visual tokens.
        recompute: As `ReplayConfig.recompute_activations`.
    """
    layers = adapter.depth
    context = KVCache(layers)
    with torch.no_grad():
        words = adapter.embed(torch.arange(CONTEXT))
        adapter.run(words, adapter.text_positions(CONTEXT, 0), context)
    top_k = ReplayConfig().top_k
    log_probs_NK = torch.zeros(tokens, top_k).log_softmax(-1)
    targets = Targets(torch.arange(top_k).expand(tokens, -1).int(), log_probs_NK)
    chosen_LT = torch.ones(layers, tokens, dtype=torch.bool)
    lens = Lens(adapter.norm, adapter.head, ReplayConfig().memory_bytes)
    embeds_TD = torch.randn(tokens, adapter.text_config.hidden_size, dtype=adapter.model.dtype)
    embeds_TD.requires_grad_()

    def forward() -> Tensor:
        divergence = Divergence(lens, [targets] * layers, chosen_LT)
        adapter.run(
            Features(embeds_TD),
            adapter.text_positions(tokens, CONTEXT),
            context.frozen(layers),
            visit=divergence,
            recompute=recompute,
        )
        return divergence.means().sum()

    weights = {weight.untyped_storage().data_ptr() for weight in adapter.model.parameters()}
    tensors = kept(forward, weights)
    masks = [each for each in tensors if tuple(each.shape[-2:]) == (tokens, tokens + CONTEXT)]
    masks_bytes = sum(each.untyped_storage().nbytes() for each in masks)
    total = sum(each.untyped_storage().nbytes() for each in tensors)
    return Kept(total - masks_bytes, masks_bytes)


def way_back(adapter: ModelAdapter, tokens: int) -> float:
    """Measure the memory that the way back through one layer takes above what was kept for it.

    Args:
        adapter: A model of one layer, on the CPU.
        tokens: Number of visual tokens.

    Returns:
        The resident peak of the process, as a share of the layer's inner activations, and less
        those, which are computed again.
    """
    embeds_TD = torch.randn(tokens, adapter.text_config.hidden_size, dtype=adapter.model.dtype)
    features = Features(embeds_TD.requires_grad_())
    positions_3T = adapter.text_positions(tokens, 0)
    loss = adapter.run(features, positions_3T, KVCache(1).frozen(1), recompute=True).sum()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident()
    with sampled_peak() as peak:
        loss.backward()
    return (peak[0] - before) * 1e9 / (tokens * inner_bytes(adapter)) - 1


def inner_bytes(adapter: ModelAdapter) -> int:
    """Compute the bytes of a layer's inner activations for one token."""
    both = kept_bytes(adapter, recompute=False), kept_bytes(adapter, recompute=True)
    layer_input = int(adapter.model.dtype.itemsize * adapter.text_config.hidden_size)
    return both[0] - both[1] + layer_input


@dataclass(frozen=True)
class Estimate:
    """Bytes that token replay of one image takes in all, at its peak.

    Attributes:
        weights: Policy, and the layers of the base.
        caches: Keys and values of both, and the policy's last outputs, with their spare room.
        kept: What is kept for the gradient, with every position in every set S.
        one_layer: The layer that the way back is in: its gradients, and with recomputation its
            inner activations.
        offset: The offset, its gradient, Adam's two moments, and the sum with the embeddings.
        others: Features, the base's targets, and two chunks of logits.
    """

    weights: int
    caches: int
    kept: int
    one_layer: int
    offset: int
    others: int

    @property
    def total(self) -> int:
        """The sum."""
        return sum(vars(self).values())


@cache
def model(sizes: Sizes) -> ModelAdapter:
    """Make a model in bfloat16 that has no memory, on the meta device."""
    return meta_pair(sizes).policy


def weights(sizes: Sizes, layers: int, *, shared: bool) -> int:
    """Count the bytes of the weights of a policy and its base.

    Args:
        sizes: The sizes of both models.
        layers: Number of the base's layers.
        shared: Whether embedding, head and vision tower of the policy are those of the base.
    """
    decoder_layers = model(sizes).language_model.layers
    policy, all_layers, first_layers = (
        sum(weight.nbytes for weight in part.parameters())
        for part in (model(sizes).model, decoder_layers, decoder_layers[:layers])
    )
    return int(policy + first_layers + (0 if shared else policy - all_layers))


def estimate(
    tokens: int,
    *,
    sizes: Sizes = SEVEN_B,
    config: ReplayConfig = ReplayConfig(),
    recompute: bool = True,
    shared: bool = False,
) -> Estimate:
    """Add up the memory of token replay of one image, in bfloat16 and without a mask.

    Not in it: what the allocator wastes, the libraries of CUDA, and the vision tower at work,
    which has ended before the optimisation begins and takes less.

    Args:
        tokens: Number of visual tokens.
        sizes: The sizes of both models.
        config: The settings of token replay.
        recompute: Whether activations are computed again.
        shared: As in `weights`.
    """
    policy, layers = model(sizes), config.replay_layers
    number, wide = policy.model.dtype.itemsize, sizes.hidden
    cached = 2 * number * sizes.kv_heads * wide // sizes.heads * (sizes.layers + layers)
    inner = inner_bytes(policy)
    return Estimate(
        weights=weights(sizes, layers, shared=shared),
        caches=tokens * (cached + number * wide) * 9 // 8,
        kept=tokens * layers * kept_bytes(policy, recompute=recompute),
        one_layer=int(tokens * inner * (WAY_BACK + recompute)),
        offset=tokens * wide * 4 * 6,
        others=tokens * (2 * number * wide + 2 * layers * config.top_k * 8)
        + 2 * config.memory_bytes,
    )


def counted_table() -> Iterator[str]:
    """Make the table of counts, in KiB a token and layer."""
    yield "| visual tokens | recomputation | one layer | a layer more | masks, a layer |"
    yield "| --- | --- | --- | --- | --- |"
    adapters = {layers: decoder(layers) for layers in (1, 2)}
    for tokens in (512, 1024, 2048):
        for recompute in (False, True):
            one, two = (count(adapters[layers], tokens, recompute=recompute) for layers in (1, 2))
            cells = (one.bytes, two.bytes - one.bytes, two.masks - one.masks)
            kib = " | ".join(f"{cell / tokens / 1024:.1f}" for cell in cells)
            yield f"| {tokens:,} | {'on' if recompute else 'off'} | {kib} |"


def estimated_table() -> Iterator[str]:
    """Make the table of estimates, in GiB."""
    yield "| visual tokens | kept | all shared | nothing shared | kept, off | nothing shared, off |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for tokens in TOKENS:
        on = estimate(tokens)
        off = estimate(tokens, recompute=False)
        shared = estimate(tokens, shared=True)
        cells = (on.kept, shared.total, on.total, off.kept, off.total)
        yield f"| {tokens:,} | " + " | ".join(f"{cell / GIB:.1f}" for cell in cells) + " |"


def main() -> None:
    """Print the tables."""
    if "estimate" not in sys.argv:
        print(*counted_table(), sep="\n", end="\n\n")
        shares = ", ".join(f"{way_back(decoder(1), tokens):.2f}" for tokens in (512, 1024))
        print(f"The way back takes {shares} of a layer (512, 1,024 tokens).", end="\n\n")
    print(*estimated_table(), sep="\n")


if __name__ == "__main__":
    main()
