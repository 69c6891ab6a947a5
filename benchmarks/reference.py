"""The authors' algorithm at the authors' cost, written from method.md.

It is as wasteful as their released code, and no more. Every optimisation step and every pass runs
the whole model (vision tower, all decoder layers, LM head) over the whole context, from pixels. The
weights are not frozen in a step, so everything is kept for the way back. The entropies are computed
at every position, and from one turn to the next nothing is kept but the offsets. But as in their
code, the loss chooses its positions before it multiplies with the LM head, of the newest image
alone, and keeps nothing as wide as the vocabulary. Positions that are multiplied with the LM head,
for a context of T and sets of n:

| part | model's own logits | logit lens |
|---|---|---|
| preparation (`read`) | T | TL |
| a step (`step`) | T | 2nL, and nL on the way back |
| prefill after token replay | 1 | 2nL: the loss once more |
| a turn of state replay | 2T + 1 | 2TL, with its own L |

`speed.py` runs it as the opponent, `costs.py` counts it, `tests/benchmarks/` uses it as the oracle
and checks these counts. The product never imports it.

Several images are this project's extension, because the authors' code takes one: each is replayed
after, and given, those before it. And offsets are in float32, so that results can be compared.

Axes: L replayed layers, T context, D hidden size, V vocabulary, n positions of a set, K the base's
top entries.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from visreplay.replay_core import (
    Alignment,
    Method,
    ReplayConfig,
    Segment,
    Threshold,
    VisualBlock,
)

Edit = Callable[[int, Tensor], Tensor]
"""`edit(depth, hidden_TD)` returns the replacement of an activation: at depth 0 of the input
embeddings, at depth l + 1 of the output of decoder layer l."""


def lens(model: Any, hidden_ND: Tensor) -> Tensor:
    """Compute the logits `(N, V)` that the model would give if it ended at this activation."""
    logits: Tensor = model.lm_head(model.model.language_model.norm(hidden_ND))
    return logits


def entropy(logits_NV: Tensor) -> Tensor:
    """Compute the Shannon entropy `(N,)` in nats."""
    return -(logits_NV.softmax(-1) * logits_NV.log_softmax(-1)).sum(-1)


def top_kl(base_NV: Tensor, policy_NV: Tensor, top_k: int) -> Tensor:
    """Compute KL(base || policy) `(N,)` in nats on the base's renormalised top entries (step 4)."""
    best_NK = base_NV.topk(min(top_k, base_NV.shape[-1]), dim=-1).indices
    rows_N1 = torch.arange(len(best_NK), device=best_NK.device)[:, None]
    # `gather` would keep its whole input for the way back; indexing keeps the indices.
    log_p_NK = base_NV[rows_N1, best_NK].log_softmax(-1)
    log_q_NK = policy_NV[rows_N1, best_NK].log_softmax(-1)
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
        losses: Its loss before every step, and in the prefill if it was the newest then.
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
        states: The input embeddings and the outputs of the replayed layers, each `(T, D)`.
        entropy_LT: The entropies of the outputs, in nats.
    """

    states: list[Tensor]
    entropy_LT: Tensor


class Reference:
    """A conversation that every method computes anew, from the beginning.

    Examples:
        >>> reference = Reference(policy, base, ReplayConfig.paper())
        >>> next_logits_V = reference.turn(segment)     # base pass, 25 steps, prefill
    """

    def __init__(self, policy: Any, base: Any, config: ReplayConfig) -> None:
        """Start with an empty context.

        Args:
            policy: The model that answers, complete.
            base: The model that it was trained from, complete.
            config: Method, layers, threshold, alignment, steps, rate (of plain descent). Chunks
                and plateaus mean nothing.
        """
        self.policy, self.base, self.config = policy, base, config
        self.ids: list[int] = []
        self.images: list[Image] = []

    def turn(self, segment: Segment) -> Tensor:
        """Append a segment, replay its images one by one, prefill; next-token logits `(V,)`."""
        images, reading = self.extend(segment), None
        if images and self.config.method is Method.TOKEN:
            reading = self.read(self.base)
            for image in images:
                self.replay(image, reading)
        return self.prefill(reading)[0]

    def extend(self, segment: Segment) -> list[Image]:
        """Note what comes next, and compute nothing. Returns the new images."""
        width, before = self.policy.config.get_text_config().hidden_size, len(self.images)
        for ids_T, block in segment.pieces():
            if block is not None:
                offset_TD = torch.zeros(block.length, width)
                self.images.append(Image(block, len(self.ids), offset_TD))
            self.ids += ids_T.tolist()
        return self.images[before:]

    def replay(self, image: Image, reading: Reading) -> None:
        """Token replay of one image (steps 3 to 5), if any of its sets has a position."""
        if self.low_entropy(image, reading).any():
            for _ in range(self.config.steps):
                image.offset_TD -= self.config.rate * self.step(image, reading)

    def step(self, image: Image, reading: Reading) -> Tensor:
        """One optimisation step's gradient `(T, D)` for the offset of an image."""
        with torch.enable_grad(), unfrozen(self.policy):
            leaf_TD = image.offset_TD.clone().requires_grad_()
            offsets = [leaf_TD if each is image else each.offset_TD for each in self.images]
            # Its logits are of no use, but stay in memory as long as the loss.
            _logits_TV, states = self.forward(self.policy, offsets)
            loss = self.loss(image, reading, states)
            (gradient_TD,) = torch.autograd.grad(loss, leaf_TD)
        image.losses.append(float(loss.detach()))
        return gradient_TD

    @torch.no_grad()
    def prefill(self, reading: Reading | None = None) -> tuple[Tensor, list[Tensor]]:
        """Run the replayed policy: next-token logits `(V,)`, and the activations of every depth.

        Args:
            reading: The base's, if there was a token replay; its loss is computed once more.
        """
        offsets = [image.offset_TD for image in self.images]
        edit = self.state_edit() if self.config.method is Method.STATE else None
        logits_1V, states = self.forward(self.policy, offsets, edit, last=True)
        if reading is not None:
            newest = self.images[-1]
            newest.losses.append(float(self.loss(newest, reading, states)))
        return logits_1V[-1], states

    def state_edit(self) -> Edit:
        """Method B: a whole base pass and a whole plain policy pass say where to replace."""
        base, plain = self.read(self.base), self.read(self.policy)
        limit_LT = torch.full_like(base.entropy_LT, -torch.inf)
        if self.config.threshold is Threshold.ABSOLUTE:
            limit_LT[:] = limits(base.entropy_LT, self.config)
        else:
            for image in self.images:  # an image's limits hold up to the next image
                limit_LT[:, image.start :] = limits(base.entropy_LT[:, image.rows], self.config)
        replace_LT = (base.entropy_LT < limit_LT) & (base.entropy_LT < plain.entropy_LT)
        first = self.first_depth

        def edit(depth: int, hidden_TD: Tensor) -> Tensor:
            layer = depth - first
            if not 0 <= layer < len(replace_LT):
                return hidden_TD
            return torch.where(replace_LT[layer, :, None], base.states[depth], hidden_TD)

        return edit

    @torch.no_grad()
    def read(self, model: Any) -> Reading:
        """Run one unedited pass and compute the entropies of the replayed layers."""
        _, states = self.forward(model)
        states = states[: self.config.depth + 1]
        return Reading(states, torch.stack([entropy(lens(model, each)) for each in states[1:]]))

    def loss(self, image: Image, reading: Reading, states: Sequence[Tensor]) -> Tensor:
        """Compute the loss of an image (step 4), a scalar.

        Args:
            image: The image.
            reading: The reading of the base.
            states: The policy's activations, from the input embeddings on, each `(T, D)`.
        """
        total = torch.zeros(())
        for layer, low_T in enumerate(self.low_entropy(image, reading)):
            places_n = image.start + low_T.nonzero().flatten()
            if not len(places_n):
                continue
            with torch.no_grad():
                base_nV = lens(self.base, reading.states[layer + 1][places_n])
            policy_nV = lens(self.policy, states[layer + self.first_depth][places_n])
            total = total + top_kl(base_nV, policy_nV, self.config.top_k).mean()
        return total / image.block.length

    def low_entropy(self, image: Image, reading: Reading) -> Tensor:
        """Compute the low-entropy sets of an image, as masks `(L, T)` (step 2)."""
        entropy_LT = reading.entropy_LT[:, image.rows]
        return entropy_LT <= limits(entropy_LT, self.config)

    @property
    def first_depth(self) -> int:
        """The depth at which the policy meets the base's first layer."""
        return 0 if self.config.alignment is Alignment.REFERENCE else 1

    def forward(
        self,
        model: Any,
        offsets: Sequence[Tensor] = (),
        edit: Edit | None = None,
        *,
        last: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the whole model over the whole context, from pixels to logits.

        Args:
            model: Policy or base.
            offsets: The offsets to the input embeddings of the images.
            edit: A function that replaces activations.
            last: Compute the logits of the last position alone.

        Returns:
            Logits, `(T, V)` or `(1, V)`; and the input embeddings and the outputs of all decoder
            layers, each `(T, D)` and not normed.
        """
        ids_1T = torch.tensor([self.ids])
        inputs = {
            "input_ids": ids_1T,
            "mm_token_type_ids": (ids_1T == model.config.image_token_id).int(),
        }
        if self.images:
            for name in ("pixel_values", "image_grid_thw"):
                inputs[name] = torch.cat([image.block.inputs[name] for image in self.images])
        with self._watched(model, offsets, edit) as states:
            logits_NV = model(**inputs, use_cache=False, logits_to_keep=int(last)).logits[0]
        return logits_NV, states

    @contextmanager
    def _watched(
        self, model: Any, offsets: Sequence[Tensor], edit: Edit | None
    ) -> Iterator[list[Tensor]]:
        """Add hooks that add the offsets, edit every activation, and record it."""
        states: list[Tensor] = []

        def note(hidden_TD: Tensor) -> Tensor:
            states.append(edit(len(states), hidden_TD) if edit else hidden_TD)
            return states[-1][None]

        def enter(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            embeds_TD = kwargs["inputs_embeds"][0]
            change_TD = torch.zeros_like(embeds_TD, dtype=torch.float32)
            for image, offset_TD in zip(self.images, offsets, strict=False):
                change_TD[image.rows] = offset_TD
            changed_TD = (embeds_TD.float() + change_TD).to(embeds_TD.dtype)
            return args, {**kwargs, "inputs_embeds": note(changed_TD)}

        def leave(module: Any, args: Any, output_1TD: Tensor) -> Tensor:
            return note(output_1TD[0])

        decoder = model.model.language_model
        handles = [decoder.register_forward_pre_hook(enter, with_kwargs=True)]
        handles += [layer.register_forward_hook(leave) for layer in decoder.layers]
        try:
            yield states
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def unfrozen(model: Any) -> Iterator[None]:
    """Let gradients be recorded for the frozen weights of a model, meanwhile."""
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
