"""The interface to a model family.

An adapter wraps a Hugging Face model and lets the rest of the package work with hidden states:
embed, run decoder layers over a cache, normalise, read out. It installs no hooks and changes no
weights; the loop over the decoder layers is its own, so that an activation can be read or
replaced between two of them.

Axes of tensors: T positions, D hidden size, 3 rotary axes (time, height, width;
the first alone counts where a family has one).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from visreplay.replay_core.cache import KVCache
from visreplay.replay_core.errors import UnsupportedModelError
from visreplay.replay_core.families.attention import attention_mask
from visreplay.replay_core.segment import BlockInputs, Kind, VisualBlock

Visitor = Callable[[int, slice, Tensor], Tensor | None]
"""`visit(layer, rows, hidden_TD)` gets the output of each decoder layer for the positions `rows`
of a run; a tensor that it returns takes the activation's place."""


@dataclass(frozen=True, eq=False)
class Features:
    """The inputs of the decoder at new positions.

    Attributes:
        embeds_TD: Their input embeddings.
        deep: Tensors `(T, D)` that are added to the outputs of the first decoder layers; none for
            text and in most families. Replay does not change them.
    """

    embeds_TD: Tensor
    deep: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        """Number of positions."""
        return len(self.embeds_TD)

    def exchanged(self, others: "Features", where_T: Tensor) -> "Features":
        """Take the inputs of another model at some positions."""
        each = zip((self.embeds_TD, *self.deep), (others.embeds_TD, *others.deep), strict=True)
        embeds_TD, *deep = (
            torch.where(where_T[:, None].to(ours_TD.device), theirs_TD.to(ours_TD), ours_TD)
            for ours_TD, theirs_TD in each
        )
        return Features(embeds_TD, tuple(deep))


class ModelAdapter(ABC):
    """One vision-language model, seen as a stack of decoder layers.

    The methods here fit a causal decoder of the Qwen or Llama kind (`layers`, `norm`,
    `rotary_emb`) behind a vision tower that `get_image_features` and `get_video_features` run.
    Another family needs a subclass that sets the class attributes, implements `split`, and
    overrides what else is different; `registry.py` lists the families.

    Attributes:
        model: The wrapped model, frozen and in evaluation mode.
        model_types: Values of `config.model_type` that the class handles.
        vision_parts: Names of the members of `model.model` that visual features depend on.
        rotary_axes: 1, or 3 if image tokens have positions in time, height and width of their own.
        frames_apart: Whether each step in time of a video is a block of its own.
    """

    model_types: ClassVar[frozenset[str]] = frozenset()
    vision_parts: ClassVar[tuple[str, ...]] = ("vision_tower", "multi_modal_projector")
    rotary_axes: ClassVar[int] = 1
    frames_apart: ClassVar[bool] = False

    def __init__(self, model: PreTrainedModel) -> None:
        """Wrap and freeze a model.

        Raises:
            UnsupportedModelError: weights are offloaded, or the LM head is not a plain linear.
        """
        # `Any`: what is called on it below differs from family to family.
        self.model: Any = model.eval().requires_grad_(False)
        offloaded = [name for name, weight in model.named_parameters() if weight.is_meta]
        if offloaded:
            raise UnsupportedModelError(
                f"{len(offloaded)} weights are offloaded ({offloaded[0]}, ...), but replay needs "
                "them in memory: use a smaller dtype, fewer replay layers or more devices"
            )
        if not (isinstance(self.head, nn.Linear) and self.head.weight.is_floating_point()):
            raise UnsupportedModelError(
                f"the LM head is a {type(self.head).__name__}, but replay reads single rows of a "
                "linear one: load the model without quantising its head"
            )

    # What differs between families.

    @abstractmethod
    def split(self, kind: Kind, batch: Mapping[str, Any]) -> Sequence[BlockInputs]:
        """Split all blocks of one kind out of the output of the family's processor, in order.

        Raises:
            ContextError: the output contradicts itself; names both counts.
        """

    @property
    def placeholders(self) -> dict[int, Kind]:
        """The placeholder ids of visual tokens, and the kind of block that each stands for."""
        kinds: tuple[Kind, ...] = ("image", "video")
        ids = {kind: getattr(self.model.config, f"{kind}_token_id", None) for kind in kinds}
        return {token_id: kind for kind, token_id in ids.items() if token_id is not None}

    def vision_inputs(self, block: VisualBlock) -> Mapping[str, Tensor]:
        """Select the arguments of `get_image_features` or `get_video_features` for a block."""
        return block.inputs

    def block_positions(self, block: VisualBlock, start: int) -> Tensor:
        """Compute the rotary positions `(3, T)` of a visual block that begins at `start`."""
        return self.text_positions(block.length, start)

    # The language model.

    @property
    def language_model(self) -> Any:
        """The module that holds the decoder (`layers`) and the final norm (`norm`)."""
        return self.model.model.language_model

    @property
    def text_config(self) -> Any:
        """The configuration of the language model."""
        return self.model.config.get_text_config()

    @property
    def depth(self) -> int:
        """Number of decoder layers."""
        return len(self.language_model.layers)

    @property
    def max_positions(self) -> int:
        """Number of positions that the model was made for."""
        return int(self.text_config.max_position_embeddings)

    @property
    def norm(self) -> Callable[[Tensor], Tensor]:
        """The final norm, between the last decoder layer and the LM head."""
        norm: nn.Module = self.language_model.norm
        return norm

    @property
    def head(self) -> nn.Linear:
        """The LM head."""
        head: nn.Linear = self.model.get_output_embeddings()
        return head

    def keep_layers(self, count: int) -> None:
        """Free all decoder layers but the first `count`."""
        del self.language_model.layers[count:]

    def embed(self, ids_T: Tensor) -> Features:
        """Embed text tokens."""
        table: nn.Embedding = self.model.get_input_embeddings()
        return Features(table(ids_T.to(table.weight.device)))

    def layer_inputs(
        self,
        hidden_BTD: Tensor,
        positions_3BT: Tensor,
        cache: KVCache,
        seen_BS: Tensor | None = None,
    ) -> list[dict[str, Any]]:
        """Make the keyword arguments of each decoder layer: mask and rotary embedding.

        Args:
            hidden_BTD: Input embeddings of new positions, behind those in the cache.
            positions_3BT: Their rotary positions.
            cache: The keys and values so far.
            seen_BS: Mask of the positions, old and new, that exist; by default all of them.
        """
        config = self.text_config
        # Families that never slide a window do not name the kinds of their layers.
        kinds = getattr(config, "layer_types", None) or ["full_attention"] * self.depth
        kinds = kinds[: cache.depth]
        masks = {
            kind: attention_mask(kind, config, hidden_BTD, cache, seen_BS) for kind in set(kinds)
        }
        positions_3BT = positions_3BT.to(hidden_BTD.device)
        positions = positions_3BT[0] if self.rotary_axes == 1 else positions_3BT
        rotary = self.language_model.rotary_emb(hidden_BTD, positions)
        return [{"attention_mask": masks[kind], "position_embeddings": rotary} for kind in kinds]

    # The vision tower.

    def token_grid(self, block: VisualBlock) -> tuple[int, int, int]:
        """Return the grid of a block's visual tokens in time, height and width.

        Raises:
            UnsupportedModelError: in this family they do not form a grid.
        """
        raise UnsupportedModelError(
            f"the visual tokens of a {self.model.config.model_type} model do not form a grid, "
            "which the window teacher averages over: use another teacher"
        )

    @property
    def vision(self) -> dict[str, Tensor]:
        """The weights that visual features depend on; none once they were dropped."""
        weights = self.model.model.named_parameters()
        return {name: w for name, w in weights if name.split(".")[0] in self.vision_parts}

    def drop_vision(self) -> None:
        """Free the vision tower; `features` cannot be called any more."""
        for name in self.vision_parts:
            setattr(self.model.model, name, None)

    def features(self, block: VisualBlock) -> Features:
        """Run the vision tower over one block.

        Raises:
            UnsupportedModelError: the vision tower was dropped.
        """
        weights = list(self.vision.values())
        if not weights:
            raise UnsupportedModelError("this model's vision tower was dropped")
        encode = getattr(self.model, f"get_{block.kind}_features")
        inputs = self.vision_inputs(block).items()
        output = encode(**{name: x.to(weights[0].device) for name, x in inputs}, return_dict=True)
        table = self.model.get_input_embeddings().weight
        # Features come for all images at once, or for each image, or for each tile.
        embeds_TD, *deep = (
            torch.cat(list(features)).to(table.device, table.dtype)
            for features in (output.pooler_output, *getattr(output, "deepstack_features", ()))
        )
        return Features(embeds_TD, tuple(deep))

    # Positions, and the way through the layers.

    def text_positions(self, length: int, start: int) -> Tensor:
        """Compute rotary positions `(3, T)` of text: one further at every token, on all axes."""
        return torch.arange(start, start + length).expand(3, -1)

    def extent(self, block: VisualBlock) -> int:
        """Count the positions that a block takes up: the next token is at `start + extent`.

        That is one behind the block's maximum over all three axes: the rule that the checkpoints
        were trained with (Qwen2.5-VL's original `get_rope_index`), and the one of transformers
        when it generates (`rope_deltas`). Inside a prompt, transformers 5.23 instead goes on at
        `start + max(height, width)`. The two agree for images, not for a video whose time axis is
        the longest.
        """
        return int(self.block_positions(block, 0).max()) + 1

    def run(
        self,
        features: Features,
        positions_3T: Tensor,
        cache: KVCache,
        *,
        visit: Visitor | None = None,
        chunk: int | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """Run as many decoder layers as the cache has, for positions behind those in the cache.

        Args:
            features: Inputs at the new positions.
            positions_3T: Their rotary positions.
            cache: Keys and values of the context; those of the new positions are appended.
            visit: A visitor, which may replace the output of every layer.
            chunk: Positions to take at once, by default all of them. It changes no result.
            recompute: For gradients: keep only the input of every layer, and compute its inner
                activations again on the way back.

        Returns:
            The output of the last layer, `(T, D)`, before the final norm.
        """
        # The base may be fed the policy's features, from another device.
        embeds_TD = features.embeds_TD.to(self.model.get_input_embeddings().weight.device)
        total, deep = len(features), features.deep
        outputs = []
        for start in range(0, total, chunk or total):
            rows = slice(start, min(start + (chunk or total), total))
            hidden = embeds_TD[None, rows]
            layers = self._layers(hidden, positions_3T[:, None, rows], cache)
            for index, (layer, kwargs) in enumerate(layers):
                if recompute:
                    # No layer draws numbers, and other threads use torch's generator too.
                    hidden = checkpoint(
                        layer, hidden, use_reentrant=False, preserve_rng_state=False, **kwargs
                    )
                else:
                    hidden = layer(hidden, **kwargs)
                if index < len(deep):
                    hidden = hidden + deep[index][rows].to(hidden)
                replaced = visit(index, rows, hidden[0]) if visit else None
                if replaced is not None:
                    hidden = replaced[None]
            outputs.append(hidden[0])
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    def decode(
        self, ids_K: Tensor, positions_K: Tensor, cache: KVCache, lengths_K: Tensor
    ) -> Tensor:
        """Run all layers over one new text token of each of K contexts.

        Args:
            ids_K: The tokens.
            positions_K: Their rotary positions.
            cache: The cache of the batch, whose rows end together (`KVCache.regroup`). The keys
                and values of the new tokens are appended.
            lengths_K: Number of positions of each row then, counted from the end.

        Returns:
            The output of the last layer, `(K, D)`, before the final norm.
        """
        hidden_K1D = self.embed(ids_K).embeds_TD[:, None]
        seen_KS = None
        if lengths_K.min() < lengths_K.max():
            behind_S = torch.arange(int(lengths_K.max()), 0, -1)
            seen_KS = (behind_S <= lengths_K[:, None]).to(hidden_K1D.device)
        positions_3K1 = positions_K[:, None].expand(3, -1, -1)
        for layer, kwargs in self._layers(hidden_K1D, positions_3K1, cache, seen_KS):
            hidden_K1D = layer(hidden_K1D, **kwargs)
        decoded_KD: Tensor = hidden_K1D[:, 0]
        return decoded_KD

    def _layers(
        self,
        hidden_BTD: Tensor,
        positions_3BT: Tensor,
        cache: KVCache,
        seen_BS: Tensor | None = None,
    ) -> list[tuple[nn.Module, dict[str, Any]]]:
        """Return the decoder layers of the cache, each with its keyword arguments.

        All arguments are made before the first layer runs: every layer lengthens the cache.
        """
        inputs = self.layer_inputs(hidden_BTD, positions_3BT, cache, seen_BS)
        layers = zip(self.language_model.layers, inputs, strict=False)
        return [(layer, {**kwargs, "cache": cache}) for layer, kwargs in layers]
