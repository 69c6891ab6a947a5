"""Tensors that policy and base have in common are kept once."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def share_tensors(policy: nn.Module, base: nn.Module, device: str | None = None) -> int:
    """Let the base use the policy's parameters wherever its own are equal bit for bit.

    Only parameters on the same device can be shared.

    Args:
        policy: The policy.
        base: The base, which is changed.
        device: Where to move the base, one parameter at a time, so that at most one that the
            policy has too takes memory there; None leaves the base where it is.

    Returns:
        Bytes of parameters that the base does not need memory for.
    """
    ours = dict(policy.named_parameters(remove_duplicate=False))
    freed: dict[int, int] = {}
    for name in [name for name, _ in base.named_parameters(remove_duplicate=False)]:
        path, _, leaf = name.rpartition(".")
        owner, twin = base.get_submodule(path), ours.get(name)
        theirs = getattr(owner, leaf)
        if device is not None:
            theirs.data = theirs.data.to(device)
        if twin is None or twin is theirs or twin.device != theirs.device:
            continue
        if twin.dtype == theirs.dtype and torch.equal(twin, theirs):
            setattr(owner, leaf, twin)
            freed[id(theirs)] = theirs.nbytes
    if device is not None:
        base.to(device)  # the buffers
    return sum(freed.values())


def equal_tensors(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    """Tell whether two models hold the same weights, bit for bit, on whatever device."""
    return (
        bool(ours)
        and ours.keys() == theirs.keys()
        and all(
            ours[name].dtype == theirs[name].dtype
            and torch.equal(ours[name], theirs[name].to(ours[name].device))
            for name in ours
        )
    )
