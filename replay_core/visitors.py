"""Visitors that read entropies by the logit lens, and ways to join visitors.

A visitor gets the output of every decoder layer (`families.adapter.Visitor`); these return
nothing, and so change nothing. Axes: L layers, T positions, D hidden size.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from visreplay.replay_core.families.adapter import Visitor
from visreplay.replay_core.lens import Lens, Targets
from visreplay.replay_core.model_run import ActivationRecorder
from visreplay.replay_core.sketch import LensSketch, Sketch


class LensReader:
    """A visitor that applies the logit lens to every layer of a run.

    With a sketch, entropies are estimates until `settle` was called.
    """

    def __init__(
        self,
        lens: Lens,
        depth: int,
        *,
        top_k: int | None = None,
        keep_hidden: bool = False,
        sketch: LensSketch | None = None,
        view: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Prepare to read.

        Args:
            lens: The lens of the model that runs.
            depth: Number of layers to read.
            top_k: Also find this many most probable entries, for `targets`.
            keep_hidden: Also keep the activations themselves.
            sketch: Estimates the entropies; None reads them exactly.
            view: Maps the activations of a chunk to those to read instead.
        """
        self._lens = lens
        self._top_k = top_k
        self._sketch = sketch
        self._view = view
        self._entropy: list[list[Tensor]] = [[] for _ in range(depth)]
        self._targets: list[list[Targets]] = [[] for _ in range(depth)]
        self._recorder = ActivationRecorder(depth) if keep_hidden or sketch is not None else None
        self._joined: Tensor | None = None
        self._estimated: Tensor | None = None
        self._exact: Tensor | None = None

    def __call__(self, layer: int, rows: slice, hidden_TD: Tensor) -> None:
        """Read one layer for one chunk of positions."""
        hidden_TD = self._view(hidden_TD) if self._view else hidden_TD
        if self._sketch is None:
            entropy_T, targets = self._lens.read(hidden_TD, self._top_k)
            if targets is not None:
                self._targets[layer].append(targets)
        else:
            entropy_T = self._sketch.entropy(layer, hidden_TD)
        self._entropy[layer].append(entropy_T)
        if self._recorder is not None:
            self._recorder(layer, rows, hidden_TD)

    @property
    def entropy_LT(self) -> Tensor:
        """Entropies in nats."""
        if self._joined is None:
            self._joined = torch.stack([torch.cat(chunks) for chunks in self._entropy])
        return self._joined

    @property
    def hidden(self) -> list[Tensor]:
        """Activations `(T, D)`, layer by layer, if they were kept."""
        assert self._recorder is not None
        return self._recorder.hidden

    def hidden_at(self, layer: int, places: Tensor) -> Tensor:
        """Return the activations `(N, D)` of one layer at some positions."""
        assert self._recorder is not None
        hidden_TD = self._recorder.of(layer)
        return hidden_TD[places.to(hidden_TD.device)]

    def targets(self, chosen_LT: Tensor) -> list[Targets]:
        """Return the most probable entries of each layer, at its chosen positions."""
        if self._sketch is None:
            each = zip(self._targets, chosen_LT, strict=True)
            return [Targets.cat(chunks).select(chosen_T) for chunks, chosen_T in each]
        entries = []
        for layer, chosen_T in enumerate(chosen_LT):
            places = chosen_T.nonzero().flatten()
            _, targets = self._lens.read(self.hidden_at(layer, places), self._top_k)
            assert targets is not None
            entries.append(targets)
        return entries

    def settle(self, limits: Callable[[Tensor], Tensor], *, by_highest: bool) -> None:
        """Read exactly wherever the sketch's error could decide about a limit.

        Args:
            limits: Maps entropies `(L, T)` to the limits of each layer `(L,)`.
            by_highest: Whether the limit follows from the highest entropy, so that all candidates
                for the highest are read exactly too.
        """
        if self._sketch is None:
            return
        self._estimated = self.entropy_LT.clone()
        self._exact = torch.zeros_like(self.entropy_LT, dtype=torch.bool)
        margin_L1 = self._sketch.margin_L[: len(self.entropy_LT), None].to(self.entropy_LT)
        # Exact entropies move the limit, and with it the doubtful positions.
        doubt_LT = ~self._exact
        while doubt_LT.any():
            entropy_LT = self.entropy_LT
            doubt_LT = (entropy_LT - limits(entropy_LT)[:, None]).abs() <= margin_L1
            if by_highest:
                doubt_LT |= entropy_LT >= entropy_LT.amax(dim=1, keepdim=True) - margin_L1
            doubt_LT &= ~self._exact
            for layer, doubt_T in enumerate(doubt_LT):
                self.reread(layer, doubt_T.nonzero().flatten())

    def estimate(self, layer: int, places: Tensor) -> Tensor:
        """Return the sketch's estimates of one layer at some positions, in nats."""
        assert self._estimated is not None
        return self._estimated[layer, places]

    def reread(self, layer: int, places: Tensor) -> None:
        """Replace the sketch's estimates by exact entropies, at some positions."""
        assert self._exact is not None
        places = places[~self._exact[layer, places]]
        if len(places):
            exact_N, _ = self._lens.read(self.hidden_at(layer, places))
            self.entropy_LT[layer, places] = exact_N.to(self.entropy_LT.device)
            self._exact[layer, places] = True


class ConfidenceGate:
    """A visitor that finds where the base has a lower entropy than the plain policy (method B).

    The policy's entropy is computed at given positions only.
    """

    def __init__(
        self,
        lens: Lens,
        base: LensReader,
        among_LT: Tensor,
        sketch: Sketch | None = None,
    ) -> None:
        """Prepare to compare.

        Args:
            lens: The lens of the policy.
            base: The entropies of the base; with a sketch, its activations too.
            among_LT: The positions to compare.
            sketch: Estimates the difference, which is computed exactly only where it is within the
                sketch's error.
        """
        self.mask_LT = torch.zeros_like(among_LT)
        self._lens, self._base, self._among_LT, self._sketch = lens, base, among_LT, sketch

    def __call__(self, layer: int, rows: slice, hidden_TD: Tensor) -> None:
        """Compare one layer for one chunk of positions."""
        places = self._among_LT[layer, rows].nonzero().flatten() + rows.start
        if self._sketch is not None and len(places):
            places = self._doubtful(self._sketch, layer, places, rows.start, hidden_TD)
        if not len(places):
            return
        policy_N, _ = self._lens.read(hidden_TD[(places - rows.start).to(hidden_TD.device)])
        base_N = self._base.entropy_LT[layer, places]
        self.mask_LT[layer, places] = base_N < policy_N.to(base_N.device)

    def _doubtful(
        self, sketch: Sketch, layer: int, places: Tensor, start: int, hidden_TD: Tensor
    ) -> Tensor:
        """Decide where the sketch can; return where it cannot, with the base's entropies exact."""
        policy_ND = hidden_TD[(places - start).to(hidden_TD.device)]
        base_N = self._base.estimate(layer, places)
        gap_N = base_N - sketch.policy.entropy(layer, policy_ND).to(base_N.device)
        self.mask_LT[layer, places] = gap_N < 0
        doubtful = places[gap_N.abs() <= float(sketch.gap_margin_L[layer])]
        self._base.reread(layer, doubtful)
        return doubtful


def in_turn(*visitors: Visitor | None) -> Visitor:
    """Join visitors to one: each gets the activation as the ones before it have left it."""

    def visit(layer: int, rows: slice, hidden_TD: Tensor) -> Tensor:
        for visitor in visitors:
            replaced = visitor(layer, rows, hidden_TD) if visitor else None
            hidden_TD = hidden_TD if replaced is None else replaced
        return hidden_TD

    return visit


def read_only(visitor: Visitor) -> Visitor:
    """Wrap a visitor so that it changes nothing, whatever it returns."""

    def visit(layer: int, rows: slice, hidden_TD: Tensor) -> None:
        visitor(layer, rows, hidden_TD)

    return visit
