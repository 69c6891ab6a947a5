"""The logit lens: the predictions of a layer, their entropy, and the divergence of two models.

Everything here takes raw activations (a decoder layer's output) and applies the final norm
itself, exactly once. (In `output_hidden_states` of transformers the last entry is already
normed; this package never takes activations from there.)

Logits exist for a bounded number of rows and of vocabulary entries at a time, and reductions are
in float32. Axes: N rows (positions), D hidden size, V vocabulary, K the base's top entries.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

_COLUMNS = 8192
"""Entries of the vocabulary to take together: few enough for a processor's cache."""

_GPU_COLUMNS = 32768
"""The same on a GPU: few kernels, and rows enough in a chunk to use the head's weights well."""

_CELL_BYTES = 12
"""Bytes per logit: the head's output, its float32 copy and the exponential live at once."""


@dataclass(frozen=True)
class Lens:
    """The logit lens of one model: from activations to logits.

    Attributes:
        norm: The final norm.
        head: The LM head.
        memory_bytes: Upper bound, in bytes, of one chunk of logits or of gathered head rows.
    """

    norm: Callable[[Tensor], Tensor]
    head: nn.Linear
    memory_bytes: int

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Compute logits `(N, V)` in float32, of a few rows: not bounded in memory."""
        logits: Tensor = self.head(self.norm(hidden_ND))
        return logits.float()

    def read(self, hidden_ND: Tensor, top_k: int | None = None) -> tuple[Tensor, "Targets | None"]:
        """Compute entropies and, in the same pass, the most probable entries.

        Args:
            hidden_ND: Activations.
            top_k: How many entries to keep per row, at most V; None keeps none.

        Returns:
            Entropies `(N,)` in nats, and the targets for `restricted_kl`.
        """
        width = self._columns
        parts = [
            self._read(hidden_ND[rows], width, top_k)
            for rows in self.chunks(len(hidden_ND), row_bytes=_CELL_BYTES * width)
        ]
        targets = [targets for _, targets in parts if targets is not None]
        entropy_N = torch.cat([entropy_N for entropy_N, _ in parts])
        return entropy_N, Targets.cat(targets) if targets else None

    def _read(
        self, hidden_ND: Tensor, width: int, top_k: int | None
    ) -> tuple[Tensor, "Targets | None"]:
        """Pass over the vocabulary, `width` entries at a time, with a running log-sum-exp.

        With `p = exp(x - m) / Z`, the entropy is `log Z - sum p (x - m)`: only the maximum m, Z,
        and the sum are kept between two steps.
        """
        normed_ND = self.norm(hidden_ND).to(self.head.weight.device)
        best: list[tuple[Tensor, Tensor]] = []
        peak_N = total_N = sum_N = normed_ND.new_zeros(())
        for start in range(0, self.head.out_features, width):
            logits_NC = self._block(normed_ND, slice(start, start + width))
            if top_k is not None:
                values_NK, ids_NK = logits_NC.topk(min(top_k, logits_NC.shape[-1]), dim=-1)
                best.append((values_NK, (ids_NK + start).int()))
            if start:
                higher_N = torch.maximum(peak_N, logits_NC.amax(-1))
                gap_N = peak_N - higher_N
                sum_N = gap_N.exp() * (sum_N + total_N * gap_N)
                total_N, peak_N = gap_N.exp() * total_N, higher_N
            else:
                peak_N = logits_NC.amax(-1)
            logits_NC -= peak_N[:, None]
            weights_NC = logits_NC.exp()
            total_N = total_N + weights_NC.sum(-1)
            sum_N = sum_N + torch.linalg.vecdot(weights_NC, logits_NC)
        # Rounding may leave a certain prediction a little below zero.
        entropy_N = (total_N.log() - sum_N / total_N).clamp_min(0)
        return entropy_N, None if top_k is None else self._targets(normed_ND, best, top_k)

    def _targets(
        self, normed_ND: Tensor, best: Sequence[tuple[Tensor, Tensor]], top_k: int
    ) -> "Targets":
        """Select the `top_k` most probable entries of each row from those of every part.

        Args:
            normed_ND: The rows.
            best: Logits and ids of the most probable entries of each part.
            top_k: How many to keep.
        """
        logits_NC = torch.cat([values for values, _ in best], dim=-1)
        ids_NC = torch.cat([ids for _, ids in best], dim=-1)
        logits_NK, order_NK = logits_NC.topk(min(top_k, logits_NC.shape[-1]), dim=-1)
        ids_NK = ids_NC.gather(-1, order_NK)
        if self.head.weight.dtype != torch.float32:
            logits_NK = torch.cat([each_NK for _, each_NK, _ in self._gathered(normed_ND, ids_NK)])
        return Targets(ids_NK, logits_NK.log_softmax(-1))

    def _gathered(
        self, normed_ND: Tensor, ids_NK: Tensor
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Compute logits of K entries a row, in float32 whatever the weights are, chunk by chunk.

        In bfloat16 the head's 8 bits leave 3e-4 nats of noise in a divergence, which may be no
        larger itself.

        Yields:
            Which rows, their logits `(n, K)`, and the head's rows `(n, K, D)`.
        """
        row_bytes = 4 * ids_NK.shape[-1] * normed_ND.shape[-1]
        for rows in self.chunks(len(normed_ND), row_bytes=row_bytes):
            rows_NKD = self.head.weight[ids_NK[rows]].float()
            logits_NK = (rows_NKD @ normed_ND[rows, :, None].float())[..., 0]
            if self.head.bias is not None:
                logits_NK += self.head.bias[ids_NK[rows]]
            yield rows, logits_NK, rows_NKD

    def _block(self, normed_ND: Tensor, columns: slice) -> Tensor:
        """Compute logits of some entries of the vocabulary, in float32."""
        bias = None if self.head.bias is None else self.head.bias[columns]
        return nn.functional.linear(normed_ND, self.head.weight[columns], bias).float()

    @property
    def _columns(self) -> int:
        """Number of vocabulary entries to take at once."""
        within = max(1, self.memory_bytes // _CELL_BYTES)
        most = _GPU_COLUMNS if self.head.weight.device.type == "cuda" else _COLUMNS
        return min(self.head.out_features, most, within)

    def restricted_kl(self, hidden_ND: Tensor, targets: "Targets") -> Tensor:
        """Compute KL(base || this model) on the base's top entries, renormalised on both sides.

        Args:
            hidden_ND: This model's activations; gradients flow back to them.
            targets: The base's entries at the same positions and layer.

        Returns:
            `(N,)` in nats (method.md, method A, step 4).
        """
        kl_N: Tensor = _RestrictedKL.apply(hidden_ND, targets.to(self.head.weight.device), self)
        return kl_N

    @cached_property
    def gram(self) -> Tensor:
        """The inner products `(D, D)` of the LM head's columns, in float32."""
        total_DD = self.head.weight.new_zeros((), dtype=torch.float32)
        for rows in self.chunks(self.head.out_features, row_bytes=4 * self.head.in_features):
            rows_VD = self.head.weight[rows].float()
            total_DD = total_DD + rows_VD.T @ rows_VD
        return total_DD

    def compare(self, hidden_ND: Tensor, base: "Lens", base_ND: Tensor) -> "LensComparison":
        """Compare this model's lens with the base's, over the whole vocabulary.

        Args:
            hidden_ND: This model's activations.
            base: The base's lens.
            base_ND: The base's activations at the same positions and layer.

        Returns:
            Vectors `(N,)` on the CPU.
        """
        parts = []
        # Five of them live at once: both models' log-probabilities and probabilities, and a term
        # of the sum.
        for rows in self.chunks(len(hidden_ND), row_bytes=20 * self.head.out_features):
            log_q_NV = self.logits(hidden_ND[rows]).log_softmax(-1)
            log_p_NV = base.logits(base_ND[rows]).to(log_q_NV.device).log_softmax(-1)
            p_NV = log_p_NV.exp()
            parts.append(
                LensComparison(
                    kl=(p_NV * (log_p_NV - log_q_NV)).sum(-1).cpu(),
                    base_entropy=torch.special.entr(p_NV).sum(-1).cpu(),
                    entropy=torch.special.entr(log_q_NV.exp()).sum(-1).cpu(),
                    base_top=log_p_NV.argmax(-1).cpu(),
                    top=log_q_NV.argmax(-1).cpu(),
                )
            )
        return LensComparison.join(parts)

    def chunks(self, rows: int, row_bytes: int) -> Iterator[slice]:
        """Split rows into parts that take at most `memory_bytes` each."""
        step = max(1, self.memory_bytes // row_bytes)
        return (slice(start, start + step) for start in range(0, max(1, rows), step))


@dataclass(frozen=True, eq=False)
class LensComparison:
    """A comparison of two models' lenses: tensors of one shape, `(N,)` or `(L, T)`.

    Attributes:
        kl: KL(base || model) over the whole vocabulary, in nats.
        base_entropy: The base's entropy in nats.
        entropy: The model's entropy in nats.
        base_top: The base's most probable entry.
        top: The model's most probable entry.
    """

    kl: Tensor
    base_entropy: Tensor
    entropy: Tensor
    base_top: Tensor
    top: Tensor

    @property
    def changed(self) -> Tensor:
        """Whether the model's most probable entry differs from the base's."""
        return self.top != self.base_top

    @classmethod
    def join(
        cls,
        parts: "Sequence[LensComparison]",
        how: Callable[[list[Tensor]], Tensor] = torch.cat,
    ) -> "LensComparison":
        """Join several comparisons, by `torch.cat` (chunks of rows) or `torch.stack` (layers)."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: how([getattr(part, name) for part in parts]) for name in names})


@dataclass(frozen=True)
class Targets:
    """The base's most probable vocabulary entries at N positions.

    Attributes:
        ids_NK: The entries.
        log_probs_NK: Their log-probabilities in nats, renormalised over the K entries.
    """

    ids_NK: Tensor
    log_probs_NK: Tensor

    @classmethod
    def cat(cls, parts: "list[Targets]") -> "Targets":
        """Join chunks of rows."""
        return cls(
            torch.cat([part.ids_NK for part in parts]),
            torch.cat([part.log_probs_NK for part in parts]),
        )

    def select(self, rows: Tensor | slice) -> "Targets":
        """Select rows, by index, mask or slice."""
        return Targets(self.ids_NK[rows], self.log_probs_NK[rows])

    def to(self, device: torch.device) -> "Targets":
        """Copy to another device."""
        return Targets(self.ids_NK.to(device), self.log_probs_NK.to(device))


class _RestrictedKL(torch.autograd.Function):
    """Divergence from K head rows per position instead of all V.

    The gathered rows (N x K x D) would be the largest tensor of the whole optimisation, and
    autograd would keep them for every layer at once. But a row's divergence depends on its own
    activation alone, with the gradient `(q - p) @ rows` behind the norm, so both are computed in
    one go, chunk by chunk. Only the gradient is kept, in the activations' dtype: not what the
    norm would keep for it.
    """

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, targets: Targets, lens: Lens) -> Tensor:
        hidden_ND = hidden_ND.detach().requires_grad_(ctx.needs_input_grad[0])
        with torch.enable_grad():
            # A view: tools that hook modules (torch's FLOP counter) refuse a leaf here.
            traced_ND = lens.norm(hidden_ND.view_as(hidden_ND)).to(lens.head.weight.device)
        normed_ND = traced_ND.detach()
        kl_N = normed_ND.new_empty(len(normed_ND), dtype=torch.float32)
        gradient_ND = torch.empty_like(normed_ND)
        for rows, logits_NK, rows_NKD in lens._gathered(normed_ND, targets.ids_NK):
            log_p_NK, log_q_NK = targets.log_probs_NK[rows], logits_NK.log_softmax(-1)
            p_NK, q_NK = log_p_NK.exp(), log_q_NK.exp()
            kl_N[rows] = (p_NK * (log_p_NK - log_q_NK)).sum(-1)
            if hidden_ND.requires_grad:
                gradient_ND[rows] = ((q_NK - p_NK)[:, None] @ rows_NKD)[:, 0]
        if hidden_ND.requires_grad:
            ctx.save_for_backward(*torch.autograd.grad(traced_ND, hidden_ND, gradient_ND))
        return kl_N

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient_ND,) = ctx.saved_tensors
        outer_N1 = outer[0][:, None].to(gradient_ND.device)
        return (outer_N1 * gradient_ND).to(gradient_ND.dtype), None, None
