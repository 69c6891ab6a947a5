"""What must agree between a policy and its base, as far as it shows without weights."""

from collections.abc import Mapping
from typing import Any

from visreplay.replay_core.errors import PairMismatchError

Facts = dict[str, Any]
"""What must agree between two models, by name."""


def architecture(config: Any) -> Facts:
    """What must agree so that activations of two models can stand for each other."""
    top = ("model_type", "image_token_id", "video_token_id")
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    grid = ("patch_size", "temporal_patch_size", "spatial_merge_size", "tokens_per_second")
    text, vision = config.get_text_config(), getattr(config, "vision_config", None)
    rope = getattr(text, "rope_parameters", None) or {}
    return {
        **{name: getattr(config, name, None) for name in top},
        **{name: getattr(text, name, None) for name in (*sizes, "vocab_size")},
        **{name: rope.get(name) for name in ("rope_theta", "mrope_section")},
        **{f"vision {name}": getattr(vision, name, None) for name in grid},
    }


def picture_processing(processor: Any) -> Facts:
    """How a processor turns pictures and clips into patches, its pixel budget included."""
    grid = ("patch_size", "temporal_patch_size", "merge_size", "size", "do_resize")
    colour = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    parts = {"image": processor.image_processor, "video": processor.video_processor}
    return {
        f"{kind} {name}": _plain(getattr(part, name, None))
        for kind, part in parts.items()
        for name in grid + colour
    }


def _plain(value: Any) -> Any:
    """Sequences and mappings of whatever class as tuples and dicts, so that they compare."""
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return tuple(value) if isinstance(value, list | tuple) else value


def check_alike(policy: Facts, base: Facts) -> None:
    """Compare two sets of facts.

    Raises:
        PairMismatchError: names up to three differences, with both values.
    """
    names = [name for name in {**policy, **base} if policy.get(name) != base.get(name)]
    if names:
        shown = "; ".join(
            f"{name} is {policy.get(name)} in the policy and {base.get(name)} in the base"
            for name in names[:3]
        )
        raise PairMismatchError(
            f"policy and base differ in {len(names)} place(s): {shown}. The base must be the "
            "model that the policy was trained from"
        )
