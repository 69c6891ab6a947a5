"""The FLOPs of token replay of one image, by the authors' code and by ours, at any proportions.

The parts are counted on the meta device, because 7B models do not fit everywhere, and put together
here. `tests/benchmarks/test_costs.py` runs both sides on small models on a CPU, and holds these
sums to within 5 % of what torch counts there. The authors' side is their released code: it compares
the policy's input of layer l, so that gradients go back through one layer less than ours.

Axes: L replayed layers, N visual tokens, T context, n positions of a set, D hidden size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import divergence
import torch
from rows import Row, short
from sizes import SEVEN_B, Sizes, meta_pair
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from visreplay.replay_core import ReplayConfig
from visreplay.replay_core.cache import KVCache
from visreplay.replay_core.families.adapter import Features, ModelAdapter, Visitor
from visreplay.replay_core.lens import Lens, Targets

REFERENCE_STEPS = divergence.STEPS


def count(work: Callable[[], Any]) -> float:
    """Count the FLOPs of a function call."""
    # torch has no formula for the fused attention of the CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def embeds(adapter: ModelAdapter, tokens: int) -> Tensor:
    """Make input embeddings `(T, D)`."""
    return adapter.embed(torch.zeros(tokens, dtype=torch.long)).embeds_TD


def run(
    adapter: ModelAdapter, embeds_TD: Tensor, cache: KVCache, visit: Visitor | None = None
) -> Tensor:
    """Run as many decoder layers as the cache has."""
    positions_3T = adapter.text_positions(len(embeds_TD), cache.length)
    return adapter.run(Features(embeds_TD), positions_3T, cache, visit=visit)


@cache
@torch.no_grad()
def tower_flops(sizes: Sizes, height: int, width: int) -> float:
    """Count a run of the vision tower over an image of so many visual tokens."""
    tower = meta_pair(sizes).policy.model.model.visual
    merge = tower.spatial_merge_size
    grid = torch.tensor([[1, merge * height, merge * width]])
    # The lengths of the windows must be numbers, everything else is on the meta device.
    index, lengths = get_vision_window_index(grid, merge, tower.window_size, tower.patch_size)
    places = {
        "position_ids": get_vision_position_ids(grid, merge).to("meta"),
        "window_index": index.to("meta"),
        "cu_window_seqlens": lengths,
    }
    channels = 3 * 2 * tower.patch_size**2
    pixels = torch.empty(int(grid.prod()), channels, dtype=tower.dtype, device="meta")
    return count(lambda: tower(pixels, grid_thw=grid, **places))


@cache
@torch.no_grad()
def layer_flops(sizes: Sizes, tokens: int, depth: int) -> float:
    """Count the first decoder layers over some tokens."""
    adapter = meta_pair(sizes).policy
    return count(lambda: run(adapter, embeds(adapter, tokens), KVCache(depth)))


@cache
def way_back_flops(sizes: Sizes, tokens: int, depth: int) -> float:
    """Count the gradient of the input embeddings alone, through the first decoder layers."""
    if not depth:
        return 0.0
    adapter = meta_pair(sizes).policy
    leaf_TD = embeds(adapter, tokens).requires_grad_()
    output_TD = run(adapter, leaf_TD, KVCache(depth))
    return count(lambda: torch.autograd.grad(output_TD.sum(), leaf_TD))


@dataclass(frozen=True)
class Case:
    """One image in its context.

    Attributes:
        sizes: The sizes of the models; `side` means nothing here.
        height: Height of the image in visual tokens.
        width: The same of its width.
        text: Number of text tokens, of which half come before the image.
        share: Size of each set, as a share of the visual tokens.
        shares_vision: Whether both models have the same vision tower, so that ours runs it once.
    """

    sizes: Sizes
    height: int
    width: int
    text: int
    share: float
    shares_vision: bool = False

    @property
    def visual(self) -> int:
        """N."""
        return self.height * self.width

    @property
    def context(self) -> int:
        """T."""
        return self.visual + self.text

    @property
    def chosen(self) -> int:
        """The number of positions in each set, n."""
        return round(self.share * self.visual)

    def __str__(self) -> str:
        """Name the proportions."""
        return (
            f"{self.visual:,} + {self.text} tokens, {self.sizes.replay_layers} layers, "
            f"sets of {self.share:.0%}"
        )


class Costs(ABC):
    """The FLOPs of one case; subclasses say of which side."""

    def __init__(self, case: Case) -> None:
        """Count nothing yet."""
        self.case, self.depth = case, case.sizes.replay_layers

    @property
    @abstractmethod
    def preparation(self) -> float:
        """Everything before the first step."""

    @property
    @abstractmethod
    def step(self) -> float:
        """One step of the optimisation."""

    @property
    @abstractmethod
    def prefill(self) -> float:
        """Everything after the last step, up to the next token's logits."""

    def image(self, steps: int) -> float:
        """Everything for one image."""
        return self.preparation + steps * self.step + self.prefill

    @property
    def row(self) -> float:
        """The product of one position with the LM head, forward or back."""
        return 2.0 * self.case.sizes.hidden * self.case.sizes.vocabulary

    @property
    def tower(self) -> float:
        """One run of the vision tower."""
        return tower_flops(self.case.sizes, self.case.height, self.case.width)

    @property
    def all_layers(self) -> float:
        """All decoder layers over the whole context."""
        return layer_flops(self.case.sizes, self.case.context, self.case.sizes.layers)


class ReferenceCosts(Costs):
    """The authors' code; `reference.py` has the table of its LM head's rows."""

    @property
    def preparation(self) -> float:
        """The base's whole pass, and entropies at every position of every replayed layer."""
        return self.tower + self.all_layers + self.row * self.case.context * (1 + self.depth)

    @cached_property
    def step(self) -> float:
        """A whole pass, the loss, and the way back through the LM head and the layers."""
        rows = self.case.context + 3 * self.case.chosen * self.depth
        # From the *input* of the last replayed layer.
        back = way_back_flops(self.case.sizes, self.case.context, self.depth - 1)
        return self.tower + self.all_layers + back + self.row * rows

    @property
    def prefill(self) -> float:
        """A whole pass, one position's logits, and the loss once more."""
        rows = 1 + 2 * self.case.chosen * self.depth
        return self.tower + self.all_layers + self.row * rows


class OurCosts(Costs):
    """Our code, with the same sets. Activations are kept, not computed again."""

    def __init__(self, case: Case, config: ReplayConfig | None = None) -> None:
        """Count nothing yet.

        Args:
            case: The proportions.
            config: Our settings, of which `top_k` and `memory_bytes` count here.
        """
        super().__init__(case)
        self.config = config or ReplayConfig()
        self.adapter = adapter = meta_pair(case.sizes).policy
        self.lens = Lens(adapter.norm, adapter.head, self.config.memory_bytes)

    @cached_property
    def preparation(self) -> float:
        """The vision towers, the base's first layers, and its entropies at the visual tokens."""
        towers = 1 if self.case.shares_vision else 2
        layers = layer_flops(self.case.sizes, self.case.context, self.depth)
        return towers * self.tower + layers + self.depth * self._entropies()

    @cached_property
    def step(self) -> float:
        """The replayed layers over the image, on the cache of the text before it, and back."""
        context = KVCache(self.depth)
        with torch.no_grad():
            run(self.adapter, embeds(self.adapter, self.case.text // 2), context)
        embeds_TD, totals = embeds(self.adapter, self.case.visual), list[Tensor]()

        def visit(layer: int, rows: slice, hidden_TD: Tensor) -> None:
            totals.append(self._kl(hidden_TD).sum())

        def there_and_back() -> None:
            leaf_TD = embeds_TD.clone().requires_grad_()
            run(self.adapter, leaf_TD, context.frozen(self.depth), visit)
            torch.autograd.grad(torch.stack(totals).sum(), leaf_TD)

        return count(there_and_back)

    @cached_property
    def prefill(self) -> float:
        """All layers over the whole context, one position's logits, and the divergence."""
        divergence = count(lambda: self._kl(embeds(self.adapter, self.case.visual)))
        return self.all_layers + self.row + self.depth * divergence

    @torch.no_grad()
    def _entropies(self) -> float:
        """Count the entropies and the top entries of one layer."""
        hidden_TD = embeds(self.adapter, self.case.visual)
        return count(lambda: self.lens.read(hidden_TD, self.config.top_k))

    def _kl(self, hidden_TD: Tensor) -> Tensor:
        """Compute the divergence at the positions of a set."""
        top_k = min(self.config.top_k, self.case.sizes.vocabulary)
        ids_NK = torch.zeros(self.case.chosen, top_k, dtype=torch.int, device="meta")
        targets = Targets(ids_NK, torch.empty(ids_NK.shape, device="meta"))
        return self.lens.restricted_kl(hidden_TD[: self.case.chosen], targets)


BENCH = Case(Sizes(), height=20, width=20, text=32, share=0.4, shares_vision=True)
SMALL_7B = Case(SEVEN_B, height=32, width=20, text=250, share=0.4)
LARGE_7B = Case(replace(SEVEN_B, replay_layers=24), height=40, width=32, text=400, share=0.4)
SHARES = (0.1, 0.4, 0.8)


def rows() -> Iterator[Row]:
    """Compare the FLOPs of a step, and of an image with the default number of steps of ours."""
    yield from _rows("FLOPs at the timed sizes", BENCH, enough=divergence.steps_enough())
    for case in (SMALL_7B, LARGE_7B):
        for share in SHARES:
            published = case is SMALL_7B and share == case.share
            yield from _rows(
                "FLOPs at 7B",
                replace(case, share=share),
                target=8 if published else None,
                enough=divergence.steps_enough() if share == case.share else None,
            )


def _rows(
    name: str, case: Case, target: float | None = None, enough: int | None = None
) -> Iterator[Row]:
    theirs, ours, steps = ReferenceCosts(case), OurCosts(case), ReplayConfig().steps
    name = f"{name}, {case}"
    yield _row(f"{name}: a step", theirs.step, ours.step)
    image = theirs.image(REFERENCE_STEPS)
    what = f"{name}: an image, authors' {REFERENCE_STEPS} steps / our default"
    yield _row(what, image, ours.image(steps), target, f", at most {steps} steps")
    if enough is not None:
        note = f", {enough} {'step' if enough == 1 else 'steps'}"
        what = f"{name}: an image, until the authors' divergence"
        yield _row(what, image, ours.image(enough), note=note)


def _row(name: str, theirs: float, ours: float, target: float | None = None, note: str = "") -> Row:
    ratio = theirs / ours
    amounts = f"{short(theirs / 1e12)} / {short(ours / 1e12)} TFLOP{note}"
    return Row(name, ratio, ratio, ratio, target, note=amounts)
