"""What token replay minimises: visitors that measure a run, with gradient.

An objective belongs to one visual block, and has a mean per layer. Axes: L layers, T positions of
the block, N chosen positions of a layer, D hidden size.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from typing import Self

import torch
from torch import Tensor

from visreplay.replay_core.families.adapter import Features
from visreplay.replay_core.lens import Lens, Targets


class Objective(ABC):
    """A visitor that measures the chosen positions of every layer.

    Attributes:
        chosen_LT: The chosen positions; a layer without any is left out.
        lag: How many layers the model's activations lie below those that they are measured
            against: 0 for outputs of layers, 1 for their inputs.
    """

    def __init__(self, chosen_LT: Tensor, lag: int = 0) -> None:
        """Prepare to measure."""
        self.chosen_LT = chosen_LT
        self.lag = lag
        # Once, so that no step has to wait for a device to count.
        self._places = [chosen_T.nonzero().flatten() for chosen_T in chosen_LT.cpu()]
        self._sums: dict[int, Tensor] = {}

    @property
    def depth(self) -> int:
        """Number of first decoder layers that have to run; 0 if there is nothing to measure."""
        highest = max((layer for layer, each in enumerate(self._places) if len(each)), default=-1)
        return max(0, highest + 1 - self.lag)

    @property
    def empty(self) -> bool:
        """Whether no position of any layer was chosen."""
        return not any(len(each) for each in self._places)

    @property
    def upscale(self) -> int:
        """Factor under which the loss is about a sum over positions instead of a mean.

        A mean over thousands of tokens would vanish in a half-precision model on its way back.
        """
        return self.chosen_LT.shape[1] * max(map(len, self._places), default=0)

    def fresh(self) -> Self:
        """Return the same measurement, not yet begun."""
        twin = copy(self)
        twin._sums = {}
        return twin

    def enter(self, features: Features) -> None:
        """Measure what enters the first layer, where inputs are measured."""
        self(-1, slice(0, len(features)), features.embeds_TD)

    def __call__(self, layer: int, rows: slice, hidden_TD: Tensor) -> None:
        """Measure the output of one layer (-1: the input of the first) for a chunk of positions."""
        layer += self.lag
        if not 0 <= layer < len(self._places):
            return
        places_N = self._places[layer]
        bounds = torch.tensor([rows.start, rows.stop])
        first, last = torch.searchsorted(places_N, bounds).tolist()
        if first == last:
            return
        here_N = (places_N[first:last] - rows.start).to(hidden_TD.device)
        total = self._measure(layer, slice(first, last), hidden_TD[here_N])
        self._sums[layer] = self._sums.get(layer, 0.0) + total

    @abstractmethod
    def _measure(self, layer: int, chosen: slice, hidden_ND: Tensor) -> Tensor:
        """Sum up the measurement of some of a layer's chosen positions, with gradient.

        Args:
            layer: The layer that they are measured against.
            chosen: Which of the layer's chosen positions they are.
            hidden_ND: The activations there.
        """

    def loss(self) -> Tensor:
        """Compute what is minimised: the means of the layers, summed up, divided by T."""
        return self.means().sum() / self.chosen_LT.shape[1]

    def means(self) -> Tensor:
        """Compute the mean of every layer with a chosen position, with gradient."""
        means = [total / len(self._places[layer]) for layer, total in self._sums.items()]
        return torch.stack(means) if means else torch.zeros(0)

    def mean(self) -> float | None:
        """Compute the mean over those layers; None if there are none."""
        means = self.means()
        return float(means.mean()) if len(means) else None


class Divergence(Objective):
    """The divergence of a run from the base, in nats (method.md, method A, step 4)."""

    def __init__(
        self, lens: Lens, targets: Sequence[Targets], chosen_LT: Tensor, lag: int = 0
    ) -> None:
        """Prepare to measure.

        Args:
            lens: The lens of the model that runs.
            targets: The base's most probable entries at the chosen positions, layer by layer.
            chosen_LT: The sets S of every layer.
            lag: As in `Objective`.
        """
        super().__init__(chosen_LT, lag)
        self._lens = lens
        self._targets = [each.to(lens.head.weight.device) for each in targets]

    def _measure(self, layer: int, chosen: slice, hidden_ND: Tensor) -> Tensor:
        targets = self._targets[layer].select(chosen)
        return self._lens.restricted_kl(hidden_ND, targets).sum()


class WindowVariance(Objective):
    """The variance of the logits within windows of 3 x 3 tokens (the paper's local smoothing).

    Windows do not overlap; at the edge of the grid they are smaller. The variance is averaged
    over the vocabulary and over the tokens. Whether the released code divides by the members of a
    window or by one fewer is not known here.

    For the logits `W x` of normed activations x, the sum of the squared deviations over the
    vocabulary is `d^T (W^T W) d` for the deviation d of x from its window's mean, so that no
    logits are needed.
    """

    def __init__(
        self, lens: Lens, grid_thw: tuple[int, int, int], chosen_LT: Tensor, lag: int = 0
    ) -> None:
        """Prepare to measure.

        Args:
            lens: The lens of the model that runs.
            grid_thw: Visual tokens in time, height and width.
            chosen_LT: All positions of the layers to measure.
            lag: As in `Objective`.
        """
        super().__init__(chosen_LT, lag)
        self._lens = lens
        self._gram_DD = lens.gram
        self._window_T = _windows(grid_thw)
        self._chunks: dict[int, list[Tensor]] = {}

    def fresh(self) -> Self:
        """Return the same measurement, not yet begun."""
        twin = super().fresh()
        twin._chunks = {}
        return twin

    @property
    def upscale(self) -> int:
        """As in `Objective`: here the loss is divided by the tokens once."""
        return self.chosen_LT.shape[1]

    def loss(self) -> Tensor:
        """Compute what is minimised: the means of the layers, summed up."""
        return self.means().sum()

    def _measure(self, layer: int, chosen: slice, hidden_ND: Tensor) -> Tensor:
        # A window may reach into the next chunk.
        chunks = self._chunks.setdefault(layer, [])
        chunks.append(hidden_ND)
        if chosen.stop < len(self._window_T):
            return self._gram_DD.new_zeros(())
        normed_TD = self._lens.norm(torch.cat(chunks)).to(self._gram_DD)
        window_T = self._window_T.to(normed_TD.device)
        sums_WD = normed_TD.new_zeros(int(self._window_T.max()) + 1, normed_TD.shape[1])
        counts_W = window_T.bincount()
        means_WD = sums_WD.index_add(0, window_T, normed_TD) / counts_W[:, None]
        deviation_TD = normed_TD - means_WD[window_T]
        spread_T = torch.linalg.vecdot(deviation_TD @ self._gram_DD, deviation_TD)
        total: Tensor = spread_T.sum() / self._lens.head.out_features
        return total


def _windows(grid_thw: tuple[int, int, int]) -> Tensor:
    """Number the window of every token, `(T,)`."""
    _, rows, columns = grid_thw
    across = -(-columns // 3)
    per_step = -(-rows // 3) * across
    t, row, column = torch.meshgrid(*map(torch.arange, grid_thw), indexing="ij")
    return (t * per_step + (row // 3) * across + column // 3).flatten()
