"""The attention mask of decoder layers: none that takes memory, wherever causality is all it says.

A block of T new positions that follows S - T others needs a mask with T x S entries, which rules
out flash attention, and which torch keeps for the gradient of every layer. Where nothing is padded
and no window slides, `BehindMask` stands in its place and has no entries.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import CausalBias, CausalVariant
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from visreplay.replay_core.cache import KVCache

MASKS: dict[str, Callable[..., Any]] = {
    "full_attention": create_causal_mask,
    "sliding_attention": create_sliding_window_causal_mask,
}
"""The function of transformers that makes the mask of each kind of decoder layer."""


class BehindMask(CausalBias):
    """The causal mask of T positions behind S - T others, without its entries.

    `scaled_dot_product_attention` of torch takes it where it takes a mask: on CUDA it runs the
    flash kernel, or in float32 the memory-efficient one; elsewhere it makes the mask for each
    layer. `torch.nn.attention.bias.causal_lower_right` is the same, but allocates 8 bytes for each
    entry, and loses its sizes when a hook of accelerate moves it to the device of a layer.
    """

    @staticmethod
    def __new__(cls, new: int, total: int) -> "BehindMask":
        """Make a scalar in the mask's place."""
        return Tensor._make_subclass(cls, torch.empty(()))

    def __init__(self, new: int, total: int) -> None:
        """Note the sizes.

        Args:
            new: The number T of positions that attend.
            total: The number S of positions that they attend to, their own included.
        """
        super().__init__(CausalVariant.LOWER_RIGHT, new, total)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run attention with the mask. A copy or a move is the mask itself: it has no entries."""
        if func in (Tensor.to, Tensor.clone):
            return args[0]
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]


def attention_mask(
    kind: str, config: Any, hidden_BTD: Tensor, cache: KVCache, seen_BS: Tensor | None
) -> Tensor | None:
    """Make the attention mask of decoder layers, in the form that their attention takes.

    Args:
        kind: A key of `MASKS`.
        config: The configuration of the language model.
        hidden_BTD: Input embeddings of new positions, behind those in the cache.
        cache: The keys and values so far.
        seen_BS: Mask of the positions, old and new, that exist; None for all of them.
    """
    new = hidden_BTD.shape[1]
    total = cache.length + new
    slides = kind == "sliding_attention" and total > config.sliding_window
    # One position attends to everything, and without a past torch's own causal mask is right:
    # for both, and for other kinds of attention, transformers knows to leave the mask out.
    if config._attn_implementation == "sdpa" and seen_BS is None and not slides and 1 < new < total:
        return BehindMask(new, total)
    mask: Tensor | None = MASKS[kind](
        config=config, inputs_embeds=hidden_BTD, attention_mask=seen_BS, cache=cache
    )
    return mask
