"""Files that are on the disk whole or not at all, and the errors of disks.

A program may be killed, and a disk may be full, at any moment. A file that `replacing` writes has
its name only once all of it is on the disk.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

BINARY = getattr(os, "O_BINARY", 0)
"""Windows would change line ends in what is written."""

WAYS_OUT = {
    errno.ENOSPC: "free space on that disk",
    errno.EDQUOT: "free some of your quota there",
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`)",
    errno.EROFS: "make that disk writable, or choose another folder",
    errno.EACCES: "allow it to be written, or choose another folder",
    errno.EPERM: "allow it to be written, or choose another folder",
}
NO_SYNC_OF_FOLDERS = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
"""Errors of file systems that have no fsync of a folder."""


class DiskError(OSError):
    """A disk did not take what was written; the message names the file, the reason, a way out."""

    @classmethod
    def of(cls, path: str | Path, error: OSError) -> Self:
        """Make the error of a file from the system's own."""
        reason = error.strerror or str(error) or type(error).__name__
        code = errno.errorcode.get(error.errno or 0)
        way_out = WAYS_OUT.get(error.errno or 0, "check that disk, or choose another folder")
        new = cls(f"{path} cannot be written: {reason}{f' ({code})' if code else ''}; {way_out}")
        new.errno = error.errno
        return new


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Turn errors of the system into those of a file.

    Raises:
        DiskError: In place of any other OSError.
    """
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        raise DiskError.of(path, error) from error


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all bytes: the system may take a part of them at a time."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


@contextmanager
def replacing(path: Path) -> Iterator[int]:
    """Write a file anew; it is on the disk, in the place of an earlier one, when this ends.

    Until then it has a temporary name, and after an error it is gone. What is no regular file, such
    as /dev/stdout, is written as it is.

    Args:
        path: The file; its folder exists.

    Yields:
        The descriptor to write to.

    Raises:
        DiskError: The file cannot be written.
    """
    with disk_errors(path):
        if path.exists() and not path.is_file():
            descriptor = os.open(path, os.O_WRONLY | BINARY)
            try:
                yield descriptor
            finally:
                os.close(descriptor)
            return
        place = Path(os.path.realpath(path))  # a link stays one
        temporary = place.with_name(f"{place.name[:40]}.{secrets.token_hex(8)}.tmp")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY
            descriptor = os.open(temporary, flags, 0o666)  # less the umask, as any other file
            try:
                yield descriptor
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, place)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(place.parent)


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole, as `replacing`, and the folder that it lies in.

    Raises:
        DiskError: It cannot be written.
    """
    make_folder(path.parent)
    with replacing(path) as descriptor:
        write_all(descriptor, data)


def make_folder(folder: Path) -> None:
    """Make a folder that may exist, and those that it lies in.

    Raises:
        DiskError: It cannot be made.
    """
    with disk_errors(folder):
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for each in missing:
            sync_folder(each.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where its file system can do so.

    Raises:
        OSError: The disk failed.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be written and not read; any folder on Windows
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC_OF_FOLDERS:
            raise
    finally:
        os.close(descriptor)
