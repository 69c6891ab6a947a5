"""The method from scratch: whole contexts, transformers' own forward, full softmaxes, no caches.

Written by method.md and not by the package, from which it takes only the settings and the
segments. Visual features come from the model's own `get_image_features`, positions from its
`get_rope_index`, activations from hooks on its own decoder, and the formulas of lens, limits and
divergence from `benchmarks/reference.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from reference import lens, limits, top_kl
from torch import Tensor

from visreplay.replay_core import ReplayConfig, Segment, VisualBlock

Edit = Callable[[int, Tensor], Tensor]
GRIDS = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")


@dataclass
class ModelInputs:
    """The inputs of one of the two models: embeddings, and features for deeper layers."""

    model: Any
    embeds: list[Tensor] = field(default_factory=list)
    deep: list[list[Tensor]] = field(default_factory=list)

    def encode(self, block: VisualBlock) -> None:
        inputs = {n: x for n, x in block.inputs.items() if n != "second_per_grid_ts"}
        output = getattr(self.model, f"get_{block.kind}_features")(**inputs)
        self.embeds.append(torch.cat(list(output.pooler_output)))
        self.deep.append([each for (each,) in getattr(output, "deepstack_features", ())])

    def forward(
        self, ids: list[int], types: Tensor, blocks: list[VisualBlock], edit: Edit
    ) -> Tensor:
        """Outputs of all decoder layers `(layers, T, D)`, before the final norm."""
        decoder, ids_1T = self.model.model.language_model, torch.tensor([ids])
        inputs: dict[str, Any] = {}
        if hasattr(self.model.model, "get_rope_index"):
            grids = {n: [b.inputs[n] for b in blocks if n in b.inputs] for n in GRIDS}
            inputs["position_ids"], _ = self.model.model.get_rope_index(
                ids_1T,
                mm_token_type_ids=types[None],
                **{name: torch.cat(each) for name, each in grids.items() if each},
            )
        if any(self.deep):
            inputs["visual_pos_masks"] = types[None].bool()
            inputs["deepstack_visual_embeds"] = [torch.cat(x) for x in zip(*self.deep, strict=True)]
        outputs: list[Tensor] = []

        def hook(module: Any, args: Any) -> Any:
            outputs.append(edit(len(outputs), args[0][0]))
            return outputs[-1][None], *args[1:]

        # The input of the next layer is the output of the last one, with its deep features.
        after = [*decoder.layers[1:], decoder.norm]
        handles = [module.register_forward_pre_hook(hook) for module in after]
        try:
            decoder(inputs_embeds=torch.cat(self.embeds)[None], use_cache=False, **inputs)
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack(outputs)


def unedited(layer: int, hidden: Tensor) -> Tensor:
    return hidden


def entropy(logits: Tensor) -> Tensor:
    """Compute entropies in double precision, so that masks do not depend on the order of a sum."""
    log_p = logits.double().log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1).float()


@dataclass
class Oracle:
    """A context that is computed anew for every result."""

    policy: ModelInputs
    base: ModelInputs
    config: ReplayConfig
    ids: list[int] = field(default_factory=list)
    blocks: list[VisualBlock] = field(default_factory=list)
    # For every token: index of its visual block, -1 for appended text, None if generated.
    source: list[int | None] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    entropies: list[Tensor] = field(default_factory=list)
    appended: int = 0

    @classmethod
    def of(cls, policy: Any, base: Any, config: ReplayConfig) -> "Oracle":
        return cls(ModelInputs(policy), ModelInputs(base), config)

    def append(self, segment: Segment) -> None:
        end = 0
        for block in segment.blocks:
            self.text(segment.token_ids[end : block.start].tolist(), -1)
            self.block(segment.token_ids[block.start : block.stop].tolist(), block)
            end = block.stop
        self.text(segment.token_ids[end:].tolist(), -1)
        self.appended = len(self.ids)

    @property
    def reference(self) -> bool:
        return self.config.alignment == "reference"

    @torch.no_grad()
    def text(self, ids: Sequence[int], source: int | None) -> None:
        self.ids += ids
        self.source += [source] * len(ids)
        for side in (self.policy, self.base):
            table = side.model.get_input_embeddings()
            side.embeds.append(table(torch.tensor(list(ids), dtype=torch.long)))

    @torch.no_grad()
    def block(self, ids: list[int], block: VisualBlock) -> None:
        rows = slice(len(self.ids), len(self.ids) + len(ids))
        self.source += [len(self.blocks)] * len(ids)
        self.ids += ids
        self.blocks.append(block)
        self.policy.encode(block)
        self.base.encode(block)
        depth = self.config.depth
        base_logits = lens(self.base.model, self.activations(self.base)[:depth, rows])
        self.entropies.append(entropy(base_logits))
        limit = limits(self.entropies[-1], self.config)
        strict = self.config.method == "state"
        self.masks.append(self.entropies[-1] < limit if strict else self.entropies[-1] <= limit)
        if self.config.method == "token":
            self.policy.embeds[-1] = self.optimised(rows, base_logits, self.masks[-1])
        if self.config.method == "feature":
            decides, patched = self.config.feature_layers - 1, self.config.patched_layers
            low_T = self.masks[-1][decides].clone()
            self.masks[-1][:] = False
            self.masks[-1][decides] = low_T
            self.masks[-1][:patched] = low_T
            ours, theirs = self.policy, self.base
            low = low_T[:, None]
            ours.embeds[-1] = torch.where(low, theirs.embeds[-1], ours.embeds[-1])
            pairs = zip(theirs.deep[-1], ours.deep[-1], strict=True)
            ours.deep[-1] = [torch.where(low, *each) for each in pairs]

    def optimised(self, rows: slice, base_logits: Tensor, mask: Tensor) -> Tensor:
        features = self.policy.embeds[-1]
        delta = torch.zeros_like(features, requires_grad=True)
        scale, optimizer = float(features.square().mean().sqrt()), None
        for _ in range(self.config.steps):
            with torch.enable_grad():
                self.policy.embeds[-1] = features + delta
                loss = self.loss(rows, base_logits, mask)
                (delta.grad,) = torch.autograd.grad(loss, delta)
            if optimizer is None and self.config.optimizer == "sgd":
                optimizer = torch.optim.SGD([delta], lr=self.config.rate)
            elif optimizer is None:
                floor = float(delta.grad.square().mean().sqrt())
                rate = self.config.rate * scale
                optimizer = torch.optim.Adam([delta], lr=rate, betas=(0.5, 0.9), eps=floor)
            optimizer.step()
        return features + delta.detach()

    def loss(self, rows: slice, base_logits: Tensor, mask: Tensor) -> Tensor:
        hidden = self.activations(self.policy)
        if self.reference:
            hidden = torch.cat([torch.cat(self.policy.embeds)[None], hidden[:-1]])
        hidden = hidden[:, rows]
        loss = torch.zeros(())
        for layer, chosen in enumerate(mask):
            if chosen.any():
                logits = lens(self.policy.model, hidden[layer, chosen])
                loss = loss + top_kl(base_logits[layer, chosen], logits, self.config.top_k).mean()
        return loss / mask.shape[1]

    def activations(self, side: ModelInputs, edit: Edit = unedited) -> Tensor:
        # By where a token comes from: a random model may write placeholders.
        kinds = {"image": 1, "video": 2}
        types = [
            0 if source is None or source < 0 else kinds[self.blocks[source].kind]
            for source in self.source
        ]
        return side.forward(self.ids, torch.tensor(types), self.blocks, edit)

    @torch.no_grad()
    def policy_activations(self) -> Tensor:
        """Outputs of the policy's layers `(layers, T, D)`, replayed."""
        if self.config.method == "feature" and self.config.patched_layers:
            return self.patched()
        if self.config.method != "state":
            return self.activations(self.policy)
        depth = self.config.depth
        base = self.activations(self.base)[:depth]
        base_entropy = entropy(lens(self.base.model, base))
        plain_entropy = entropy(lens(self.policy.model, self.activations(self.policy)[:depth]))
        replace = (base_entropy < self.state_limits()) & (base_entropy < plain_entropy)
        embeds = self.policy.embeds
        if self.reference:  # the input of a layer is the output of the one below
            entering = torch.cat(self.base.embeds)
            self.policy.embeds = [torch.where(replace[0, :, None], entering, torch.cat(embeds))]
            replace = torch.cat([replace[1:], torch.zeros_like(replace[:1])])
        edited = self.activations(
            self.policy,
            lambda layer, hidden: (
                torch.where(replace[layer, :, None], base[layer], hidden)
                if layer < depth
                else hidden
            ),
        )
        self.policy.embeds = embeds
        return edited

    def patched(self) -> Tensor:
        """Outputs of the policy's layers with the base's at the chosen visual tokens."""
        base = self.activations(self.base)
        chosen = torch.zeros(len(self.ids), dtype=torch.bool)
        for index, mask in enumerate(self.masks):
            places = [place for place, source in enumerate(self.source) if source == index]
            chosen[places] = mask[0]
        return self.activations(
            self.policy,
            lambda layer, hidden: (
                torch.where(chosen[:, None], base[layer], hidden)
                if layer < self.config.patched_layers
                else hidden
            ),
        )

    def state_limits(self) -> Tensor:
        """The limits `(L, T)` in nats; below every entropy where nothing is replaced."""
        columns, last = [], None
        for source in self.source:
            if source is not None and source >= 0:
                last = limits(self.entropies[source], self.config)
            absolute = self.config.threshold == "absolute"
            current = limits(torch.zeros(self.config.depth, 1), self.config) if absolute else last
            plain = source is None and not (self.reference and len(columns) < self.appended)
            if plain or current is None:
                current = torch.full((self.config.depth, 1), -1.0)
            columns.append(current)
        return torch.cat(columns, dim=1)

    def next_logits(self) -> Tensor:
        return lens(self.policy.model, self.policy_activations()[-1, -1])

    def generate(self, count: int) -> tuple[int, ...]:
        new = []
        for _ in range(count):
            new.append(int(self.next_logits().argmax()))
            self.text([new[-1]], None)
        return tuple(new)
