"""The base of the tasks whose samples are the rows of a file that the user has.

A new task is one file with a subclass of `FileTask`, and an entry in `registry.py`; see
CONTRIBUTING.
"""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import ClassVar, cast

from visreplay.tasks.datasets.table_files import DataFile, JsonFile, Row
from visreplay.tasks.datasets.tsv_file import TsvFile
from visreplay.tasks.scoring.printed_lists import printed_list
from visreplay.tasks.scoring.scorers import Scorer
from visreplay.tasks.types import Sample, Verdict
from visreplay.tools import ToolError, load_image, probe
from visreplay.tools.data_uri import decode_base64
from visreplay.tools.types import preview

_URL_SAFE = str.maketrans("-_", "+/")
MIN_IMAGE_CHARACTERS = 64
"""A shorter `image` cell is the index of the row that holds the image."""


class FileTask(ABC):
    """A task whose samples are the rows of a TSV, JSON or JSON Lines file.

    Opening a task reads every row. What is wrong with the file, such as a missing column, or with
    all of its rows is an error before the run begins. A row that cannot be read costs its sample
    alone: loading that is the error. Only `load` decodes media.

    Args:
        name: The name of the task in the registry.
        data: The file; its media lie in its folder.

    Attributes:
        notes: What the user should know of the rows: how many cannot be read, or are left out.

    Raises:
        ValueError: Something is wrong with the file; the message names file, row and field.
        OSError: The file cannot be read.
    """

    suffixes: ClassVar[Sequence[str]] = (".json", ".jsonl")
    """Suffixes of the files that it reads; with .json, it reads a folder too."""
    columns: ClassVar[Sequence[str]] = ()
    """Columns that a TSV file must have."""
    pattern: ClassVar[str] = "*.json*"
    """The files to read where `data` is a folder."""

    max_pixels: int | None = None
    """Largest number of pixels of an image; None for the default of `load_image`."""

    def __init__(self, name: str, data: Path) -> None:
        self.name = name
        data.stat()  # raises for a file that does not exist
        suffix = ".json" if data.is_dir() else data.suffix.lower()
        if suffix not in self.suffixes:
            raise ValueError(f"{name} reads {' and '.join(self.suffixes)} files, not {data}")
        self.folder = self.media_folder(data)
        self.rows: DataFile = (
            TsvFile(data, self.columns) if suffix == ".tsv" else JsonFile(data, self.pattern)
        )
        self.notes: list[str] = []
        self._numbers: dict[str, int] = {}
        self._faults: dict[str, ValueError] = {}
        self._check()

    @property
    def digest(self) -> str:
        """The sha256 of the file as it was read, or of a folder's files one after the other.

        Media in files of their own do not count.
        """
        return self.rows.digest

    @abstractmethod
    def read(self, row: Row) -> Sample:
        """Make the sample of a row, with paths to its images and without images in the row itself.

        Raises:
            ValueError: Something is wrong with the row; see `Row.error`.
        """

    @classmethod
    def open_scorer(cls, name: str) -> Scorer:
        """Choose the rule for the open questions of the task of a name.

        Raises:
            ValueError: The task has no open questions.
        """
        raise ValueError(f"{name} has no open questions: a question needs its options")

    @classmethod
    def scorer_for(cls, name: str, options: Mapping[str, str]) -> Scorer:
        """Choose the rule of the task of a name for a question with options, or for an open one.

        Raises:
            ValueError: There are no options, and the task has no open questions.
        """
        return Scorer("option", options) if options else cls.open_scorer(name)

    def scorer(self, sample: Sample) -> Scorer:
        """Choose the rule for the answers to a sample."""
        options = cast(Mapping[str, str], sample.facts.get("options", {}))
        return self.scorer_for(self.name, options)

    def judge(self, sample: Sample, answer: str | None) -> Verdict:
        """Tell whether an answer to a sample is right, and by which rule; never raises."""
        return self.scorer(sample).judge(sample.answer, answer)

    def is_right(self, sample: Sample, answer: str | None) -> bool:
        """Tell whether an answer to a sample is right; never raises."""
        return self.judge(sample, answer).right

    def left_out(self, row: Row) -> str | None:
        """Say why a row is no sample of the task; None if it is one."""
        return None

    def media_folder(self, data: Path) -> Path:
        """The folder that paths in the file are relative to, and that no path may leave."""
        return data if data.is_dir() else data.parent

    def sample_ids(self) -> list[str]:
        """List the ids of all rows, in the file's order."""
        return list(self._numbers)

    def load(self, sample_id: str) -> Sample:
        """Read a sample, decode its images, and check that its video can be decoded.

        Raises:
            ValueError: There is no such sample, or its row, an image or the video cannot be read.
        """
        sample = self.describe(sample_id)
        row = self.rows.row(self._numbers[sample_id])
        try:
            if sample.video is not None:
                probe(sample.video)
            pictures = sample.images or self._row_images(row)
            images = [load_image(picture, max_pixels=self.max_pixels) for picture in pictures]
        except ToolError as error:
            field = "image" if sample.video is None else "video"
            raise row.error(field, str(error)) from error
        return replace(sample, images=tuple(images))

    def describe(self, sample_id: str) -> Sample:
        """Read a sample without decoding its media.

        Raises:
            ValueError: There is no such sample, or its row cannot be read.
        """
        if sample_id not in self._numbers:
            raise ValueError(f"there is no sample {sample_id!r} in {self.rows.path}")
        if sample_id in self._faults:
            raise self._faults[sample_id]
        return self.read(self.rows.row(self._numbers[sample_id]))

    def find(self, row: Row, field: str, *places: str) -> Path:
        """Find the first of some relative paths that is a file in the data's folder.

        Args:
            row: The row that names the file.
            field: The field that names it, for the error.
            places: Paths relative to the folder.

        Raises:
            ValueError: None of them is a file, or one leads out of the folder.
        """
        for place in places:
            path = self._inside(row, field, place)
            if path.is_file():
                return path
        raise row.error(field, f"there is no {' and no '.join(places)} in {self.folder}")

    def _inside(self, row: Row, field: str, place: str) -> Path:
        parts = PurePosixPath(place)
        if not place or "\0" in place or "\\" in place or "://" in place:
            raise row.error(field, f"{place!r} is not the relative path of a file")
        if parts.is_absolute() or ".." in parts.parts:
            raise row.error(
                field, f"{place!r} leads out of {self.folder}; paths are relative to it"
            )
        path = self.folder / parts
        real = path.resolve()
        if not any(real.is_relative_to(root) for root in self._roots()):
            raise row.error(
                field, f"{place!r} is a link that leads out of {self.folder}: put the file there"
            )
        return path

    def _roots(self) -> list[Path]:
        """The folders that links may lead to.

        These are the folder itself and, inside of a Hugging Face cache, its blobs: there,
        snapshots/COMMIT/a.png is a link to blobs/DIGEST.
        """
        folder = self.folder.resolve()
        snapshots = [place for place in folder.parents if place.name == "snapshots"]
        return [folder, *(place.parent / "blobs" for place in snapshots[:1])]

    def _check(self) -> None:
        """Read every row once, and remember which sample it is and what is wrong with it."""
        referring: list[tuple[str, Row, str]] = []
        left_out: Counter[tuple[str, str]] = Counter()
        for place, row in enumerate(self.rows.scan()):
            fault: ValueError | None = None
            try:
                row.check()
                if (reason := self.left_out(row)) is not None:
                    left_out[reason, row.file.name] += 1
                    continue
                sample = self.read(row)
                sample_id, image = sample.sample_id, ""
                if isinstance(self.rows, TsvFile) and "image" in row.fields and not sample.images:
                    image = row.text("image")
            except ValueError as error:
                # It has an id of its own, because the row's may be what cannot be read.
                fault, sample_id = error, f"{row.file.name} {row.label}"
            if sample_id in self._numbers:
                raise ValueError(
                    f"{row.file}, {row.label}: the sample id {sample_id!r} is already that of "
                    f"row {self._numbers[sample_id] + 1}"
                )
            self._numbers[sample_id] = place
            if fault is not None:
                self._faults[sample_id] = fault
            elif 0 < len(image) < MIN_IMAGE_CHARACTERS:
                referring.append((sample_id, replace(row, fields={}), image))
        for sample_id, row, target in referring:
            try:
                if len(self._target(row, target).optional("image") or "") < MIN_IMAGE_CHARACTERS:
                    raise row.error("image", f"row {target!r}, to which it refers, has no image")
            except ValueError as error:
                self._faults[sample_id] = error
        self.notes += [
            f"{count} of its rows {'is' if count == 1 else 'are'} left out: {reason} ({file})"
            for (reason, file), count in left_out.items()
        ]
        if not self._numbers:
            why = f"samples: {'; '.join(self.notes)}" if self.notes else "rows"
            raise ValueError(f"{self.rows.path} has no {why}")
        first = next(iter(self._faults.values()), None)
        if first is not None and len(self._faults) == len(self._numbers):
            raise first
        if first is not None:
            self.notes.append(
                f"{len(self._faults)} of {len(self._numbers)} rows cannot be read, and each is an "
                f"error of its sample; the first: {first}"
            )

    def _target(self, row: Row, index: str) -> Row:
        """Find the row that a short `image` cell refers to."""
        if index not in self._numbers:
            raise row.error("image", f"{index!r} is neither an image nor the index of a row")
        return self.rows.row(self._numbers[index])

    def _row_images(self, row: Row) -> Iterator[bytes]:
        """Decode the base64 of the images in a TSV row, or in the row that it refers to."""
        text = row.optional("image") if isinstance(self.rows, TsvFile) else None
        if text is None:
            return
        if len(text) < MIN_IMAGE_CHARACTERS:
            text = self._target(row, text).text("image")
        for encoded in parse_list(row, "image", text) if text[0] in "[(" else [text]:
            try:
                yield decode_image(encoded)
            except ToolError as error:
                raise row.error("image", str(error)) from error


def decode_image(cell: str) -> bytes:
    """Decode base64 as tables have it: without padding, URL-safe, with a data URI's head, b'..'.

    Raises:
        ToolError: The text is not base64.
    """
    encoded = re.sub(r"^b(['\"])(.*)\1$", r"\2", cell, flags=re.DOTALL)
    encoded = "".join(re.sub(r"^\s*data:[^,]{0,200},", "", encoded, flags=re.I).split())
    encoded = encoded.translate(_URL_SAFE).rstrip("=")
    return decode_base64(encoded + "=" * (-len(encoded) % 4))


def parse_list(row: Row, field: str, text: str) -> list[str]:
    """Parse a list of texts or numbers, which is written as JSON, Python or numpy prints it.

    Raises:
        ValueError: The text is not such a list.
    """
    values = printed_list(text)
    if values is None:
        raise row.error(field, f"a list of texts is needed, not {preview(text)}")
    return values


def answer_letter(row: Row, field: str, options: Mapping[str, str]) -> str:
    """Read the letter of the right option from a field that holds the letter or the option's text.

    Raises:
        ValueError: The field holds neither.
    """
    answer = row.text(field)
    letter = answer.strip("(). ").upper()
    if letter in options:
        return letter
    same = [k for k, option in options.items() if option.strip() == answer]
    if len(same) != 1:
        raise row.error(
            field, f"{answer!r} is none of the options {', '.join(map(repr, options.values()))}"
        )
    return same[0]
