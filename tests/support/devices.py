"""Several devices on a machine that has only a CPU.

`Devices` is a mode in which every tensor has a place of its own: that of its operands, or the one
that it was put on. Values are computed on the CPU as always, so that results can be compared, but
an operation on tensors of two places raises, as on CUDA. Tensors are on the CPU by default.
"""

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")
GETTER = Tensor.device.__get__  # type: ignore[attr-defined]
SETTER = Tensor.data.__set__  # type: ignore[attr-defined]
MOVES = {Tensor.to, Tensor.cpu}
# Functions that copy values from one device to another by themselves.
COPIES = {Tensor.copy_, Tensor.__setitem__, SETTER, torch._has_compatible_shallow_copy_type}


class DeviceError(RuntimeError):
    """Tensors of several devices met."""


def place_of(tensor: Tensor) -> torch.device:
    place: torch.device = tensor.__dict__.get("place", CPU)
    return place


def put(tensor: Tensor, place: torch.device) -> Tensor:
    if place != CPU and tensor.dtype == torch.float64:
        raise DeviceError("a tensor in float64, which MPS does not have")
    tensor.__dict__["place"] = place
    return tensor


def put_module(module: nn.Module, place: str) -> None:
    """Do as `module.to(place)`."""
    for tensor in (*module.parameters(), *module.buffers()):
        put(tensor, torch.device(place))


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def meet(operands: list[Tensor]) -> torch.device:
    """Return the one place of operands; scalars of the CPU may go anywhere, as in torch."""
    places = {place_of(operand) for operand in operands if operand.ndim}
    scalars = {place_of(operand) for operand in operands if not operand.ndim}
    places |= scalars - {CPU} if places else scalars
    if len(places) > 1:
        raise DeviceError(f"tensors on {sorted(map(str, places))}")
    return places.pop() if places else CPU


class Devices(TorchFunctionMode):
    """The mode."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.autograd.backward:
            with patch.object(torch.autograd, "_engine_run_backward", self._run_backward):
                return func(*args, **kwargs)
        if torch._C._current_graph_task_id() != -1:
            # In the backward pass autograd makes tensors that have no place: all is on the CPU.
            return _cast(args, kwargs) if func in MOVES else func(*args, **kwargs)
        if func == GETTER:
            return place_of(args[0])
        if func in MOVES:
            place = CPU if func is Tensor.cpu else _target(args, kwargs)
            moved = _cast(args, kwargs)
            # A move makes a tensor of its own.
            same = place == place_of(args[0])
            return moved if same and moved is args[0] else put(moved.clone(), place)
        device = kwargs.pop("device", None)
        result = func(*args, **kwargs)
        if func is torch.autograd.grad:  # a gradient lies where its tensor does
            return tuple(map(put, result, map(place_of, tensors(args[1]))))
        place = _meeting_place(func, args, kwargs) if device is None else torch.device(device)
        if func == SETTER:
            put(args[0], place_of(args[1]))
        for tensor in tensors(result):
            put(tensor, place)
        return result

    def _run_backward(self, *args: Any, **kwargs: Any) -> Any:
        with self:  # which is off within torch's functions; activations may be recomputed
            return torch.autograd.graph._engine_run_backward(*args, **kwargs)


def _meeting_place(func: Any, args: Any, kwargs: Any) -> torch.device:
    """Return the place of the result."""
    if func in COPIES:
        return place_of(args[0])
    operands = [*tensors(args), *tensors(kwargs)]
    if func is Tensor.__getitem__:  # an index may also come from the CPU
        index = [tensor for tensor in operands[1:] if place_of(tensor) != CPU]
        return meet([*index, args[0]]) if index else place_of(args[0])
    place, generator = meet(operands), kwargs.get("generator")
    if generator is not None and place != generator.device:
        raise DeviceError(f"a generator on {generator.device} for tensors on {place}")
    return place


def _target(args: Any, kwargs: Any) -> torch.device:
    """Return the place where `to` moves its first argument."""
    place = place_of(args[0])
    for item in (*args[1:], *kwargs.values()):
        if isinstance(item, Tensor):
            place = place_of(item)
        elif isinstance(item, str | torch.device):
            place = torch.device(item)
        elif type(item) is int:
            place = torch.device("cuda", item)
    return place


def _cast(args: Any, kwargs: Any) -> Tensor:
    """Convert the first argument to the dtype that `to` gets."""
    source: Tensor = args[0]
    for item in (*args[1:], *kwargs.values()):
        if isinstance(item, Tensor | torch.dtype):
            source = source.to(item.dtype if isinstance(item, Tensor) else item)
    return source
