"""The reader of TSV files, which can have gigabytes, in bounded memory."""

import re
from array import array
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from visreplay.tasks.datasets.table_files import ByteCallback, Row
from visreplay.tasks.datasets.text_encoding import BOM, Utf8File

MAX_ROW = 256 << 20
"""The most bytes of a row; a picture of 8K has about 30 million as base64."""

_QUOTES = re.compile(rb'""|"')
_END = re.compile(rb"\t|\r?\n|\r?\Z")


class TsvFile:
    """A table with a heading, tabs between columns, and quotes around cells that need them.

    A cell is quoted if it begins with a quote and ends with one before the next tab or line break,
    and quotes in between are doubled. Any other cell is read as it stands: `"Stop" is written`
    keeps its quotes. Columns without a name are left out. One pass over the file finds where each
    row begins; later, `row` reads one row alone. Memory holds one row at a time.

    Args:
        path: The file: UTF-8, or UTF-16 as spreadsheets save it.
        columns: The columns that the file must have; it may have more.

    Raises:
        ValueError: A column is missing or occurs twice.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.digest = ""
        self._starts = array("Q")
        self._file = Utf8File(path)
        self._heading = sha256()
        with self._reader(0, self._heading.update) as reader:
            try:
                self.columns = [name.strip() for name in reader.next_row() or []]
            except ValueError as error:
                raise ValueError(f"{path}, the heading: {error}") from error
            self._first = reader.position
        if missing := [name for name in columns if name not in self.columns]:
            raise ValueError(
                f"{path} has no column {missing[0]!r}; it has {', '.join(self.columns)}"[:1000]
            )
        named = [name for name in self.columns if name]
        if twice := {name for name in named if named.count(name) > 1}:
            raise ValueError(f"{path} has the column {min(twice)!r} twice")

    def scan(self) -> Iterator[Row]:
        """Read all rows, in order, and remember where each begins."""
        self._starts = array("Q")
        digest = self._heading.copy()
        with self._reader(self._first, digest.update) as reader:
            while (row := self._next(reader, len(self._starts))) is not None:
                self._starts.append(reader.begin)
                yield row
        self.digest = self._file.digest or digest.hexdigest()

    def row(self, number: int) -> Row:
        """Read one row."""
        with self._reader(self._starts[number]) as reader:
            row = self._next(reader, number)
        assert row is not None, "a scan has found a row there"
        return row

    def _next(self, reader: "_TsvReader", number: int) -> Row | None:
        """Read the next row, whose fault says what is wrong with it; None at the end."""
        label = f"row {number + 1}"
        try:
            cells = reader.next_row()
        except ValueError as error:
            return Row(self.path, number, label, {}, fault=str(error))
        if cells is None:
            return None
        while len(cells) > len(self.columns) and not cells[-1]:
            cells.pop()
        if len(cells) != len(self.columns):
            fault = f"it has {len(cells)} cells, but the heading has {len(self.columns)}"
            return Row(self.path, number, label, {}, fault=fault)
        fields = {name: cell for name, cell in zip(self.columns, cells, strict=True) if name}
        return Row(self.path, number, label, fields)

    def _reader(self, position: int, on_bytes: ByteCallback | None = None) -> "_TsvReader":
        return _TsvReader(self._file.path, position, on_bytes)


class _TsvReader:
    """A reader of rows from a position of a file in UTF-8.

    Attributes:
        begin: Where the last row begins.
        position: Where the next row begins.
    """

    def __init__(self, path: Path, position: int, on_bytes: ByteCallback | None) -> None:
        self.begin = self.position = position
        self._on_bytes = on_bytes
        self._file = path.open("rb")
        self._file.seek(position)

    def __enter__(self) -> "_TsvReader":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def next_row(self) -> list[str] | None:
        """Read the cells of the next row that is not empty; None at the end.

        Raises:
            ValueError: The row is malformed; the next one follows.
        """
        while line := self._file.readline(MAX_ROW + 1):
            self.begin = self.position
            if len(line) > MAX_ROW:
                self._skip_line(line)
                raise ValueError(f"it is longer than {MAX_ROW} bytes")
            try:
                cells, row = self._split(line)
            except ValueError:
                self._file.seek(self.begin + len(line))
                self._pass(line)
                raise
            self._pass(row)
            if row.strip(BOM + b"\r\n"):
                try:
                    return [cell.decode("utf-8") for cell in cells]
                except UnicodeDecodeError as error:
                    raise ValueError(f"{error}: save the file as UTF-8") from error
        return None

    def _split(self, line: bytes) -> tuple[list[bytes], bytes | bytearray]:
        """Split a row into cells; gives the bytes of the row, too, which may be several lines.

        Raises:
            ValueError: A cell begins with a quote, and it is not clear where it ends.
        """
        at = len(BOM) if self.begin == 0 and line.startswith(BOM) else 0
        if b'"' not in line:
            return line[at:].rstrip(b"\r\n").split(b"\t"), line
        row = bytearray(line)
        cells: list[bytes] = []
        while True:
            close = self._closing_quote(row, at + 1) if row[at : at + 1] == b'"' else -1
            if close >= 0:
                cells.append(bytes(row[at + 1 : close]).replace(b'""', b'"'))
            end = _END.search(row, at if close < 0 else close + 1)
            assert end is not None, "every row has an end"
            if close < 0:
                cells.append(bytes(row[at : end.start()]))
            if end[0] != b"\t":
                return cells, row
            at = end.end()

    def _closing_quote(self, row: bytearray, start: int) -> int:
        """Find the quote that closes a cell; -1 if the cell is not quoted.

        Further lines are appended to the row until one has the quote.

        Raises:
            ValueError: A later line has a quote that does not close the cell, or none has.
        """
        first_end = len(row)
        while True:
            for quote in _QUOTES.finditer(row, start):
                if quote[0] == b'"':
                    if _END.match(row, quote.end()):
                        return quote.start()
                    if quote.start() < first_end:
                        return -1
                    raise ValueError("a cell begins with a quote that is not closed")
            start = len(row)
            line = self._file.readline(MAX_ROW + 1)
            if not line or len(row) + len(line) > MAX_ROW:
                raise ValueError("a cell begins with a quote that is not closed")
            row += line

    def _pass(self, row: bytes | bytearray) -> None:
        self.position += len(row)
        if self._on_bytes is not None:
            self._on_bytes(row)

    def _skip_line(self, line: bytes) -> None:
        """Go to the line after one that is too long to be held."""
        while line:
            self._pass(line)
            if line.endswith(b"\n"):
                return
            line = self._file.readline(MAX_ROW + 1)
