"""Rows of a data file that somebody else wrote: read in bounded memory, refused by file and field.

Two readers with one face: `TsvFile` for tables with images in them, which can have gigabytes, and
`JsonFile` for JSON and JSON Lines, which hold paths to their media and are small.
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
"""Bytes of a TSV row at most; a picture of 8K is about 30 million as base64."""
MAX_JSON = 1 << 30
"""Bytes of a JSON file at most: it is held in memory."""
Seen = Callable[[bytes], object]
"""Is called with a file's bytes as they are read: `update` of a digest."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Attributes:
        file: Where it stands.
        number: Its place in the file, from 0.
        where: What an error message calls it.
        fields: Values by column or key.
        groups: Keys of the objects around it, from the outermost.
    """

    file: Path
    number: int
    where: str
    fields: Mapping[str, Any] = field(repr=False)
    groups: tuple[str, ...] = ()

    def refused(self, name: str, why: str) -> ValueError:
        """The error that names file, row and field."""
        return ValueError(f"{self.file}, {self.where}, field {name!r}: {why}")

    def optional(self, name: str) -> str | None:
        """A text, or a number as text; None if it is missing or empty.

        Raises:
            ValueError: it is neither text nor a number.
        """
        value = self.fields.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.refused(name, f"a text is needed, not {preview(value)}")
        return str(value).strip() or None

    def text(self, name: str) -> str:
        """A text, or a number as text.

        Raises:
            ValueError: it is missing or empty, or of another type.
        """
        value = self.optional(name)
        if value is None:
            has = f"has {', '.join(self.fields)}" if name not in self.fields else "it is empty"
            raise self.refused(name, f"a text is needed; the row {has}"[:500])
        return value

    def texts(self, name: str) -> list[str]:
        """A list of texts; [] if it is missing.

        Raises:
            ValueError: it is not a list of texts or numbers.
        """
        values = self.fields.get(name)
        if values is None:
            return []
        if not is_texts(values):
            raise self.refused(name, f"a list of texts is needed, not {preview(values)}")
        return [str(value) for value in values]

    def options(self, name: str) -> dict[str, str]:
        """An object of options by letter, the empty ones left out.

        Raises:
            ValueError: it is not an object with the letters from A.
        """
        values = self.fields.get(name)
        if not isinstance(values, dict):
            raise self.refused(name, f"an object of options is needed, not {preview(values)}")
        given = {k: str(v).strip() for k, v in values.items() if v is not None and str(v).strip()}
        if list(given) != [chr(65 + i) for i in range(len(given))]:
            raise self.refused(name, f"the keys must be A, B, C.., not {', '.join(given)}"[:500])
        if len(given) < 2:
            raise self.refused(name, f"two or more are needed, not {len(given)}")
        return given


class Rows(Protocol):
    """A file's rows.

    Attributes:
        path: The file, or the folder.
        digest: sha256 of its bytes, or of those of a folder's files one after the other; known
            after a whole `scan`.
    """

    path: Path
    digest: str

    def scan(self) -> Iterator[Row]:
        """All rows, in order, from the beginning."""
        ...

    def row(self, number: int) -> Row:
        """The row of a number from 0, after a whole `scan`."""
        ...


class TsvFile:
    """A table with a heading, tabs between columns, and quotes around cells that need them.

    One pass over the file finds where each row begins; a row is then read when it is asked for.
    Memory holds one row at a time.

    Args:
        path: The file, UTF-8.
        columns: That must be there.

    Raises:
        ValueError: a column is missing, or there twice.
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
        """All rows, in order; remembers where they begin.

        Raises:
            ValueError: a row is malformed.
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
                reader.where = f"row {len(self._starts) + 1}"
        self.digest = digest.hexdigest()

    def row(self, number: int) -> Row:
        """Read one row."""
        with self._reader(self._starts[number], f"row {number + 1}") as reader:
            return self._row(number, next(reader))

    def _row(self, number: int, cells: list[str]) -> Row:
        where = f"row {number + 1}"
        if len(cells) != len(self.columns):
            raise ValueError(
                f"{self.path}, {where}: it has {len(cells)} cells, but the heading has "
                f"{len(self.columns)}"
            )
        return Row(self.path, number, where, dict(zip(self.columns, cells, strict=True)))

    def _reader(self, position: int, where: str, seen: Seen | None = None) -> "_TsvReader":
        return _TsvReader(self.path, position, where, seen)


class _TsvReader:
    """The csv module's reader, fed line by line, so that it is known where the next row begins."""

    def __init__(self, path: Path, position: int, where: str, seen: Seen | None) -> None:
        self.position = position
        self.where = where
        self._path = path
        self._seen = seen
        self._file = path.open("rb")
        self._file.seek(position)
        self._rows = csv.reader(self._lines(), delimiter="\t", strict=True)

    def __enter__(self) -> "_TsvReader":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._rows = csv.reader(())  # its generator refers to this object, and it holds a row

    def __iter__(self) -> "_TsvReader":
        return self

    def __next__(self) -> list[str]:
        self._begin = self.position
        try:
            return next(self._rows)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{self._path}, {self.where}: {error}") from error

    def _lines(self) -> Iterator[str]:
        while line := self._file.readline(MAX_ROW + 1):
            self.position += len(line)
            if self._seen is not None:
                self._seen(line)
            if self.position - self._begin > MAX_ROW:
                raise ValueError(
                    f"{self._path}, {self.where}: it is longer than {MAX_ROW} bytes; is a quote "
                    "left open?"
                )
            yield line.decode("utf-8-sig" if self.position == len(line) else "utf-8")


class JsonFile:
    """A JSON file, a JSON Lines file, or a folder of them.

    The rows of a JSON file are the objects in its list; or, if it holds objects by name (in one
    level or two, as VideoMMMU and MathVista do), those; or its one object.

    Args:
        path: The file or the folder.
        pattern: Which files of a folder, in order of their names.

    Raises:
        ValueError: a file is malformed or too large, or there is none.
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
        """All rows, in order."""
        return iter(self._rows)

    def row(self, number: int) -> Row:
        """One row."""
        return self._rows[number]


def is_texts(values: object) -> bool:
    """Whether a value is a list of texts and numbers."""
    return isinstance(values, list) and all(isinstance(v, str | int | float) for v in values)


def _json_rows(file: Path, seen: Seen) -> list[Row]:
    if (size := file.stat().st_size) > MAX_JSON:
        raise ValueError(f"{file} has {size} bytes; at most {MAX_JSON} are read: split it")
    content = file.read_bytes()
    seen(content)
    if file.suffix == ".jsonl":
        named: list[tuple[str, tuple[str, ...], Any]] = [
            (f"line {number}", (), _parsed(file, f", line {number}", line))
            for number, line in enumerate(content.splitlines(), 1)
            if line.strip()
        ]
    else:
        named = list(_objects(_parsed(file, "", content), ()))
    rows = []
    for number, (where, groups, value) in enumerate(named):
        if not isinstance(value, dict):
            raise ValueError(f"{file}, {where}: an object is needed, not {preview(value)}")
        rows.append(Row(file, number, where, value, groups))
    return rows


def _parsed(file: Path, where: str, content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}{where} is not JSON: {error}") from error


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
