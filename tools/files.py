"""Open files once: what was checked and what is read are the same file."""

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from visreplay.tools.media_wire import anonymous_file
from visreplay.tools.types import ToolError, preview

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
"""Without O_NONBLOCK, opening a pipe would wait for its other end."""
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_NO_FILE = (errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV)
"""Errors of names that lead to no file: links in a circle, sockets, devices that are not there."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """An open regular file.

    Attributes:
        descriptor: Its descriptor.
        name: Its name in errors.
        in_memory: Whether it is in memory, sent by a caller or fetched for one.
    """

    descriptor: int
    name: str
    in_memory: bool = False

    def __enter__(self) -> Self:
        """Return the file."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        os.close(self.descriptor)

    @property
    def path(self) -> str:
        """A path that leads to this very file, as long as it is open."""
        return f"/dev/fd/{self.descriptor}"


def open_file(path: str | Path, what: str, name: str | None = None) -> OpenFile:
    """Open a regular file: no URL, no folder, no pipe that would never end.

    Args:
        path: The path.
        what: Name of the file's kind, for the error.
        name: Name of the file in later errors; by default its last part.

    Raises:
        ToolError: There is no such file, or it may not be read.
    """
    if "://" in str(path):
        raise ToolError(f"{preview(str(path))} is a URL; only files are read")
    missing = ToolError(f"there is no {what} {preview(str(path))}")
    try:
        descriptor = os.open(path, _FLAGS)
    except (*_MISSING, ValueError) as error:
        raise missing from error
    except OSError as error:
        if error.errno in _NO_FILE:
            raise missing from error
        raise ToolError(
            f"the {what} {preview(str(path))} cannot be opened: {error.strerror}"
        ) from error
    if not _is_regular(descriptor):
        os.close(descriptor)
        raise missing
    return OpenFile(descriptor, name or Path(path).name)


def open_bytes(content: bytes, name: str = "the data") -> OpenFile:
    """Open the content of a file that has no name."""
    return OpenFile(anonymous_file(content), name, in_memory=True)


def open_beneath(root: Path, name: str) -> OpenFile | None:
    """Open a regular file in a folder, links followed.

    The file is looked at after it is opened, so that no link that changes meanwhile leads out of
    the folder.

    Returns:
        The file; None if there is none.

    Raises:
        ToolError: The name leads out of the folder.
    """
    outside = ToolError(f"{preview(name)} is outside the folders that may be read")
    try:
        folder = os.path.realpath(root)
        path = os.path.realpath(os.path.join(folder, name))
    except (OSError, ValueError) as error:  # no file can have such a name, or links change
        raise outside from error
    if not _is_below(path, folder):
        raise outside
    try:
        descriptor = os.open(path, _FLAGS | os.O_NOFOLLOW)
    except (*_MISSING, PermissionError, ValueError):
        return None
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise ToolError(f"{preview(name)} cannot be opened: {error.strerror}") from error
    try:
        if not _is_below(_place(descriptor, path), folder):
            raise outside
        if _is_regular(descriptor):
            return OpenFile(os.dup(descriptor), preview(name))
        return None
    finally:
        os.close(descriptor)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _is_regular(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def _place(descriptor: int, path: str) -> str:
    """Find out where an open file lies; only systems with /proc tell it."""
    with suppress(OSError):
        return os.readlink(f"/proc/self/fd/{descriptor}")
    return os.path.realpath(path)
