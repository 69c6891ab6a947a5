"""The data type of the weights of a pair, and the devices that they are put on."""

import logging
from typing import Any

import torch

from visreplay.replay_core.checkpoint import Checkpoint
from visreplay.replay_core.compatibility import named_dtype
from visreplay.replay_core.errors import ConfigError

logger = logging.getLogger(__name__)


def common_dtype(
    policy: Checkpoint, policy_config: Any, base: Checkpoint | None, base_config: Any
) -> torch.dtype | str:
    """Choose one data type for both models by their configurations.

    The optimiser's copy of a policy is often saved in float32 beside a base in bfloat16. Of two
    types the smaller one is taken, and of two of one size the base's: equal tensors are then
    shared, and memory is what it is for one model.

    Returns:
        The data type, or "auto" if none is named.
    """
    ours = named_dtype(policy_config)
    theirs = ours if base_config is None else named_dtype(base_config)
    if ours is None or theirs is None:
        return ours or theirs or "auto"
    common = theirs if theirs.itemsize <= ours.itemsize else ours
    if ours != theirs and base is not None:
        kinds = [str(kind).removeprefix("torch.") for kind in (ours, theirs, common)]
        logger.warning(
            "%s is in %s and %s in %s: both are loaded in %s",
            *(policy.name, kinds[0], base.name, kinds[1], kinds[2]),
        )
    return common


def default_device() -> str:
    """Return the name of a GPU, if there is one, or else of the CPU."""
    accelerators = {"cuda": torch.cuda, "mps": torch.backends.mps}
    return next((name for name, kind in accelerators.items() if kind.is_available()), "cpu")


def check_device(name: str, device: str) -> None:
    """Refuse a device that is not there, before any weights are read.

    Raises:
        ConfigError: torch cannot put a tensor there.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{name} is {device!r}, which cannot be used ({reason}): use 'auto', 'cpu', or a GPU "
            "that is there, such as 'cuda:0'"
        ) from error


def check_dtype(dtype: torch.dtype | str) -> None:
    """Refuse the name of a data type that torch does not have, before any weights are read.

    Raises:
        ConfigError: there is no such type.
    """
    named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype != "auto" and not isinstance(named, torch.dtype):
        raise ConfigError(
            f"dtype is {dtype!r}, but must be 'auto' or a type of torch, such as 'bfloat16'"
        )
