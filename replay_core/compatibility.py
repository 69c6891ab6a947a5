"""The check that policy and base are alike, as far as it needs no weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from visreplay.replay_core.errors import PairMismatchError

Facts = dict[str, Any]
"""Values that must agree between two models, by name."""

Budget = tuple[int, int]
"""The least and the largest number of pixels."""


FEATURE_FACTS = (
    "image_seq_length",
    "downsample_ratio",
    "image_grid_pinpoints",
    "vision_aspect_ratio",
    "vision_feature_layer",
    "vision_feature_select_strategy",
)
"""Settings that the number of visual tokens depends on, in families that cut images into tiles."""


def architecture(config: Any) -> Facts:
    """Collect what must agree so that activations of two models can replace each other."""
    top = ("model_type", "image_token_id", "video_token_id", *FEATURE_FACTS)
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    grid = ("image_size", "patch_size", "temporal_patch_size", "spatial_merge_size")
    text, vision = config.get_text_config(), getattr(config, "vision_config", None)
    rope = getattr(text, "rope_parameters", None) or {}
    return {
        **_facts("", config, top),
        **_facts("", text, (*sizes, "vocab_size")),
        **{name: rope.get(name) for name in ("rope_theta", "mrope_section")},
        **_facts("vision ", vision, (*grid, "tokens_per_second", "deepstack_visual_indexes")),
    }


MAX_COUNT = 10_000
"""The largest number of layers or classes in a configuration."""

COUNTS = ("num_hidden_layers", "depth", "num_labels")
"""The counts of which transformers makes lists when it reads a configuration."""


def check_counts(settings: Any) -> None:
    """Refuse the JSON of a configuration whose lists would take all memory.

    Args:
        settings: The file's content, or a part of it.

    Raises:
        ValueError: One of `COUNTS` is larger than `MAX_COUNT`.
    """
    if isinstance(settings, list):
        settings = dict(enumerate(settings))
    if isinstance(settings, dict):
        for name in COUNTS:
            count = settings.get(name)
            if isinstance(count, int | float) and count > MAX_COUNT:
                raise ValueError(f"{name} is {count}, but must be at most {MAX_COUNT}")
        for part in settings.values():
            check_counts(part)


def check_config(config: Any) -> None:
    """Refuse a configuration without what is read of every one, or with values of another kind.

    Raises:
        Exception: whatever the values lead to.
    """
    text = config.get_text_config()
    for name in ("hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"):
        value = getattr(text, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}, but must be a whole number, 1 or more")
    architecture(config)
    named_dtype(config)


def named_dtype(config: Any) -> torch.dtype | None:
    """Return the data type that a configuration names; some name it for the text model alone."""
    dtype = config.dtype or config.get_text_config().dtype
    named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not isinstance(named, torch.dtype):
        raise ValueError(f"dtype is {dtype!r}, which is no type of torch")
    return named


def image_processing(processor: Any) -> Facts:
    """Collect how a processor turns images and videos into patches, but for its pixel budget."""
    grid = ("patch_size", "temporal_patch_size", "merge_size", "size", "do_resize")
    tiles = ("crop_to_patches", "min_patches", "max_patches", "image_grid_pinpoints", "do_pad")
    colour = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    image, video = (getattr(processor, f"{kind}_processor", None) for kind in ("image", "video"))
    facts = {
        **_facts("image ", image, grid + tiles + colour),
        **_facts("video ", video, grid + colour),
        **_facts("", processor, ("num_image_tokens", *FEATURE_FACTS)),
    }
    for kind in pixel_budgets(processor):
        del facts[f"{kind} size"]
    return facts


def pixel_budgets(processor: Any) -> dict[str, Budget]:
    """Return the least and the largest number of pixels of an "image" and of a "video".

    Only processors of the Qwen kind have budgets, which resize to whole visual tokens; the size
    of others is that of a tile.
    """
    parts: dict[str, Any] = {
        kind: getattr(processor, f"{kind}_processor", None) for kind in ("image", "video")
    }
    return {
        kind: (part.size.shortest_edge, part.size.longest_edge)
        for kind, part in parts.items()
        if hasattr(part, "merge_size")
    }


def _facts(prefix: str, holder: Any, names: Sequence[str]) -> Facts:
    return {f"{prefix}{name}": _plain(getattr(holder, name, None)) for name in names}


def _plain(value: Any) -> Any:
    """Convert sequences and mappings to tuples and dicts, so that they compare."""
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return tuple(value) if isinstance(value, list | tuple) else value


def check_alike(policy: Facts, base: Facts, way_out: str = "") -> None:
    """Compare two sets of facts.

    Args:
        policy: The policy's.
        base: The base's.
        way_out: What to do if the models do belong together, for the error.

    Raises:
        PairMismatchError: names up to three differences, with both values.
    """
    names = [name for name in {**policy, **base} if policy.get(name) != base.get(name)]
    if names:
        differences = "; ".join(
            f"{name} is {policy.get(name)} in the policy and {base.get(name)} in the base"
            for name in names[:3]
        )
        raise PairMismatchError(
            f"policy and base differ in {len(names)} place(s): {differences}. The base must be the "
            "model that the policy was trained from" + (f"; if it is, {way_out}" if way_out else "")
        )
