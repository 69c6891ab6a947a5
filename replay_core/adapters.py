"""What differs between model families, behind one interface.

An adapter wraps a Hugging Face model and lets the rest of the package work with hidden states:
embed, run decoder layers over a cache, normalise, read out. It installs no hooks and changes no
weights; the loop over the decoder layers is its own, so that an activation can be read or
replaced between two of them.

Axes of tensors: T positions, D hidden size, 3 rotary axes (time, height, width).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from visreplay.replay_core.cache import KVCache
from visreplay.replay_core.errors import UnsupportedModelError
from visreplay.replay_core.segment import VisualBlock

Visitor = Callable[[int, slice, Tensor], Tensor | None]
"""`visit(layer, rows, hidden_TD)` gets the output of each decoder layer for the positions `rows`
of a run; a tensor that it returns takes the activation's place."""


class ModelAdapter(ABC):
    """One vision-language model, seen as a stack of decoder layers.

    Another family needs a subclass that lists its `config.model_type` in `model_types` and
    implements the abstract members; `families.py` lists them.

    Attributes:
        model: The wrapped model, frozen and in evaluation mode.
        model_types: Values of `config.model_type` that the class handles.
    """

    model_types: ClassVar[frozenset[str]] = frozenset()

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

    @property
    @abstractmethod
    def language_model(self) -> Any:
        """The module that holds the decoder (`layers`) and the final norm (`norm`)."""

    @property
    @abstractmethod
    def vision(self) -> nn.Module | None:
        """The vision tower with its projector; None once it was dropped."""

    @abstractmethod
    def drop_vision(self) -> None:
        """Free the vision tower; `features` cannot be called any more."""

    @abstractmethod
    def features(self, block: VisualBlock) -> Tensor:
        """Input embeddings `(T, D)` of a visual block."""

    @abstractmethod
    def block_positions(self, block: VisualBlock, start: int) -> Tensor:
        """Rotary positions `(3, T)` of a visual block that begins at position `start`."""

    @abstractmethod
    def layer_inputs(
        self, hidden_1TD: Tensor, positions_3T: Tensor, cache: KVCache
    ) -> list[dict[str, Any]]:
        """Keyword arguments of each decoder layer of the cache: mask and rotary embedding.

        Args:
            hidden_1TD: Input embeddings of new positions, behind those in the cache.
            positions_3T: Their rotary positions.
            cache: The keys and values so far.
        """

    # What follows from it.

    @property
    def text_config(self) -> Any:
        """The configuration of the language model."""
        return self.model.config.get_text_config()

    @property
    def depth(self) -> int:
        """Number of decoder layers."""
        return len(self.language_model.layers)

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

    @property
    def image_token_id(self) -> int:
        """Placeholder id of an image's tokens."""
        return int(self.model.config.image_token_id)

    @property
    def video_token_id(self) -> int:
        """Placeholder id of a video's tokens."""
        return int(self.model.config.video_token_id)

    @property
    def merge_size(self) -> int:
        """Patches per visual token along height and along width."""
        return int(self.model.config.vision_config.spatial_merge_size)

    def keep_layers(self, count: int) -> None:
        """Free all decoder layers but the first `count`."""
        del self.language_model.layers[count:]

    def embed(self, ids_T: Tensor) -> Tensor:
        """Input embeddings `(T, D)` of text tokens."""
        table: nn.Embedding = self.model.get_input_embeddings()
        embeds: Tensor = table(ids_T.to(table.weight.device))
        return embeds

    def text_positions(self, length: int, start: int) -> Tensor:
        """Rotary positions `(3, T)` of text: one further at every token, on all axes alike."""
        return torch.arange(start, start + length).expand(3, -1)

    def extent(self, block: VisualBlock) -> int:
        """How many positions a block takes up: what follows starts at `start + extent`.

        That is one behind the block's maximum over all three axes: the rule that the checkpoints
        were trained with (Qwen2.5-VL's original `get_rope_index`), and the one of transformers
        when it generates (`rope_deltas`). Inside a prompt, transformers 5.23 instead goes on at
        `start + max(height, width)`. The two agree for images, not for a clip whose time axis is
        the longest.
        """
        return int(self.block_positions(block, 0).max()) + 1

    def run(
        self,
        embeds_TD: Tensor,
        positions_3T: Tensor,
        cache: KVCache,
        *,
        visit: Visitor | None = None,
        chunk: int | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """Run as many decoder layers as the cache has, for positions behind those in the cache.

        Args:
            embeds_TD: Input embeddings of the new positions.
            positions_3T: Their rotary positions.
            cache: Keys and values of the context; those of the new positions are appended.
            visit: Sees, and may replace, the output of every layer.
            chunk: Positions to take at once, by default all of them. It changes no result.
            recompute: For gradients: keep only the input of every layer, and compute what is
                inside again on the way back.

        Returns:
            The output of the last layer, `(T, D)`, before the final norm.
        """
        # The base may be fed the policy's features, from another device.
        embeds_TD = embeds_TD.to(self.model.get_input_embeddings().weight.device)
        total = embeds_TD.shape[0]
        outputs = []
        for start in range(0, total, chunk or total):
            rows = slice(start, min(start + (chunk or total), total))
            hidden = embeds_TD[None, rows]
            # All of them before the first layer runs: each one's update lengthens the cache.
            inputs = self.layer_inputs(hidden, positions_3T[:, rows], cache)
            layers = zip(self.language_model.layers, inputs, strict=False)
            for index, (layer, kwargs) in enumerate(layers):
                kwargs["cache"] = cache
                if recompute:
                    hidden = checkpoint(layer, hidden, use_reentrant=False, **kwargs)
                else:
                    hidden = layer(hidden, **kwargs)
                replaced = visit(index, rows, hidden[0]) if visit else None
                if replaced is not None:
                    hidden = replaced[None]
            outputs.append(hidden[0])
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]
