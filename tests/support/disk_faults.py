"""A disk that fails, or a process that is killed, at a chosen file operation below a folder.

The operations are the real ones; one of them is replaced. A write that fails has written half of
its bytes, as on a disk that becomes full.
"""

import builtins
import fcntl
import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

Fault = Callable[[str | None], None]
"""Raises an error of the path that is known to an operation, or ends the process."""

BY_PATH = [
    *((os, name) for name in ("open", "mkdir", "unlink", "replace")),
    (io, "open"),
    (builtins, "open"),
]
BY_DESCRIPTOR = [*((os, name) for name in ("fsync", "ftruncate")), (fcntl, "flock")]


def fails(number: int) -> Fault:
    """Make a fault: an error of the system."""

    def fault(path: str | None) -> None:
        raise OSError(number, os.strerror(number), path)

    return fault


def killed(_: str | None) -> None:
    """Be the fault of a process that is killed; for children only."""
    os._exit(9)


@contextmanager
def faulty_disk(folder: Path, at: int | None, fault: Fault) -> Iterator[list[str]]:
    """Let one file operation below a folder fail.

    Args:
        folder: The folder.
        at: The number of the operation, from 0; None lets all be.
        fault: Called in the place of the operation.

    Yields:
        The names of the operations so far, those included that were left to be.
    """
    operations: list[str] = []
    descriptors: set[int] = set()
    root = os.path.realpath(folder)

    def is_below(path: object) -> bool:
        if not isinstance(path, str | os.PathLike):
            return False
        place = os.path.realpath(path)
        return place == root or place.startswith(root + os.sep)

    def counted(name: str) -> bool:
        operations.append(name)
        return len(operations) - 1 == at

    def by_path(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(path: Any, *arguments: Any, **options: Any) -> Any:
            below = is_below(path)
            if below and counted(name):
                fault(str(path))
            result = original(path, *arguments, **options)
            if name == "os.open":
                (descriptors.add if below else descriptors.discard)(result)
            return result

        return operation

    def by_descriptor(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(descriptor: Any, *arguments: Any) -> Any:
            if descriptor in descriptors and counted(name):
                fault(None)
            return original(descriptor, *arguments)

        return operation

    write, close = os.write, os.close

    def half_write(descriptor: int, data: Any) -> int:
        if descriptor in descriptors and counted("os.write"):
            write(descriptor, bytes(data)[: len(data) // 2])
            fault(None)
        return write(descriptor, data)

    def forget(descriptor: int) -> None:
        descriptors.discard(descriptor)
        close(descriptor)

    with ExitStack() as patches:
        for wrap, functions in ((by_path, BY_PATH), (by_descriptor, BY_DESCRIPTOR)):
            for module, name in functions:
                original = getattr(module, name)
                wrapped = wrap(f"{module.__name__}.{name}", original)
                patches.enter_context(patch.object(module, name, wrapped))
        patches.enter_context(patch.object(os, "write", half_write))
        patches.enter_context(patch.object(os, "close", forget))
        yield operations
