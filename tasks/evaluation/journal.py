"""A file that grows by a line for each sample, so that a long run can be stopped and resumed."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

Line = dict[str, Any]


class Journal(AbstractContextManager["Journal"]):
    """A JSON Lines file: the settings first, then a line for each sample; one process writes it.

    If the process is killed, the file ends with a whole line, or with a part of one that the next
    process drops.

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
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Open a file, or start it.

        Args:
            path: The file; its folder is made if it does not exist.
            settings: JSON values: everything that the results depend on.

        Raises:
            ValueError: The file was begun under other settings, a line of it is not one of a
                journal, or another process is writing it.
        """
        self.path = path
        self._settings = json.loads(json.dumps(settings))  # as they are read back
        path.parent.mkdir(parents=True, exist_ok=True)
        # The system frees the lock when the process ends, in whatever way.
        self._lock = FileLock(f"{path}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"{path} is being written by another process: wait until it has ended, or choose "
                "another --out"
            ) from error
        self._file = path.open("ab")
        try:
            before, self.results, length = read_journal(path)
            if self.results:
                self._check(before or {})
                # A last line without an end was cut when the run was stopped.
                self._file.truncate(length)
        except BaseException:
            self.close()
            raise

    def add(self, key: str, result: Mapping[str, Any]) -> None:
        """Append a sample's result; it is on the disk when this returns.

        Args:
            key: The id of the sample. A later result replaces an earlier one.
            result: JSON values.
        """
        if not self.results:
            self._file.truncate(0)
            self._write({"settings": self._settings})
        self.results[key] = {"sample_id": key, **result}
        self._write(self.results[key])

    def close(self) -> None:
        """Close the file, so that another process can write it."""
        self._file.close()
        self._lock.release()

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self.close()

    def _write(self, line: Line) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _check(self, before: Line) -> None:
        """Raise an error that names the first settings that differ, if any do."""
        if different := differences(before, self._settings):
            changes = "; ".join(f"{name} was {a!r} and is {b!r}" for name, a, b in different[:3])
            raise ValueError(
                f"{self.path} was begun under other settings ({changes}): choose another --out, or "
                "delete the file to start anew"
            )


def read_journal(path: Path) -> tuple[Line | None, dict[str, Line], int]:
    """Read a journal, even while a process is writing it.

    Returns:
        The settings (None before the first result), the last line of every sample by its id, and
        the length in bytes of all whole lines.

    Raises:
        ValueError: A line is not one of a journal.
    """
    settings: Line | None = None
    results: dict[str, Line] = {}
    length = 0
    for number, line in _whole_lines(path):
        length += len(line)
        value = _parse(path, number, line)
        if number == 1:
            settings = value["settings"]
        else:
            results[value["sample_id"]] = value
    return settings, results, length


def differences(before: Line, now: Line) -> list[tuple[str, Any, Any]]:
    """List the settings that differ: the dotted name, the value before, and the value now."""
    one, other = _flatten(before), _flatten(now)
    return [
        (name, one.get(name), other.get(name))
        for name in {**one, **other}
        if one.get(name) != other.get(name)
    ]


def _whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield number, line


def _parse(path: Path, number: int, line: bytes) -> Line:
    try:
        value = json.loads(line)
        is_line = (
            isinstance(value["settings"], dict)
            if number == 1
            else isinstance(value["sample_id"], str)
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        is_line = False
    if not is_line:
        raise ValueError(
            f"line {number} of {path} is not one that an earlier run wrote: delete the file to "
            "start anew, or choose another --out"
        )
    return dict(value)


def _flatten(settings: Line, prefix: str = "") -> Line:
    """Bring nested settings to one level, with dotted names."""
    flat: Line = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
