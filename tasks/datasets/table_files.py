"""Readers of data files that other people wrote: errors name file, row and field.

There are two readers with one interface. `TsvFile` reads tables with images in them, which can have
gigabytes, in bounded memory. `JsonFile` reads JSON and JSON Lines, which are small: they hold paths
to their media.
"""

import csv
import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from visreplay.tools.types import preview

MAX_ROW = 256 << 20
"""The most bytes of a TSV row; a picture of 8K has about 30 million as base64."""
MAX_JSON = 1 << 30
"""The most bytes of a JSON file, which is held in memory."""
ByteCallback = Callable[[bytes], object]
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
    """

    file: Path
    number: int
    label: str
    fields: Mapping[str, Any] = field(repr=False)
    groups: tuple[str, ...] = ()

    def error(self, name: str, why: str) -> ValueError:
        """Make the error that names file, row and field."""
        return ValueError(f"{self.file}, {self.label}, field {name!r}: {why}")

    def optional(self, name: str) -> str | None:
        """Read a text, or a number as text; None if the field is missing or empty.

        Raises:
            ValueError: The value is neither a text nor a number.
        """
        value = self.fields.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.error(name, f"a text is needed, not {preview(value)}")
        return str(value).strip() or None

    def text(self, name: str) -> str:
        """Read a text, or a number as text.

        Raises:
            ValueError: The field is missing or empty, or its value has another type.
        """
        value = self.optional(name)
        if value is None:
            has = f"has {', '.join(self.fields)}" if name not in self.fields else "it is empty"
            raise self.error(name, f"a text is needed; the row {has}"[:500])
        return value

    def texts(self, name: str) -> list[str]:
        """Read a list of texts; [] if the field is missing.

        Raises:
            ValueError: The value is not a list of texts or numbers.
        """
        values = self.fields.get(name)
        if values is None:
            return []
        if not is_text_list(values):
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
        options = {k: str(v).strip() for k, v in values.items() if v is not None and str(v).strip()}
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


class TsvFile:
    """A table with a heading, tabs between columns, and quotes around cells that need them.

    One pass over the file finds where each row begins; later, `row` reads one row alone. Memory
    holds one row at a time.

    Args:
        path: The file, UTF-8.
        columns: The columns that the file must have; it may have more.

    Raises:
        ValueError: A column is missing or occurs twice.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.digest = ""
        self._starts = array("Q")
        self._heading = sha256()
        csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW))
        with self._reader(0, "the heading", self._heading.update) as reader:
            self.columns = next(reader, [])
            self._first = reader.position
        if missing := [name for name in columns if name not in self.columns]:
            raise ValueError(
                f"{path} has no column {missing[0]!r}; it has {', '.join(self.columns)}"[:1000]
            )
        if twice := {name for name in self.columns if self.columns.count(name) > 1}:
            raise ValueError(f"{path} has the column {min(twice)!r} twice")

    def scan(self) -> Iterator[Row]:
        """Read all rows, in order, and remember where each begins.

        Raises:
            ValueError: A row is malformed.
        """
        self._starts = array("Q")
        digest = self._heading.copy()
        with self._reader(self._first, "row 1", digest.update) as reader:
            start = reader.position
            for cells in reader:
                if cells:  # an empty line is no row
                    self._starts.append(start)
                    yield self._row(len(self._starts) - 1, cells)
                start = reader.position
                reader.label = f"row {len(self._starts) + 1}"
        self.digest = digest.hexdigest()

    def row(self, number: int) -> Row:
        """Read one row."""
        with self._reader(self._starts[number], f"row {number + 1}") as reader:
            return self._row(number, next(reader))

    def _row(self, number: int, cells: list[str]) -> Row:
        label = f"row {number + 1}"
        if len(cells) != len(self.columns):
            raise ValueError(
                f"{self.path}, {label}: it has {len(cells)} cells, but the heading has "
                f"{len(self.columns)}"
            )
        return Row(self.path, number, label, dict(zip(self.columns, cells, strict=True)))

    def _reader(
        self, position: int, label: str, on_bytes: ByteCallback | None = None
    ) -> "_TsvReader":
        return _TsvReader(self.path, position, label, on_bytes)


class _TsvReader:
    """A csv reader that is fed line by line, so that the start of the next row is known."""

    def __init__(
        self, path: Path, position: int, label: str, on_bytes: ByteCallback | None
    ) -> None:
        self.position = position
        self.label = label
        self._path = path
        self._on_bytes = on_bytes
        self._file = path.open("rb")
        self._file.seek(position)
        self._rows = csv.reader(self._lines(), delimiter="\t", strict=True)

    def __enter__(self) -> "_TsvReader":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._rows = csv.reader(())  # the generator refers to this object, which holds a row

    def __iter__(self) -> "_TsvReader":
        return self

    def __next__(self) -> list[str]:
        self._begin = self.position
        try:
            return next(self._rows)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{self._path}, {self.label}: {error}") from error

    def _lines(self) -> Iterator[str]:
        while line := self._file.readline(MAX_ROW + 1):
            self.position += len(line)
            if self._on_bytes is not None:
                self._on_bytes(line)
            if self.position - self._begin > MAX_ROW:
                raise ValueError(
                    f"{self._path}, {self.label}: it is longer than {MAX_ROW} bytes; is a quote "
                    "left open?"
                )
            yield line.decode("utf-8-sig" if self.position == len(line) else "utf-8")


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
        self._rows = [row for file in files for row in _json_rows(file, digest.update)]
        self.digest = digest.hexdigest()

    def scan(self) -> Iterator[Row]:
        """Go through all rows, in order."""
        return iter(self._rows)

    def row(self, number: int) -> Row:
        """Look up one row."""
        return self._rows[number]


def is_text_list(values: object) -> bool:
    """Tell whether a value is a list of texts and numbers."""
    return isinstance(values, list) and all(isinstance(v, str | int | float) for v in values)


def _json_rows(file: Path, on_bytes: ByteCallback) -> list[Row]:
    if (size := file.stat().st_size) > MAX_JSON:
        raise ValueError(f"{file} has {size} bytes; at most {MAX_JSON} are read: split it")
    content = file.read_bytes()
    on_bytes(content)
    if file.suffix == ".jsonl":
        named: list[tuple[str, tuple[str, ...], Any]] = [
            (f"line {number}", (), _parse(file, f", line {number}", line))
            for number, line in enumerate(content.splitlines(), 1)
            if line.strip()
        ]
    else:
        named = list(_objects(_parse(file, "", content), ()))
    rows = []
    for number, (label, groups, value) in enumerate(named):
        if not isinstance(value, dict):
            raise ValueError(f"{file}, {label}: an object is needed, not {preview(value)}")
        rows.append(Row(file, number, label, value, groups))
    return rows


def _parse(file: Path, label: str, content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}{label} is not JSON: {error}") from error


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
