"""A file that grows by a line for each sample, so that a long run can be stopped and resumed."""

import errno
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from visreplay.tools.disk import (
    BINARY,
    DiskError,
    disk_errors,
    make_folder,
    replacing,
    sync_folder,
    write_all,
)

Line = dict[str, Any]

Check = Callable[[Line, Line], str | None]
"""Tells what is wrong with a result, under the settings of its journal; None if nothing is."""

BEGINNING = b'{"settings": {'
"""The first bytes of every journal."""

WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
"""Errors of file systems that have no locks."""


@dataclass(frozen=True, slots=True)
class DamagedLine:
    """A line that is not one of a journal.

    Attributes:
        number: The number of the line in the file, from 1.
        reason: Why it is none.
    """

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class JournalContent:
    """What a journal holds.

    Attributes:
        settings: The settings; None before the first result.
        results: The last line of every sample, by its id.
        damaged: The lines that are left out.
        length: The length in bytes of all whole lines.
    """

    settings: Line | None
    results: dict[str, Line]
    damaged: list[DamagedLine]
    length: int


class Journal(AbstractContextManager["Journal"]):
    """A JSON Lines file: the settings first, then a line for each sample; one process writes it.

    If the process is killed, the file ends with a whole line, or with a part of one that the next
    process drops. Damaged lines are moved to a file beside it, whose name ends in `.damaged`: their
    samples have no result then.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with (
        ...     TemporaryDirectory() as folder,
        ...     Journal(Path(folder) / "run.jsonl", {"tau": 0.4}) as journal,
        ... ):
        ...     if "sample-1" not in journal.results:
        ...         journal.add("sample-1", {"kl": 0.1})
        ...     journal.results
        {'sample-1': {'sample_id': 'sample-1', 'kl': 0.1}}

    Attributes:
        path: The file.
        results: The last line of every sample, by its id.
        damaged: The lines that were damaged when the file was opened.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], check: Check | None = None) -> None:
        """Open a file, or start it.

        Args:
            path: The file; its folder is made if it does not exist.
            settings: JSON values: everything that the results depend on.
            check: What a result must be; one that is not is a damaged line.

        Raises:
            ValueError: The file was begun under other settings, is not a journal, or another
                process is writing it.
            DiskError: The disk does not take it, or has no locks.
        """
        self.path = path
        self._settings = json.loads(json.dumps(settings))  # as they are read back
        self._file: int | None = None
        make_folder(path.parent)
        self._lock = _locked(path)
        try:
            content = read_journal(path, check)
            self.results, self.damaged = content.results, content.damaged
            # Without results the settings may be others, and are written before the first one.
            self._begun = bool(self.results or self.damaged)
            if self._begun:
                check_settings(path, content.settings or {}, self._settings)
            elif content.settings and content.settings.keys() != self._settings.keys():
                raise ValueError(
                    f"{path} holds settings of another version or program, and no result: choose "
                    "another --out, or delete the file to start anew"
                )
            if self.damaged:
                _drop_lines(path, {line.number for line in self.damaged})
            with disk_errors(path):
                for stray in Path(os.path.realpath(path)).parent.glob(f"{path.name}.*.tmp"):
                    stray.unlink()  # was being written when a process was killed
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | BINARY, 0o666)
                # A last line without an end was cut when the run was stopped.
                self._end = os.fstat(self._file).st_size if self.damaged else content.length
        except BaseException:
            self.close()
            raise

    def add(self, key: str, result: Mapping[str, Any]) -> None:
        """Append a sample's result; it is on the disk when this returns.

        Args:
            key: The id of the sample. A later result replaces an earlier one.
            result: JSON values.

        Raises:
            DiskError: The disk does not take it. The file is as if it had not been added.
        """
        with disk_errors(self.path):
            if not self._begun:
                self._end = 0
                self._write({"settings": self._settings})
                sync_folder(self.path.parent)
                self._begun = True
            line = {"sample_id": key, **result}
            self._write(line)
        self.results[key] = line

    def close(self) -> None:
        """Close the file, so that another process can write it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        with suppress(OSError):  # the system frees it at the latest when the process ends
            self._lock.release()

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self.close()

    def _write(self, line: Line) -> None:
        assert self._file is not None, "the journal is closed"
        # A lone surrogate, which UTF-8 does not have, becomes what JSON writes for it: \udc80.
        data = json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        if os.fstat(self._file).st_size != self._end:  # what a failed write left
            os.ftruncate(self._file, self._end)
        write_all(self._file, data)
        os.fsync(self._file)
        self._end += len(data)


def read_journal(path: Path, check: Check | None = None) -> JournalContent:
    """Read a journal, even while a process is writing it. Damaged lines are left out.

    Args:
        path: The file, which need not exist.
        check: What a result must be; one that is not is a damaged line.

    Raises:
        ValueError: The file is not a journal, or its first line is damaged.
    """
    if not path.exists():
        return JournalContent(None, {}, [], 0)
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file: choose another folder for the run")
    settings: Line | None = None
    results: dict[str, Line] = {}
    damaged: list[DamagedLine] = []
    length = 0
    for number, line in _lines(path):
        if not line.endswith(b"\n"):
            if settings is None:
                settings = _cut_settings(path, line)
            break
        length += len(line)
        value = _parse(line)
        if settings is None:
            if value is None or not _is_beginning(value):
                raise _foreign(path)
            settings = value["settings"]
        elif value is None:
            damaged.append(DamagedLine(number, "it is not a JSON object"))
        elif not isinstance(value.get("sample_id"), str):
            damaged.append(DamagedLine(number, "it has no sample_id"))
        elif check is not None and (reason := check(settings, value)):
            damaged.append(DamagedLine(number, reason))
        else:
            results[value["sample_id"]] = value
    return JournalContent(settings, results, damaged, length)


def check_settings(path: Path, before: Line, now: Mapping[str, Any]) -> None:
    """Check that a journal was begun under some settings.

    Raises:
        ValueError: It was begun under others; the first that differ are named.
    """
    if different := differences(before, json.loads(json.dumps(now))):
        changes = "; ".join(f"{name} was {a!r} and is {b!r}" for name, a, b in different[:3])
        raise ValueError(
            f"{path} was begun under other settings ({changes}): choose another --out, or "
            "delete the file to start anew"
        )


def differences(before: Line, now: Line) -> list[tuple[str, Any, Any]]:
    """List the settings that differ: the dotted name, the value before, and the value now.

    Data with the same digest are the same data, whatever their path.
    """
    one, other = _flatten(before), _flatten(now)
    names = dict.fromkeys([*one, *other])
    if one.get("data_digest") is not None and one["data_digest"] == other.get("data_digest"):
        names.pop("data", None)
    return [
        (name, one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)
    ]


def _locked(path: Path) -> FileLock:
    """Take the lock of a journal, which the system frees when the process ends in whatever way."""
    name = f"{path}.lock"
    try:
        lock = FileLock(name)
        with warnings.catch_warnings():  # that the lock is a file, where there is no flock at all
            warnings.simplefilter("ignore")
            lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"{path} is being written by another process: wait until it has ended, or choose "
            "another --out"
        ) from error
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in WITHOUT_LOCKS:
            raise DiskError.of(name, error) from error
        reason = getattr(error, "strerror", None) or error
        raise DiskError(
            f"{name} cannot be locked: {reason}; its disk has no locks, which keep two processes "
            "from writing one run: choose another --out on a disk that has, and copy the folder "
            "there if the run has begun"
        ) from error
    return lock


def _drop_lines(path: Path, numbers: set[int]) -> None:
    """Move some lines of a file, and a last line without an end, out of it."""
    beside = Path(f"{path}.damaged")
    with disk_errors(beside):
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_APPEND | BINARY, 0o666)
        try:
            for number, line in _lines(path):
                if number in numbers:
                    write_all(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    with replacing(path) as descriptor:
        for number, line in _lines(path):
            if number not in numbers and line.endswith(b"\n"):
                write_all(descriptor, line)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            yield from enumerate(file, 1)
    except OSError as error:  # of a read, which does not name the file
        raise OSError(error.errno, error.strerror, str(path)) from error


def _parse(line: bytes) -> Line | None:
    """Parse a line; None if it is not a JSON object."""
    with suppress(ValueError, RecursionError):
        value = json.loads(line)
        if isinstance(value, dict):
            return value
    return None


def _is_beginning(value: Line) -> bool:
    return value.keys() == {"settings"} and isinstance(value["settings"], dict)


def _cut_settings(path: Path, line: bytes) -> Line | None:
    """Read the first line of a file that was cut: only its end may be missing.

    Raises:
        ValueError: It is not the beginning of a journal.
    """
    text = line.rstrip(b"\0")  # a power cut may leave NULs
    value = _parse(text)
    if value is not None and _is_beginning(value):
        return dict(value["settings"])
    if value is not None or not (BEGINNING.startswith(text) or text.startswith(BEGINNING)):
        raise _foreign(path)
    return None


def _foreign(path: Path) -> ValueError:
    return ValueError(
        f"line 1 of {path} is not one that an earlier run wrote: if the file is not a run's, "
        "choose another --out; if the line is damaged, put the settings back from a copy"
    )


def _flatten(settings: Line, prefix: str = "") -> Line:
    """Bring nested settings to one level, with dotted names."""
    flat: Line = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
