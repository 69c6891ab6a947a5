"""Activation Replay: an offset on visual tokens, or the base's activations in the policy.

Source: arXiv 2511.19972 and method.md. Axes: L the layers that are compared, T positions, D hidden
size, 3 rotary axes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from visreplay.replay_core.cache import KVCache
from visreplay.replay_core.config import ReplayConfig
from visreplay.replay_core.errors import OptimisationError
from visreplay.replay_core.families.adapter import Features, ModelAdapter, Visitor
from visreplay.replay_core.objectives import Objective
from visreplay.replay_core.visitors import in_turn


@dataclass(frozen=True, eq=False)
class Offset:
    """The offset that token replay adds to one visual block.

    Attributes:
        delta_TD: The offset in float32.
        layer: Where it enters: 0 is the input embedding, l the output of decoder layer `l - 1`.
    """

    delta_TD: Tensor
    layer: int

    def on(self, features: Features) -> Features:
        """Add the offset to the block's features, if it enters there."""
        if self.layer:
            return features
        return replace(features, embeds_TD=_add(features.embeds_TD, self.delta_TD))

    @property
    def visitor(self) -> Visitor | None:
        """A visitor that adds the offset; None if it is in the embeddings already."""
        return self._enter if self.layer else None

    def _enter(self, layer: int, rows: slice, hidden_TD: Tensor) -> Tensor | None:
        if layer != self.layer - 1:
            return None
        return _add(hidden_TD, self.delta_TD[rows].to(hidden_TD.device))


def token_replay(
    policy: ModelAdapter,
    objective: Objective,
    features: Features,
    positions_3T: Tensor,
    context: KVCache,
    config: ReplayConfig,
    redraw: Callable[[], Features] | None = None,
) -> tuple[Offset, list[float]]:
    """Optimise an offset on one visual block (method A, steps 3 to 5).

    The only function of this package with gradients, which reach the offset alone.

    Args:
        policy: The policy.
        objective: What is minimised: the divergence from the base on its low-entropy sets.
        features: The block's features for the policy.
        positions_3T: Its rotary positions.
        context: The policy's cache of everything before the block, earlier offsets included. It
            is not changed: earlier offsets are frozen.
        config: Steps, step size, optimiser, and where the offset enters.
        redraw: Makes other features for every step; None takes `features` for all.

    Returns:
        The offset, and the mean of the objective before every step (a divergence, in nats).
        Without steps, or with nothing to compare, the offset is zero and there is no path.

    Raises:
        OptimisationError: the steps were too large, and the offset is not finite.
    """
    # In float32 whatever the model's dtype: in bfloat16 most small steps would round away.
    delta_TD = torch.zeros_like(features.embeds_TD, dtype=torch.float32)
    if config.steps == 0 or objective.empty:
        return Offset(delta_TD, config.entry_layer), []
    # Layers above the last one that is compared have no part in the loss.
    context = context.frozen(objective.depth)
    offset = Offset(delta_TD.requires_grad_(), config.entry_layer)
    scale = 1.0
    if config.optimizer == "adam":
        scale = _scale_at_entry(policy, features, positions_3T, context, config.entry_layer)
    optimizer: torch.optim.Optimizer | None = None
    upscale = objective.upscale
    path: list[Tensor] = []
    with torch.enable_grad():
        for _ in range(config.steps):
            objective = objective.fresh()
            seen = offset.on(redraw() if redraw else features)
            objective.enter(seen)
            policy.run(
                seen,
                positions_3T,
                context,
                visit=in_turn(offset.visitor, objective),
                recompute=config.recompute_activations,
            )
            mean = objective.means().detach().mean()
            # Two steps: the first one, at Adam's full rate, may overshoot.
            if config.plateau and len(path) > 1 and mean > (1 - config.plateau) * path[-2]:
                break
            delta_TD.grad = None
            torch.autograd.backward(upscale * objective.loss(), inputs=[delta_TD])
            assert delta_TD.grad is not None
            delta_TD.grad /= upscale
            optimizer = optimizer or _optimizer(delta_TD, scale, config)
            optimizer.step()
            path.append(mean)
    delta_TD.requires_grad_(False)
    kl_path = torch.stack(path).tolist()
    if not delta_TD.isfinite().all():
        raise OptimisationError(
            f"token replay diverged at learning rate {config.rate} (mean divergence "
            f"{kl_path[0]:.4g} nats before the first step, {kl_path[-1]:.4g} before the last): "
            "choose a smaller one"
        )
    return Offset(delta_TD, config.entry_layer), kl_path


def _optimizer(delta_TD: Tensor, scale: float, config: ReplayConfig) -> torch.optim.Optimizer:
    """Make the optimiser of an offset that has its first gradient.

    Adam moves every coordinate by about its rate, however small its gradient is. So the rate is
    in units of the activations themselves (`scale`, their root mean square), which differ between
    models. And a coordinate whose gradient is small, compared with the root mean square of the
    first one, has to move little: without that floor the tokens outside the sets S are carried
    away from the base. Its memory is short (`betas`), since there are a few steps in all.
    """
    if config.optimizer == "sgd":
        return torch.optim.SGD([delta_TD], lr=config.rate)
    assert delta_TD.grad is not None
    floor = float(delta_TD.grad.square().mean().sqrt())
    return torch.optim.Adam(
        [delta_TD], lr=config.rate * scale, betas=(0.5, 0.9), eps=max(floor, 1e-30)
    )


@torch.no_grad()
def _scale_at_entry(
    policy: ModelAdapter,
    features: Features,
    positions_3T: Tensor,
    context: KVCache,
    entry_layer: int,
) -> float:
    """Compute the root mean square of the activations that the offset is added to."""
    entering_TD = features.embeds_TD
    if entry_layer:
        below = context.frozen(entry_layer)
        entering_TD = policy.run(features, positions_3T, below)
    return float(entering_TD.float().square().mean().sqrt())


def _add(activation_TD: Tensor, delta_TD: Tensor) -> Tensor:
    return (activation_TD.float() + delta_TD).to(activation_TD.dtype)


@dataclass(frozen=True, eq=False)
class StateReplay:
    """A visitor that replaces the policy's activations by the base's (method B).

    Both alignments decide on layer `l` by the entropies of its outputs. The same alignment
    replaces the output too, where the published limits were measured; the reference's replaces the
    *input* of the layer.

    Attributes:
        base_hidden: The base's activations `(T, D)`: the outputs of its layers.
        mask_LT: Where to replace, layer by layer.
        lag: 0 to replace outputs, 1 to replace inputs.
    """

    base_hidden: Sequence[Tensor]
    mask_LT: Tensor
    lag: int = 0

    def enter(self, features: Features, base: Features) -> Features:
        """Replace what enters the first layer, where inputs are replaced."""
        if not self.lag:
            return features
        rows = slice(0, len(features))
        embeds_TD = self._replace(0, rows, features.embeds_TD, base.embeds_TD)
        return replace(features, embeds_TD=embeds_TD)

    def __call__(self, layer: int, rows: slice, hidden_TD: Tensor) -> Tensor | None:
        """Replace one layer's activations for one chunk of positions."""
        if layer + self.lag >= len(self.mask_LT):
            return None
        return self._replace(layer + self.lag, rows, hidden_TD, self.base_hidden[layer][rows])

    def _replace(self, layer: int, rows: slice, hidden_TD: Tensor, base_TD: Tensor) -> Tensor:
        mask_T1 = self.mask_LT[layer, rows, None].to(hidden_TD.device)
        return torch.where(mask_T1, base_TD.to(hidden_TD), hidden_TD)
