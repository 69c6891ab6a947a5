"""The reference's algorithm at the reference's cost, written from method.md.

It is wasteful on purpose. Every optimisation step and every pass runs the whole model (vision
tower, all decoder layers, LM head) over the whole context, from pixels. Every step computes logits
of the full vocabulary at every replayed layer, of the base too. From one turn to the next it keeps
nothing but the offsets. `speed.py` runs it as the opponent, `tests/benchmarks/` as the oracle.
The product never imports it.

Two things differ from the authors' code, so that results can be compared: both models are read at
the same depth, and several images are replayed causally: each after, and given, those before it.

Axes: L replayed layers, T context, N positions that the method reads, D hidden size,
V vocabulary, K the base's top entries.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from visreplay.replay_core import Method, ReplayConfig, Segment, Threshold, VisualBlock

Edit = Callable[[int, Tensor], Tensor]
"""`edit(layer, hidden_TD)` returns the replacement of a decoder layer's output."""


def lens(model: Any, hidden_ND: Tensor) -> Tensor:
    """Compute the logits `(N, V)` that the model would give if it ended at this activation."""
    logits: Tensor = model.lm_head(model.model.language_model.norm(hidden_ND))
    return logits


def entropy(logits_NV: Tensor) -> Tensor:
    """Compute the Shannon entropy `(N,)` in nats."""
    log_p_NV = logits_NV.float().log_softmax(-1)
    return -(log_p_NV.exp() * log_p_NV).sum(-1)


def top_kl(base_NV: Tensor, policy_NV: Tensor, top_k: int) -> Tensor:
    """Compute KL(base || policy) `(N,)` in nats on the base's renormalised top entries (step 4)."""
    best_NK = base_NV.topk(min(top_k, base_NV.shape[-1]), dim=-1).indices
    log_p_NK = base_NV.gather(-1, best_NK).float().log_softmax(-1)
    log_q_NK = policy_NV.gather(-1, best_NK).float().log_softmax(-1)
    return (log_p_NK.exp() * (log_p_NK - log_q_NK)).sum(-1)


def limits(entropy_LN: Tensor, config: ReplayConfig) -> Tensor:
    """Compute the limits of low entropy at the positions of an image, `(L, 1)`, nats (step 2)."""
    if config.threshold is Threshold.RELATIVE:
        return config.tau * entropy_LN.max(dim=1, keepdim=True).values
    if config.threshold is Threshold.QUANTILE:
        return entropy_LN.quantile(config.tau, dim=1, keepdim=True)
    return torch.tensor(config.limits[: len(entropy_LN)])[:, None]


@dataclass
class Image:
    """An image of the context, with the offset of its replay.

    Attributes:
        block: Its pixels and grid.
        start: Index of its first token in the context.
        offset_TD: The offset to its input embeddings, in float32.
        losses: Its loss before every step.
    """

    block: VisualBlock
    start: int
    offset_TD: Tensor
    losses: list[float] = field(default_factory=list)

    @property
    def rows(self) -> slice:
        """The slice of its tokens in the context."""
        return slice(self.start, self.start + self.block.length)


@dataclass(frozen=True)
class Reading:
    """The activations and entropies of one pass of one model.

    Attributes:
        hidden: Activations of the replayed layers, each `(N, D)`.
        entropy_LN: Their entropies, `(L, N)` in nats.
    """

    hidden: list[Tensor]
    entropy_LN: Tensor


class Reference:
    """A conversation that every method computes anew, from the beginning.

    Examples:
        >>> reference = Reference(policy, base, ReplayConfig.paper())
        >>> next_logits_V = reference.turn(segment)     # base pass, 25 steps, prefill
    """

    def __init__(
        self, policy: Any, base: Any, config: ReplayConfig, *, at_once: bool = False
    ) -> None:
        """Start with an empty context.

        Args:
            policy: The model that answers, complete and frozen.
            base: The model that it was trained from, complete and frozen.
            config: Method, layers, threshold, steps, rate (of plain descent). Chunks mean nothing.
            at_once: Hold the logits of all replayed layers at once, as the authors' code does,
                instead of one layer's after the other. The results and the operations are the same.
        """
        self.policy, self.base, self.config, self.at_once = policy, base, config, at_once
        self.ids: list[int] = []
        self.images: list[Image] = []

    def turn(self, segment: Segment) -> Tensor:
        """Append a segment, replay its images one by one, prefill; next-token logits `(V,)`."""
        for ids_T, block in segment.pieces():
            self.extend(ids_T, block)
            if block is not None and self.config.method is Method.TOKEN:
                self.replay()
        return self.prefill()[0]

    def extend(self, ids_T: Tensor, block: VisualBlock | None) -> None:
        """Note what comes next, and compute nothing."""
        if block is not None:
            width = self.policy.config.get_text_config().hidden_size
            self.images.append(Image(block, len(self.ids), torch.zeros(block.length, width)))
        self.ids += ids_T.tolist()

    def replay(self) -> None:
        """Token replay of the newest image (steps 1 to 5)."""
        reading = self.read(self.base)
        for _ in range(self.config.steps):
            self.images[-1].offset_TD -= self.config.rate * self.step(reading)

    def step(self, reading: Reading) -> Tensor:
        """One optimisation step's gradient `(T, D)` for the offset of the newest image."""
        newest = self.images[-1]
        with torch.enable_grad():
            leaf_TD = newest.offset_TD.clone().requires_grad_()
            offsets = [image.offset_TD for image in self.images[:-1]] + [leaf_TD]
            _, outputs = self.forward(self.policy, offsets)
            # Of all images: without a memory, it cannot know that the earlier ones' do not change.
            losses = self.losses(reading, outputs)
            (gradient_TD,) = torch.autograd.grad(losses.sum(), leaf_TD)
        newest.losses.append(float(losses[-1].detach()))
        return gradient_TD

    @torch.no_grad()
    def prefill(self) -> tuple[Tensor, list[Tensor]]:
        """The replayed policy: next-token logits `(V,)`, and every layer's output `(T, D)`."""
        offsets = [image.offset_TD for image in self.images]
        edit = self.state_edit() if self.config.method is Method.STATE else None
        logits_TV, outputs = self.forward(self.policy, offsets, edit)
        return logits_TV[-1], outputs

    def state_edit(self) -> Edit:
        """Method B: a whole base pass and a whole plain policy pass say where to replace."""
        base, plain = self.read(self.base), self.read(self.policy)
        limit_LT = torch.full_like(base.entropy_LN, -torch.inf)
        if self.config.threshold is Threshold.ABSOLUTE:
            limit_LT[:] = limits(base.entropy_LN, self.config)
        else:
            for image in self.images:  # an image's limits hold up to the next image
                limit_LT[:, image.start :] = limits(base.entropy_LN[:, image.rows], self.config)
        replace_LT = (base.entropy_LN < limit_LT) & (base.entropy_LN < plain.entropy_LN)

        def edit(layer: int, hidden_TD: Tensor) -> Tensor:
            if layer >= len(replace_LT):
                return hidden_TD
            return torch.where(replace_LT[layer, :, None], base.hidden[layer], hidden_TD)

        return edit

    @torch.no_grad()
    def read(self, model: Any) -> Reading:
        """Run one unedited pass and compute the entropies of the replayed layers."""
        _, outputs = self.forward(model)
        hidden = [output_TD[self.positions] for output_TD in outputs[: self.config.depth]]
        entropies = [entropy(logits_NV) for logits_NV in self.logits(model, hidden)]
        return Reading(hidden, torch.stack(entropies))

    def losses(self, reading: Reading, outputs: Sequence[Tensor]) -> Tensor:
        """Compute the loss of each image (step 4), `(images,)`.

        Args:
            reading: The reading of the base.
            outputs: The outputs of the policy's decoder layers, each `(T, D)`.
        """
        hidden = [output_TD[self.positions] for output_TD in outputs[: self.config.depth]]
        masks = self.low_entropy(reading)
        totals = [torch.zeros(()) for _ in self.images]
        pairs = zip(
            self.logits(self.base, reading.hidden), self.logits(self.policy, hidden), strict=True
        )
        for layer, (base_NV, policy_NV) in enumerate(pairs):
            kl_N = top_kl(base_NV, policy_NV, self.config.top_k)
            for index, columns in enumerate(self.columns()):
                low_T = masks[index][layer]
                if low_T.any():
                    totals[index] = totals[index] + kl_N[columns][low_T].mean() / len(low_T)
        return torch.stack(totals)

    def low_entropy(self, reading: Reading) -> list[Tensor]:
        """Compute the low-entropy sets of each image, as masks `(L, T)` (step 2)."""
        entropies = [reading.entropy_LN[:, columns] for columns in self.columns()]
        return [entropy_LT <= limits(entropy_LT, self.config) for entropy_LT in entropies]

    @property
    def positions(self) -> Tensor:
        """The N positions to read; token replay reads the visual positions alone."""
        if self.config.method is Method.STATE:
            return torch.arange(len(self.ids))
        rows = [torch.arange(image.rows.start, image.rows.stop) for image in self.images]
        return torch.cat(rows)

    def columns(self) -> list[slice]:
        """Find the columns of each image among the N positions."""
        if self.config.method is Method.STATE:
            return [image.rows for image in self.images]
        stops = list(accumulate(image.block.length for image in self.images))
        return [slice(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]

    def logits(self, model: Any, hidden: Sequence[Tensor]) -> Iterable[Tensor]:
        """Compute the logits `(N, V)` of every replayed layer."""
        each = (lens(model, hidden_ND) for hidden_ND in hidden)
        return list(each) if self.at_once else each

    def forward(
        self, model: Any, offsets: Sequence[Tensor] = (), edit: Edit | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the whole model over the whole context, from pixels to logits.

        Args:
            model: Policy or base.
            offsets: The offsets to the input embeddings of the images.
            edit: A function that replaces the outputs of decoder layers.

        Returns:
            Logits `(T, V)` at every position, and the outputs of all decoder layers, each
            `(T, D)` and not normed.
        """
        ids_1T = torch.tensor([self.ids])
        inputs = {
            "input_ids": ids_1T,
            "mm_token_type_ids": (ids_1T == model.config.image_token_id).int(),
        }
        if self.images:
            for name in ("pixel_values", "image_grid_thw"):
                inputs[name] = torch.cat([image.block.inputs[name] for image in self.images])
        with self._watched(model, offsets, edit) as outputs:
            logits_TV = model(**inputs, use_cache=False).logits[0]
        return logits_TV, outputs

    @contextmanager
    def _watched(
        self, model: Any, offsets: Sequence[Tensor], edit: Edit | None
    ) -> Iterator[list[Tensor]]:
        """Add hooks that add the offsets, edit every layer's output, and record it."""
        outputs: list[Tensor] = []

        def enter(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            embeds_TD = kwargs["inputs_embeds"][0]
            change_TD = torch.zeros_like(embeds_TD, dtype=torch.float32)
            for image, offset_TD in zip(self.images, offsets, strict=True):
                change_TD[image.rows] = offset_TD
            changed_TD = (embeds_TD.float() + change_TD).to(embeds_TD.dtype)
            return args, {**kwargs, "inputs_embeds": changed_TD[None]}

        def leave(module: Any, args: Any, output_1TD: Tensor) -> Tensor:
            hidden_TD = output_1TD[0]
            outputs.append(edit(len(outputs), hidden_TD) if edit else hidden_TD)
            return outputs[-1][None]

        decoder = model.model.language_model
        handles = [layer.register_forward_hook(leave) for layer in decoder.layers]
        if offsets:
            handles.append(decoder.register_forward_pre_hook(enter, with_kwargs=True))
        try:
            yield outputs
        finally:
            for handle in handles:
                handle.remove()
