"""The files of a checkpoint's weights, looked at before a model is built for them."""

import os
from collections.abc import Iterator
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForImageTextToText
from transformers.utils import (
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
)

from visreplay.replay_core.checkpoint import Checkpoint, reason
from visreplay.replay_core.errors import CheckpointError

LAYERS = ("num_hidden_layers", "depth")
"""Settings that count layers, each of which has tensors of its own."""


def count_weights(source: Checkpoint) -> int | None:
    """Count the numbers in a checkpoint's files of weights, and refuse files that are damaged.

    Files of the hub are looked at no further than their index, since the others are not here yet.

    Returns:
        The count; None if the files are not in a folder, or not in safetensors.

    Raises:
        CheckpointError: a file is cut off, damaged, or lies outside of the checkpoint; or the
            configuration has more layers than there are tensors, and would be read for ever.
    """
    shards = _shards(source, SAFE_WEIGHTS_INDEX_NAME)
    _shards(source, WEIGHTS_INDEX_NAME)
    if not os.path.isdir(source.at):
        return None
    folder = Path(source.at)
    whole = folder / SAFE_WEIGHTS_NAME
    files = [whole] if whole.is_file() else [folder / shard for shard in shards]
    shapes = [shape for file in files for shape in tensor_shapes(file)]
    if not files:
        return None
    _check_layers(source, len(shapes))
    return sum(prod(shape) for shape in shapes)


def check_size(source: Checkpoint, config: Any, stored: int) -> None:
    """Refuse a configuration of a model that is far larger than the files of weights.

    What they lack would be made up, at whatever size. A matrix that serves as embedding and as
    head is stored once, and counted twice here if the model does not tie the two.

    Args:
        source: The checkpoint.
        config: Its configuration.
        stored: How many numbers its files hold.

    Raises:
        CheckpointError: the model has more than twice as many, or cannot be built.
    """
    if getattr(config, "quantization_config", None):  # several numbers are stored as one
        return
    with source.reading(CONFIG_NAME), torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    needed = sum(weight.numel() for weight in model.parameters())
    if needed > 2 * stored:
        raise CheckpointError(
            f"config.json of the checkpoint {source.at!r} describes a model of {needed:,} weights, "
            f"but its files hold {stored:,}: correct it, or download the checkpoint again"
        )


def tensor_shapes(file: Path) -> Iterator[list[int]]:
    """Iterate over the shapes of the tensors in a safetensors file.

    Raises:
        CheckpointError: the file is not there, cut off or damaged.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            names = opened.keys()
            for name in names:
                yield opened.get_slice(name).get_shape()
    except (OSError, SafetensorError) as error:
        size = f" of {file.stat().st_size:,} bytes" if file.is_file() else ""
        raise CheckpointError(
            f"cannot read the file {str(file)!r}{size} ({reason(error)}): download it again"
        ) from error


def _shards(source: Checkpoint, index: str) -> list[str]:
    """List the files that an index of weights names, in order.

    Raises:
        CheckpointError: one of them is outside the checkpoint.
    """
    with source.reading(index):
        names = sorted(set(source.read_json(index).get("weight_map", {}).values()))
        for name in names:
            path, other = PurePosixPath(name), PureWindowsPath(name)
            if ".." in (*path.parts, *other.parts) or path.is_absolute() or other.anchor:
                raise ValueError(f"it names {name!r}, a file outside of the checkpoint")
    return names


def _check_layers(source: Checkpoint, tensors: int) -> None:
    """Refuse more layers than there are tensors: a list is made of them when they are read."""
    settings = source.read_json(CONFIG_NAME)
    parts: list[Any] = [settings, settings.get("text_config"), settings.get("vision_config")]
    for part in (part for part in parts if isinstance(part, dict)):
        for name in LAYERS:
            layers = part.get(name)
            if isinstance(layers, int) and layers > tensors:
                raise CheckpointError(
                    f"{name} is {layers} in config.json of the checkpoint {source.at!r}, but its "
                    f"weights are {tensors} tensors in all: correct it, or download the file again"
                )
