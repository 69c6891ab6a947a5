"""Readers of data files that other people wrote: errors name file, row and field.

There are two readers with one interface. `TsvFile` (`tsv_file.py`) reads tables with images in
them, which can have gigabytes, in bounded memory. `JsonFile` reads JSON and JSON Lines, which are
small: they hold paths to their media. What is wrong with the whole file is an error; a row that
cannot be read has a `fault`, and the others are read.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from visreplay.tasks.datasets.text_encoding import utf8_bytes
from visreplay.tools.types import preview

MAX_JSON = 1 << 30
"""The most bytes of a JSON file, which is held in memory."""
ByteCallback = Callable[[bytes | bytearray], object]
"""A function that is called with a file's bytes as they are read, such as a digest's `update`."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Attributes:
        file: The file that holds it.
        number: Its number in the file, from 0.
        label: Its name in error messages.
        fields: Values by column or key.
        groups: Keys of the objects around it, from the outermost.
        fault: What is wrong with the row as a whole, which has no fields then; None if nothing is.
    """

    file: Path
    number: int
    label: str
    fields: Mapping[str, Any] = field(repr=False)
    groups: tuple[str, ...] = ()
    fault: str | None = None

    def check(self) -> None:
        """Refuse a row that could not be read.

        Raises:
            ValueError: The row has a fault; the message names file and row.
        """
        if self.fault is not None:
            raise ValueError(f"{self.file}, {self.label}: {self.fault}")

    def error(self, name: str, why: str) -> ValueError:
        """Make the error that names file, row and field."""
        return ValueError(f"{self.file}, {self.label}, field {name!r}: {why}")

    def optional(self, name: str) -> str | None:
        """Read a text, or a number as text; None if the field is missing or empty.

        "nan" is empty, too: so pandas writes a missing value.

        Raises:
            ValueError: The value is neither a text nor a number.
        """
        value = self._read(name)
        return None if value is None or value.lower() == "nan" else value

    def _read(self, name: str) -> str | None:
        value = self.fields.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.error(name, f"a text is needed, not {preview(value)}")
        return str(value).strip() or None

    def text(self, name: str) -> str:
        """Read a text, or a number as text.

        Raises:
            ValueError: The field is missing or empty ("nan", too), or its value has another type.
        """
        value = self.optional(name)
        if value is None:
            has = f"the row has {', '.join(self.fields)}"
            if name in self.fields:
                has = f"it is {self._read(name) or 'empty'}"
            raise self.error(name, f"a text is needed; {has}"[:500])
        return value

    def texts(self, name: str) -> list[str]:
        """Read a list of texts; [] if the field is missing.

        Raises:
            ValueError: The value is not a list of texts or numbers.
        """
        values = self.fields.get(name)
        if values is None:
            return []
        if not isinstance(values, list) or not all(
            isinstance(value, str | int | float) for value in values
        ):
            raise self.error(name, f"a list of texts is needed, not {preview(values)}")
        return [str(value) for value in values]

    def options(self, name: str) -> dict[str, str]:
        """Read an object of options by letter, without the empty ones.

        Raises:
            ValueError: The value is not an object whose keys are the letters from A.
        """
        values = self.fields.get(name)
        if not isinstance(values, dict):
            raise self.error(name, f"an object of options is needed, not {preview(values)}")
        texts = {k: str(v).strip() for k, v in values.items() if v is not None}
        options = {k: text for k, text in texts.items() if text and text.lower() != "nan"}
        if list(options) != [chr(65 + i) for i in range(len(options))]:
            raise self.error(name, f"the keys must be A, B, C.., not {', '.join(options)}"[:500])
        if len(options) < 2:
            raise self.error(name, f"two or more are needed, not {len(options)}")
        return options


class DataFile(Protocol):
    """A file, or a folder of files, that is read row by row.

    Attributes:
        path: The file or the folder.
        digest: The sha256 of its bytes, or of those of a folder's files one after the other; set
            by a whole `scan`.
    """

    path: Path
    digest: str

    def scan(self) -> Iterator[Row]:
        """Read all rows, in order, from the beginning."""
        ...

    def row(self, number: int) -> Row:
        """Read the row of a number, from 0, after a whole `scan`."""
        ...


class JsonFile:
    """A JSON file, a JSON Lines file, or a folder of them.

    The rows of a JSON file are the objects in its list, or the objects that it holds by name (on
    one level, or on two as in VideoMMMU), or its only object.

    Args:
        path: The file or the folder.
        pattern: The files of a folder to read, in the order of their names.

    Raises:
        ValueError: A file is malformed or too large, or the folder has no such file.
    """

    def __init__(self, path: Path, pattern: str = "*.json*") -> None:
        self.path = path
        files = sorted(path.glob(pattern)) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"there is no {pattern} in the folder {path}")
        digest = sha256()
        self._rows = [row for file in files for row in json_rows(file, digest.update)]
        self.digest = digest.hexdigest()

    def scan(self) -> Iterator[Row]:
        """Go through all rows, in order."""
        return iter(self._rows)

    def row(self, number: int) -> Row:
        """Look up one row."""
        return self._rows[number]


def json_rows(file: Path, on_bytes: ByteCallback) -> list[Row]:
    """Read the rows of a JSON or JSON Lines file.

    Raises:
        ValueError: The file is too large, or is not JSON.
    """
    if (size := file.stat().st_size) > MAX_JSON:
        raise ValueError(f"{file} has {size} bytes; at most {MAX_JSON} are read: split it")
    content = file.read_bytes()
    on_bytes(content)
    try:
        content = utf8_bytes(content)
        if file.suffix == ".jsonl":
            lines = [line for line in enumerate(content.splitlines(), 1) if line[1].strip()]
            return [
                _json_row(file, row, f"line {number}", line)
                for row, (number, line) in enumerate(lines)
            ]
        named = list(_objects(json.loads(content), ()))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    return [
        _object_row(file, number, label, value, groups)
        for number, (label, groups, value) in enumerate(named)
    ]


def _json_row(file: Path, number: int, label: str, line: bytes) -> Row:
    try:
        return _object_row(file, number, label, json.loads(line))
    except (ValueError, RecursionError) as error:
        return Row(file, number, label, {}, fault=f"it is not JSON: {error}")


def _object_row(
    file: Path, number: int, label: str, value: object, groups: tuple[str, ...] = ()
) -> Row:
    if isinstance(value, dict):
        return Row(file, number, label, value, groups)
    fault = f"an object is needed, not {preview(value)}"
    return Row(file, number, label, {}, groups, fault)


def _objects(value: Any, groups: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    if isinstance(value, list):
        for number, item in enumerate(value, 1):
            yield "/".join([*groups, f"item {number}"]), groups, item
    elif isinstance(value, dict) and value and _all_nested(value.values()) and len(groups) < 2:
        for name, inner in value.items():
            yield from _objects(inner, (*groups, name))
    else:
        yield "/".join(groups) or "the object", groups, value


def _all_nested(values: Any) -> bool:
    return all(isinstance(value, dict | list) for value in values)
