"""Activation Replay itself: which activations are low in entropy, and how to replay them.

Source: arXiv 2511.19972 and method.md. Axes: L the layers that are compared, T positions, D hidden
size, 3 rotary axes. Layer `l` always means the *output* of decoder layer `l`, of both models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visreplay.replay_core.adapters import ModelAdapter, Visitor
from visreplay.replay_core.cache import KVCache
from visreplay.replay_core.config import ReplayConfig, Threshold
from visreplay.replay_core.errors import OptimisationError
from visreplay.replay_core.lens import Lens, Targets


def entropy_limits(entropy_LT: Tensor, config: ReplayConfig) -> Tensor:
    """The entropy of each layer up to which a position counts as low.

    Args:
        entropy_LT: Base entropies of one visual block, in nats. One block at a time, so that a
            later picture cannot change what was replayed on an earlier one.
        config: The rule.

    Returns:
        `(L,)` in nats.
    """
    match config.threshold:
        case Threshold.RELATIVE:
            return config.tau * entropy_LT.amax(dim=1)
        case Threshold.QUANTILE:
            return entropy_LT.quantile(config.tau, dim=1)
        case Threshold.ABSOLUTE:
            return entropy_LT.new_tensor(config.limits[: len(entropy_LT)])


def low_entropy(entropy_LT: Tensor, config: ReplayConfig) -> Tensor:
    """The low-entropy set S of every layer (method A, step 2), as a mask `(L, T)`."""
    return entropy_LT <= entropy_limits(entropy_LT, config)[:, None]


class Reader:
    """A visitor that looks at every layer of a run through the logit lens."""

    def __init__(
        self, lens: Lens, depth: int, *, top_k: int | None = None, keep_hidden: bool = False
    ) -> None:
        """Prepare to read.

        Args:
            lens: Of the model that runs.
            depth: Number of layers to read.
            top_k: Also keep the most probable entries, as targets.
            keep_hidden: Also keep the activations themselves.
        """
        self._lens = lens
        self._top_k = top_k
        self._keep_hidden = keep_hidden
        self._entropy: list[list[Tensor]] = [[] for _ in range(depth)]
        self._targets: list[list[Targets]] = [[] for _ in range(depth)]
        self._hidden: list[list[Tensor]] = [[] for _ in range(depth)]

    def __call__(self, layer: int, rows: slice, hidden_TD: Tensor) -> None:
        """Read one layer for one chunk of positions."""
        entropy_T, targets = self._lens.read(hidden_TD, self._top_k)
        self._entropy[layer].append(entropy_T)
        if targets is not None:
            self._targets[layer].append(targets)
        if self._keep_hidden:
            self._hidden[layer].append(hidden_TD)

    @property
    def entropy_LT(self) -> Tensor:
        """Entropies in nats."""
        return torch.stack([torch.cat(chunks) for chunks in self._entropy])

    @property
    def targets(self) -> list[Targets]:
        """Most probable entries, layer by layer."""
        return [Targets.cat(chunks) for chunks in self._targets]

    @property
    def hidden(self) -> list[Tensor]:
        """Activations `(T, D)`, layer by layer."""
        return [torch.cat(chunks) for chunks in self._hidden]


class Divergence:
    """A visitor that measures how far a run is from the base on the low-entropy sets."""

    def __init__(self, lens: Lens, targets: Sequence[Targets], low_LT: Tensor) -> None:
        """Prepare to measure.

        Args:
            lens: Of the model that runs.
            targets: The base's most probable entries, layer by layer.
            low_LT: The sets S of every layer.
        """
        self.low_LT = low_LT
        self._lens = lens
        self._targets = targets
        self._sums: dict[int, Tensor] = {}

    def fresh(self) -> "Divergence":
        """The same measurement, not yet begun."""
        return Divergence(self._lens, self._targets, self.low_LT)

    def __call__(self, layer: int, rows: slice, hidden_TD: Tensor) -> None:
        """Add the divergence of one layer for one chunk of positions."""
        if layer >= len(self.low_LT):
            return
        chosen = self.low_LT[layer, rows].nonzero().flatten()
        if not len(chosen):
            return
        targets = self._targets[layer].select(chosen + rows.start)
        kl_N = self._lens.restricted_kl(hidden_TD[chosen.to(hidden_TD.device)], targets)
        self._sums[layer] = self._sums.get(layer, 0.0) + kl_N.sum()

    def means(self) -> Tensor:
        """Mean over S of every layer with a nonempty S, in nats, with gradient."""
        counts = self.low_LT.sum(dim=1)
        means = [total / counts[layer].to(total.device) for layer, total in self._sums.items()]
        return torch.stack(means) if means else torch.zeros(0)

    def mean(self) -> float | None:
        """Mean over those layers, in nats; None if there are none."""
        means = self.means()
        return float(means.mean()) if len(means) else None


def token_replay(
    policy: ModelAdapter,
    divergence: Divergence,
    embeds_TD: Tensor,
    positions_3T: Tensor,
    context: KVCache,
    config: ReplayConfig,
) -> tuple[Tensor, list[float]]:
    """Optimise an offset on one visual block's input embeddings (method A, steps 3 to 5).

    The only function of this package with gradients; they reach the offset and nothing else.

    Args:
        policy: The policy.
        divergence: From the base on its low-entropy sets; what is to become smaller.
        embeds_TD: The block's visual features.
        positions_3T: Its rotary positions.
        context: The policy's cache of everything before the block, earlier offsets included. It
            is read only: earlier offsets are frozen.
        config: Steps, step size and optimiser.

    Returns:
        The edited embeddings `(T, D)`, and the mean divergence in nats before every step.

    Raises:
        OptimisationError: the steps were too large, and led out of the finite numbers.
    """
    nonempty = divergence.low_LT.any(dim=1).nonzero().flatten()
    if config.steps == 0 or not len(nonempty):
        return embeds_TD, []
    # Layers above the last nonempty set have no part in the loss.
    context = context.frozen(int(nonempty[-1]) + 1)
    path = []
    with torch.enable_grad():
        # In float32 whatever the model's dtype: in bfloat16 most small steps would round away.
        delta_TD = torch.zeros_like(embeds_TD, dtype=torch.float32, requires_grad=True)
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[config.optimizer]
        optimizer = kind([delta_TD], lr=config.learning_rate)
        for _ in range(config.steps):
            divergence = divergence.fresh()
            edited_TD = (embeds_TD.float() + delta_TD).to(embeds_TD.dtype)
            policy.run(
                edited_TD,
                positions_3T,
                context,
                visit=divergence,
                recompute=config.recompute_activations,
            )
            means = divergence.means()
            optimizer.zero_grad()
            torch.autograd.backward(means.sum() / len(embeds_TD), inputs=[delta_TD])
            optimizer.step()
            path.append(means.detach().mean())
    edited_TD = (embeds_TD.float() + delta_TD.detach()).to(embeds_TD.dtype)
    kl_path = torch.stack(path).tolist()
    if not edited_TD.isfinite().all():
        raise OptimisationError(
            f"token replay diverged at learning rate {config.learning_rate} (mean divergence "
            f"{kl_path[0]:.4g} nats before the first step, {kl_path[-1]:.4g} before the last): "
            "choose a smaller one"
        )
    return edited_TD, kl_path


@dataclass(frozen=True)
class StateReplay:
    """A visitor that puts the base's activations in the policy's place (method B).

    The reference code decides on layer `l` by the entropy of its *output*, but then replaces its
    *input*, the output of layer `l - 1`. The published limits were measured on outputs, so here
    both the decision and the replacement concern the output of layer `l`.

    Attributes:
        base_hidden: The base's activations `(T, D)`, layer by layer.
        mask_LT: Where to replace.
    """

    base_hidden: Sequence[Tensor]
    mask_LT: Tensor

    @classmethod
    def of(cls, base: Reader, plain: Reader, limits_L: Tensor | None) -> "StateReplay":
        """Replace where the base is below the limit, and surer than the plain policy.

        Args:
            base: What the base did; its activations were kept.
            plain: What the unedited policy did.
            limits_L: Limits in nats; None replaces nothing.
        """
        entropy_LT = base.entropy_LT
        mask_LT = entropy_LT < plain.entropy_LT.to(entropy_LT.device)
        if limits_L is None:
            mask_LT = torch.zeros_like(mask_LT)
        else:
            mask_LT &= entropy_LT < limits_L.to(entropy_LT.device)[:, None]
        return cls(base.hidden, mask_LT)

    def __call__(self, layer: int, rows: slice, hidden_TD: Tensor) -> Tensor | None:
        """Replace one layer's activations for one chunk of positions."""
        if layer >= len(self.mask_LT):
            return None
        mask_T1 = self.mask_LT[layer, rows, None].to(hidden_TD.device)
        return torch.where(mask_T1, self.base_hidden[layer][rows].to(hidden_TD), hidden_TD)


def in_turn(*visitors: Visitor | None) -> Visitor:
    """One visitor out of several: each sees what the ones before it made of the activation."""

    def visit(layer: int, rows: slice, hidden_TD: Tensor) -> Tensor:
        for visitor in visitors:
            replaced = visitor(layer, rows, hidden_TD) if visitor else None
            hidden_TD = hidden_TD if replaced is None else replaced
        return hidden_TD

    return visit
