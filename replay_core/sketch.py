"""Entropies at a fraction of their cost: a low-rank LM head, and exact reading where it matters.

The full-vocabulary entropy is the largest cost of replay: at 7B, one layer of one position takes
as much as two and a half decoder layers. But its only use is a comparison with a limit, and that
needs few directions of the activation. The sketch projects activations `x` on R directions that
lose least of the entropy to first order: with `g` the entropy's gradient and `G = E[g g^T]`, the
projection P of rank R that minimises `E |G^(1/2) (x - P x)|^2` (principal components in the
metric G). The head then has R columns instead of D.

The sketch knows its own error from activations that it was not fitted on. Whatever lies within two
standard deviations of it from a limit is read exactly (`LensReader.settle`, `ConfidenceGate`):
a sketch that fits badly saves nothing, but hardly decides anything by itself. Text is always read
exactly.

Axes: N activations, D hidden size, R rank, V vocabulary, L layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from visreplay.replay_core.errors import ConfigError
from visreplay.replay_core.lens import Lens

MARGIN = 2.0
"""Standard deviations of the error; closer to a limit than that the sketch does not decide."""


@dataclass(frozen=True, eq=False)
class LensSketch:
    """A cheap lens of one model, for entropies only.

    Attributes:
        lens: The model's final norm and the projection, and the head with R columns.
        slope_L: The estimate is `slope * entropy of the cheap lens + offset`, layer by layer.
        offset_L: The offset of that line, in nats.
        margin_L: `MARGIN` standard deviations of its error, in nats.
    """

    lens: Lens
    slope_L: Tensor
    offset_L: Tensor
    margin_L: Tensor

    def entropy(self, layer: int, hidden_ND: Tensor) -> Tensor:
        """Estimate entropies `(N,)` in nats."""
        raw_N, _ = self.lens.read(hidden_ND)
        return float(self.slope_L[layer]) * raw_N + float(self.offset_L[layer])


@dataclass(frozen=True, eq=False)
class Sketch:
    """The sketches of a base and its policy, on the same directions.

    Attributes:
        base: The sketch of the base.
        policy: The sketch of the policy, with the base's slope and offset, so that errors of the
            two cancel in a difference.
        gap_margin_L: `MARGIN` standard deviations of the error of such a difference, in nats.
    """

    base: LensSketch
    policy: LensSketch
    gap_margin_L: Tensor

    @property
    def depth(self) -> int:
        """Number of layers that it was fitted for."""
        return len(self.gap_margin_L)

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        base: Lens,
        policy: Lens,
        base_hidden: Sequence[Tensor],
        policy_hidden: Sequence[Tensor],
        rank: int,
    ) -> "Sketch":
        """Find the directions, and measure the error on every second activation.

        Args:
            base: The base's lens.
            policy: The plain policy's.
            base_hidden: Activations `(N, D)` of the base, layer by layer; N is twice `rank` or
                more.
            policy_hidden: The policy's at the same positions.
            rank: R. An eighth of D serves well.

        Raises:
            ConfigError: a rank that is out of range, or too few activations for it.
        """
        width, count = base.head.in_features, len(base_hidden[0])
        if not 1 <= rank <= width:
            raise ConfigError(f"rank is {rank}, but must lie in 1 to the hidden size, {width}")
        if count < max(8, 2 * rank):
            raise ConfigError(
                f"{count} activations a layer are too few for rank {rank}: give samples with at "
                f"least {2 * rank} visual tokens in all, or a lower rank"
            )
        normed_ND = torch.cat([base.norm(hidden_ND[0::2]) for hidden_ND in base_hidden])
        project_DR, restore_DR = _directions(normed_ND, _entropy_gradients(base, normed_ND), rank)
        cheap_base = cheap_policy = _reduced(base, project_DR, restore_DR)
        if policy.head.weight is not base.head.weight:
            cheap_policy = _reduced(policy, project_DR, restore_DR)
        # The heads may be one, and the final norms still two.
        cheap_policy = replace(
            cheap_policy, norm=_Projected(policy.norm, project_DR.to(policy.head.weight))
        )
        lines, margins, gaps = [], [], []
        for base_ND, policy_ND in zip(base_hidden, policy_hidden, strict=True):
            held_out = base_ND[1::2], policy_ND[1::2]
            exact_N, policy_exact_N = (
                lens.read(hidden)[0].cpu()
                for lens, hidden in zip((base, policy), held_out, strict=True)
            )
            raw_N, policy_raw_N = (
                lens.read(hidden)[0].cpu()
                for lens, hidden in zip((cheap_base, cheap_policy), held_out, strict=True)
            )
            slope = _covariance(raw_N, exact_N) / _covariance(raw_N, raw_N).clamp_min(1e-12)
            lines.append(torch.stack([slope, exact_N.mean() - slope * raw_N.mean()]))
            margins.append(MARGIN * (slope * raw_N + lines[-1][1] - exact_N).std())
            gap_N = slope * (raw_N - policy_raw_N) - (exact_N - policy_exact_N)
            gaps.append(MARGIN * gap_N.square().mean().sqrt())
        slope_L, offset_L = torch.stack(lines).T
        margin_L, gap_margin_L = torch.stack(margins), torch.stack(gaps)
        if not (margin_L.isfinite().all() and gap_margin_L.isfinite().all()):
            raise ConfigError(
                f"the sketch's error is not a number ({margin_L.tolist()} nats): fit it to a model "
                "in float32 or bfloat16, on ordinary images"
            )
        return cls(
            LensSketch(cheap_base, slope_L, offset_L, margin_L),
            LensSketch(cheap_policy, slope_L, offset_L, margin_L),
            gap_margin_L,
        )


@dataclass(frozen=True)
class _Projected:
    """The final norm, followed by the projection on R coordinates."""

    norm: Callable[[Tensor], Tensor]
    project_DR: Tensor

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        normed_ND = self.norm(hidden_ND)
        return normed_ND.to(self.project_DR.device) @ self.project_DR


def _reduced(lens: Lens, project_DR: Tensor, restore_DR: Tensor) -> Lens:
    """Reduce a lens to the R coordinates."""
    weight_VD = lens.head.weight
    weight_VR = (weight_VD.float() @ restore_DR.float().to(weight_VD.device)).to(weight_VD.dtype)
    head = nn.utils.skip_init(
        nn.Linear,
        weight_VR.shape[1],
        weight_VR.shape[0],
        bias=lens.head.bias is not None,
        device="meta",
    )
    head.weight = nn.Parameter(weight_VR, requires_grad=False)
    head.bias = lens.head.bias
    return Lens(_Projected(lens.norm, project_DR.to(weight_VR)), head, lens.memory_bytes)


def _directions(normed_ND: Tensor, gradient_ND: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Compute maps from D to R and back whose product loses least in the gradients' metric."""
    # On the CPU in double precision: squares of squares follow, and it happens once.
    normed_ND, gradient_ND = normed_ND.cpu().double(), gradient_ND.cpu().double()
    metric_DD = gradient_ND.T @ gradient_ND / len(gradient_ND)
    # Directions without any gradient count a little too; otherwise there would be no inverse.
    metric_DD += 1e-6 * metric_DD.diagonal().mean() * torch.eye(len(metric_DD)).to(metric_DD)
    root_DD = torch.linalg.cholesky(metric_DD)
    whitened_ND = normed_ND @ root_DD
    _, vectors_DD = torch.linalg.eigh(whitened_ND.T @ whitened_ND)
    basis_DR = vectors_DD[:, -rank:]
    project_DR = root_DD @ basis_DR
    restore_DR = torch.linalg.solve_triangular(root_DD.T, basis_DR, upper=True)
    # Coordinates of size one, so that half precision can hold both maps.
    scale_R = (normed_ND @ project_DR).square().mean(0).sqrt().clamp_min(1e-30)
    return project_DR / scale_R, restore_DR * scale_R


def _entropy_gradients(lens: Lens, normed_ND: Tensor) -> Tensor:
    """Compute the entropy's gradient `(N, D)` by the normed activation: `-W^T (p (log p + H))`."""
    gradients = []
    for rows in lens.chunks(len(normed_ND), row_bytes=16 * lens.head.out_features):
        log_p_NV = lens.head(normed_ND[rows].to(lens.head.weight.device)).float().log_softmax(-1)
        p_NV = log_p_NV.exp()
        entropy_N1 = -(p_NV * log_p_NV).sum(-1, keepdim=True)
        slope_NV = -(p_NV * (log_p_NV + entropy_N1)).to(lens.head.weight.dtype)
        gradients.append((slope_NV @ lens.head.weight).float())
    return torch.cat(gradients)


def _covariance(first_N: Tensor, second_N: Tensor) -> Tensor:
    return ((first_N - first_N.mean()) * (second_N - second_N.mean())).mean()
