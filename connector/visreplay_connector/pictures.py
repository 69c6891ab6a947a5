"""Pictures of requests that bring their sizes alone: what is wrong with them, before vLLM sees it.

vLLM computes positions from the sizes in its workers, where a mistake would end the engine.
"""

import math
from typing import Any

from visreplay_connector.handles import HandleError

_CONTENT = frozenset({"pixel_values", "pixel_values_videos", "image_embeds", "video_embeds"})
"""Names of the inputs that a picture's features can be computed from."""

_SECONDS = "second_per_grid_ts"
_APART = frozenset({"qwen3_vl", "qwen3_vl_moe"})
"""Families that write each step of a video as a picture: it is one to vLLM too."""


def is_bare(feature: Any) -> bool:
    """Tell whether a picture came with sizes alone, and could not be computed."""
    return feature.data is not None and not _CONTENT & set(feature.data)


def check_picture(feature: Any, tokens: int, model: Any) -> None:
    """Check a picture of a request with a handle.

    Args:
        feature: vLLM's `MultiModalFeatureSpec`.
        tokens: Number of tokens of the prompt.
        model: vLLM's `ModelConfig`.

    Raises:
        HandleError: What is wrong with it.
    """
    place = feature.mm_position
    if not (place.offset >= 0 and place.length >= 1 and place.offset + place.length < tokens):
        raise HandleError("a picture reaches to the end of the prompt, or beyond it")
    if feature.modality not in ("image", "video"):
        raise HandleError(f"{str(feature.modality)[:20]!r} is no image and no video")
    if not is_bare(feature):
        raise HandleError("a picture comes with more than its sizes, which nobody would look at")
    config = model.hf_config
    if feature.modality == "video" and config.model_type in _APART:
        raise HandleError("a video of this family is sent as its frames, each an image")
    if not model.uses_mrope:
        return
    sizes = {name: each.data for name, each in feature.data.items()}
    name = f"{feature.modality}_grid_thw"
    grid = _numbers(sizes, name)
    if more := sorted(set(sizes) - {name, _SECONDS}):
        raise HandleError(f"a picture comes with {more[0][:40]!r}, which is none of its sizes")
    merged = config.vision_config.spatial_merge_size
    whole = all(isinstance(each, int) for each in grid)
    if not whole or len(grid) != 3 or min(grid) < 1 or math.prod(grid) != place.length * merged**2:
        raise HandleError(f"a picture has {place.length} tokens, but the grid {grid}")
    if grid[1] % merged or grid[2] % merged:
        raise HandleError(f"the grid {grid} of a picture is not one of {merged} x {merged} patches")
    steps = float(grid[0])
    if _SECONDS in sizes:
        seconds = sizes[_SECONDS].flatten().tolist()
        if len(seconds) != 1:
            raise HandleError(f"{_SECONDS} are {len(seconds)} numbers, not one")
        steps *= seconds[0] * getattr(config.vision_config, "tokens_per_second", 1.0)
    longest = model.hf_text_config.max_position_embeddings
    if not 0 <= steps + tokens <= longest:
        raise HandleError(f"a video of {steps:g} positions is too long for a model of {longest}")


def _numbers(sizes: dict[str, Any], name: str) -> list[Any]:
    """Read a vector of a few numbers.

    Raises:
        HandleError: It is none, or not there.
    """
    try:
        vector = sizes[name]
        if vector.ndim != 1 or len(vector) > 3:
            raise TypeError(f"it has the shape {tuple(vector.shape)}")
        numbers: list[Any] = vector.tolist()
    except (AttributeError, KeyError, TypeError) as error:
        raise HandleError(f"a picture comes without {name}, or it is no vector: {error}") from error
    return numbers
