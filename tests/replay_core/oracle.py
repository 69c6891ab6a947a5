"""The method from scratch: whole contexts, transformers' own forward, full softmaxes, no caches.

Written against method.md and not against the package, from which it takes only the settings and
the segments. Positions come from transformers' `get_rope_index`, activations from hooks, and the
formulas of lens, limits and divergence from `benchmarks/reference.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from reference import lens, limits, top_kl
from torch import Tensor

from visreplay.replay_core import ReplayConfig, Segment

Edit = Callable[[int, Tensor], Tensor]


def forward(model: Any, embeds: Tensor, ids: list[int], grids: list[Any], edit: Edit) -> Tensor:
    """Outputs of all decoder layers `(layers, T, D)`, before the final norm."""
    ids_1T = torch.tensor([ids])
    grid = torch.tensor(grids) if grids else None
    positions, _ = model.model.get_rope_index(
        ids_1T, mm_token_type_ids=(ids_1T == model.config.image_token_id).int(), image_grid_thw=grid
    )
    outputs: list[Tensor] = []

    def hook(module: Any, args: Any, output: Tensor) -> Tensor:
        outputs.append(edit(len(outputs), output[0]))
        return outputs[-1][None]

    handles = [layer.register_forward_hook(hook) for layer in model.model.language_model.layers]
    try:
        model.model.language_model(
            inputs_embeds=embeds[None], position_ids=positions, use_cache=False
        )
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(outputs)


def unedited(layer: int, hidden: Tensor) -> Tensor:
    return hidden


def entropy(logits: Tensor) -> Tensor:
    """In double precision, so that masks do not hang on the order of a sum."""
    log_p = logits.double().log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1).float()


@dataclass
class Oracle:
    """A context that is computed anew whenever something is asked of it."""

    policy: Any
    base: Any
    config: ReplayConfig
    ids: list[int] = field(default_factory=list)
    grids: list[Any] = field(default_factory=list)
    policy_embeds: list[Tensor] = field(default_factory=list)
    base_embeds: list[Tensor] = field(default_factory=list)
    # For every token: index of its visual block, -1 for appended text, None if generated.
    source: list[int | None] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    entropies: list[Tensor] = field(default_factory=list)

    def append(self, segment: Segment) -> None:
        end = 0
        for block in segment.blocks:
            self.text(segment.token_ids[end : block.start].tolist(), -1)
            self.block(segment.token_ids[block.start : block.stop].tolist(), block)
            end = block.stop
        self.text(segment.token_ids[end:].tolist(), -1)

    @torch.no_grad()
    def text(self, ids: Sequence[int], source: int | None) -> None:
        self.ids += ids
        self.source += [source] * len(ids)
        for embeds, model in ((self.policy_embeds, self.policy), (self.base_embeds, self.base)):
            embeds.append(model.get_input_embeddings()(torch.tensor(list(ids), dtype=torch.long)))

    @torch.no_grad()
    def block(self, ids: list[int], block: Any) -> None:
        rows = slice(len(self.ids), len(self.ids) + len(ids))
        self.source += [len(self.grids)] * len(ids)
        self.ids += ids
        self.grids.append(block.grid_thw)
        grid = torch.tensor([block.grid_thw])
        for embeds, model in ((self.policy_embeds, self.policy), (self.base_embeds, self.base)):
            (features,) = model.get_image_features(block.pixel_values, grid).pooler_output
            embeds.append(features)
        depth = self.config.depth
        base_logits = lens(self.base, self.activations(self.base)[:depth, rows])
        self.entropies.append(entropy(base_logits))
        self.masks.append(self.entropies[-1] <= limits(self.entropies[-1], self.config))
        if self.config.method == "token":
            self.policy_embeds[-1] = self.optimised(rows, base_logits, self.masks[-1])

    def optimised(self, rows: slice, base_logits: Tensor, mask: Tensor) -> Tensor:
        features = self.policy_embeds[-1]
        delta = torch.zeros_like(features)
        for _ in range(self.config.steps):
            delta.requires_grad_()
            with torch.enable_grad():
                self.policy_embeds[-1] = features + delta
                (gradient,) = torch.autograd.grad(self.loss(rows, base_logits, mask), delta)
            delta = delta.detach() - self.config.rate * gradient
        return features + delta

    def loss(self, rows: slice, base_logits: Tensor, mask: Tensor) -> Tensor:
        hidden = self.activations(self.policy)[:, rows]
        loss = torch.zeros(())
        for layer, chosen in enumerate(mask):
            if chosen.any():
                logits = lens(self.policy, hidden[layer, chosen])
                loss = loss + top_kl(base_logits[layer, chosen], logits, self.config.top_k).mean()
        return loss / mask.shape[1]

    def activations(self, model: Any, edit: Edit = unedited) -> Tensor:
        embeds = self.policy_embeds if model is self.policy else self.base_embeds
        return forward(model, torch.cat(embeds), self.ids, self.grids, edit)

    @torch.no_grad()
    def policy_activations(self) -> Tensor:
        """Outputs of the policy's layers `(layers, T, D)`, replayed."""
        if self.config.method != "state":
            return self.activations(self.policy)
        depth = self.config.depth
        base = self.activations(self.base)[:depth]
        base_entropy = entropy(lens(self.base, base))
        plain_entropy = entropy(lens(self.policy, self.activations(self.policy)[:depth]))
        replace = (base_entropy < self.state_limits()) & (base_entropy < plain_entropy)
        return self.activations(
            self.policy,
            lambda layer, hidden: (
                torch.where(replace[layer, :, None], base[layer], hidden)
                if layer < depth
                else hidden
            ),
        )

    def state_limits(self) -> Tensor:
        """Of every layer at every token; below every entropy where nothing is replaced."""
        columns, last = [], None
        for source in self.source:
            if source is not None and source >= 0:
                last = limits(self.entropies[source], self.config)
            absolute = self.config.threshold == "absolute"
            current = limits(torch.zeros(self.config.depth, 1), self.config) if absolute else last
            if source is None or current is None:
                current = torch.full((self.config.depth, 1), -1.0)
            columns.append(current)
        return torch.cat(columns, dim=1)

    def next_logits(self) -> Tensor:
        return lens(self.policy, self.policy_activations()[-1, -1])

    def generate(self, count: int) -> tuple[int, ...]:
        new = []
        for _ in range(count):
            new.append(int(self.next_logits().argmax()))
            self.text([new[-1]], None)
        return tuple(new)
