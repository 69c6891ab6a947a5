"""The authors' released algorithm in its own form: whole contexts, lists of hidden states.

Every pass is transformers' own forward over the whole conversation, and gives a list of hidden
states: entry 0 is the input of the first layer, entry l + 1 the output of layer l. As released,
the base's entry l + 1 meets the policy's entry l (`shift` 0). With `shift` 1 the policy's table is
moved by one layer, so that both are read at the same depth.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Inputs = dict[str, Any]


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    return model.lm_head(model.model.language_model.norm(hidden))


def entropy_of(model: Any, hidden: Tensor) -> Tensor:
    logits = logits_of(model, hidden)
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)


@contextmanager
def entering(model: Any, layer: int, delta: Tensor, places: Tensor) -> Iterator[None]:
    """Add an offset to the input of a decoder layer at some positions."""

    def add(module: Any, args: Any, kwargs: Any) -> Any:
        hidden = args[0].clone()
        hidden[0, places] = hidden[0, places] + delta
        return (hidden, *args[1:]), kwargs

    module = model.model.language_model.layers[layer]
    handle = module.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def passed(model: Any, inputs: Inputs) -> tuple[Tensor, list[Tensor]]:
    """The logits and the hidden states `(T, D)` of one whole pass, with offsets and edits."""
    hidden: list[Tensor] = []

    def record(module: Any, args: Any) -> None:
        hidden.append(args[0][0])

    decoder = model.model.language_model
    handles = [each.register_forward_pre_hook(record) for each in (*decoder.layers, decoder.norm)]
    try:
        logits = model(**inputs, use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return logits, hidden


@dataclass
class ReleasedTokenReplay:
    """Token replay of one image.

    Attributes:
        teacher: The model whose states are replayed; the base, unless roles are swapped.
        student: The model that gets the offset and answers.
        inputs: The arguments of a whole forward.
        image_token: The placeholder id of visual tokens.
        layers: The layers that are compared.
        entry: The layer whose input the offset is added to.
    """

    teacher: Any
    student: Any
    inputs: Inputs
    image_token: int
    layers: range
    tau: float
    shift: int
    entry: int = 0
    top_k: int = 50
    rate: float = 10.0
    masks: list[Tensor] = field(default_factory=list)
    entropies: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    gradient: Tensor | None = None
    delta: Tensor | None = None

    def run(self, steps: int) -> Tensor:
        """Optimise the offset; the logits `(V,)` of the next token."""
        (places,) = (self.inputs["input_ids"][0] == self.image_token).nonzero(as_tuple=True)
        with torch.no_grad():
            _, states = passed(self.teacher, self.inputs)
            self.entropies = [
                entropy_of(self.teacher, states[layer + 1][places]) for layer in self.layers
            ]
            self.masks = [each <= self.tau * each.max() for each in self.entropies]
        width = self.student.lm_head.in_features
        self.delta = torch.zeros(len(places), width, requires_grad=True)
        for step in range(steps):
            with entering(self.student, self.entry, self.delta, places):
                _, hidden = passed(self.student, self.inputs)
            loss = self.loss(states, hidden, places)
            (gradient,) = torch.autograd.grad(loss, self.delta)
            if step == 0:
                self.gradient = gradient
            self.losses.append(loss.detach())
            with torch.no_grad():
                self.delta -= self.rate * gradient
        with torch.no_grad(), entering(self.student, self.entry, self.delta, places):
            logits, _ = passed(self.student, self.inputs)
        return logits[-1]

    def loss(self, states: Sequence[Tensor], hidden: Sequence[Tensor], places: Tensor) -> Tensor:
        total = torch.zeros(())
        for mask, layer in zip(self.masks, self.layers, strict=True):
            if mask.any():
                theirs = logits_of(self.teacher, states[layer + 1][places[mask]])
                ours = logits_of(self.student, hidden[layer + self.shift][places[mask]])
                best = theirs.topk(min(self.top_k, theirs.shape[-1])).indices
                log_p = theirs.gather(-1, best).log_softmax(-1)
                log_q = ours.gather(-1, best).log_softmax(-1)
                total = total + (log_p.exp() * (log_p - log_q)).sum(-1).mean()
        return total / len(places)


@torch.no_grad()
def released_state_replay(
    policy: Any, base: Any, inputs: Inputs, theta: Sequence[float], shift: int
) -> tuple[Tensor, Tensor]:
    """State replay of a whole conversation: generated tokens of earlier turns are edited too.

    Args:
        policy: The policy.
        base: The base.
        inputs: The arguments of a whole forward.
        theta: The limits in nats, layer by layer.
        shift: 0 as released: the mask of a layer's output replaces its input. 1 replaces the
            output itself.

    Returns:
        The logits `(V,)` of the next token, and the mask `(L, T)`.
    """
    _, states = passed(base, inputs)
    _, plain = passed(policy, inputs)
    low = []
    for layer, limit in enumerate(theta):
        ours = entropy_of(base, states[layer + 1])
        low.append((ours < limit) & (ours < entropy_of(policy, plain[layer + 1])))
    handles = []
    decoder = policy.model.language_model
    for layer, mask in enumerate(low):

        def edit(module: Any, args: Any, kwargs: Any, mask: Any = mask, layer: int = layer) -> Any:
            hidden = torch.where(mask[:, None], states[layer + shift], args[0][0])
            return (hidden[None], *args[1:]), kwargs

        module = decoder.layers[layer + shift]
        handles.append(module.register_forward_pre_hook(edit, with_kwargs=True))
    try:
        logits, _ = passed(policy, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return logits[-1], torch.stack(low)
