"""What the tasks share whose samples are the rows of a file that the user has.

A new task is one file with a subclass of `FileTask`; see CONTRIBUTING.
"""

import ast
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar, cast

from visreplay.tasks.datasets.table_files import JsonFile, Row, Rows, TsvFile, is_texts
from visreplay.tasks.scoring.scorers import same_option
from visreplay.tasks.types import Sample
from visreplay.tools import ToolError, load_image, probe
from visreplay.tools.media import decode_base64

MIN_IMAGE_CHARACTERS = 64
"""An `image` cell of fewer characters is the index of the row that holds the image."""


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """What `visreplay tasks` says of a task.

    Attributes:
        name: On the command line.
        scorer: How answers are compared.
        files: What --data wants.
    """

    name: str
    scorer: str
    files: str


class FileTask(ABC):
    """A task whose samples are the rows of a TSV, JSON or JSON Lines file.

    Opening it reads every row, so that whatever is wrong with the file is told before a run
    begins: a missing field, a missing video. Media are decoded by `load` alone.

    Args:
        name: One of the class's entries.
        data: The file; media are looked for in its folder.

    Raises:
        ValueError: something is wrong with the file; names file, row and field.
        OSError: it cannot be read.
    """

    entries: ClassVar[tuple[TaskInfo, ...]]
    """The names under which the class is opened."""
    suffixes: ClassVar[Sequence[str]] = (".json", ".jsonl")
    """Of the files that it reads; a folder is read if .json is among them."""
    columns: ClassVar[Sequence[str]] = ()
    """That a TSV file must have."""
    pattern: ClassVar[str] = "*.json*"
    """The files of a folder, if --data is one."""

    def __init__(self, name: str, data: Path) -> None:
        self.name = name
        data.stat()  # tells of a file that is not there
        suffix = ".json" if data.is_dir() else data.suffix.lower()
        if suffix not in self.suffixes:
            raise ValueError(f"{name} reads {' and '.join(self.suffixes)} files, not {data}")
        self.folder = self.media_folder(data)
        self.rows: Rows = (
            TsvFile(data, self.columns) if suffix == ".tsv" else JsonFile(data, self.pattern)
        )
        self._numbers: dict[str, int] = {}
        self._check()

    @property
    def digest(self) -> str:
        """sha256 of the file as it was read, or of a folder's files one after the other.

        Media that are files of their own are not in it.
        """
        return self.rows.digest

    @abstractmethod
    def read(self, row: Row) -> Sample:
        """The sample of a row, its images not decoded yet, and without those in the row itself.

        Raises:
            ValueError: something is wrong with the row; see `Row.refused`.
        """

    @abstractmethod
    def is_right(self, sample: Sample, answer: str | None) -> bool:
        """Whether an answer to a sample is right; never raises."""

    def media_folder(self, data: Path) -> Path:
        """The folder that paths in the file are relative to, and that none may leave."""
        return data if data.is_dir() else data.parent

    def sample_ids(self) -> list[str]:
        """Those of all rows, in the file's order."""
        return list(self._numbers)

    def load(self, sample_id: str) -> Sample:
        """Read a sample, decode its images, and see that its video can be decoded.

        Raises:
            ValueError: there is no such sample, or an image or the video cannot be read.
        """
        if sample_id not in self._numbers:
            raise ValueError(f"there is no sample {sample_id!r} in {self.rows.path}")
        row = self.rows.row(self._numbers[sample_id])
        sample = self.read(row)
        try:
            if sample.video is not None:
                probe(sample.video)
            images = [load_image(picture) for picture in (*sample.images, *self._embedded(row))]
        except ToolError as error:
            field = "image" if sample.video is None else "video"
            raise row.refused(field, str(error)) from error
        return replace(sample, images=tuple(images))

    def find(self, row: Row, field: str, *places: str) -> Path:
        """The first of some relative paths that is a file in the data's folder.

        Raises:
            ValueError: none is, or one leads out of the folder.
        """
        for place in places:
            path = self._inside(row, field, place)
            if path.is_file():
                return path
        raise row.refused(field, f"there is no {' and no '.join(places)} in {self.folder}")

    def _inside(self, row: Row, field: str, place: str) -> Path:
        parts = PurePosixPath(place)
        if not place or "\0" in place or "\\" in place or "://" in place:
            raise row.refused(field, f"{place!r} is not the relative path of a file")
        if parts.is_absolute() or ".." in parts.parts:
            raise row.refused(
                field, f"{place!r} leads out of {self.folder}; paths are relative to it"
            )
        path = self.folder / parts
        real = path.resolve()
        if not any(real.is_relative_to(home) for home in self._homes()):
            raise row.refused(
                field, f"{place!r} is a link that leads out of {self.folder}: put the file there"
            )
        return path

    def _homes(self) -> list[Path]:
        """Where links may lead: the folder, and the blobs of Hugging Face's cache that it is in.

        There, snapshots/COMMIT/a.png is a link to blobs/DIGEST, beside snapshots/.
        """
        folder = self.folder.resolve()
        snapshots = [place for place in folder.parents if place.name == "snapshots"]
        return [folder, *(place.parent / "blobs" for place in snapshots[:1])]

    def _check(self) -> None:
        referring: list[tuple[int, str]] = []
        for row in self.rows.scan():
            sample_id = self.read(row).sample_id
            if sample_id in self._numbers:
                raise ValueError(
                    f"{row.file}, {row.where}: the sample id {sample_id!r} is already that of "
                    f"row {self._numbers[sample_id] + 1}"
                )
            self._numbers[sample_id] = len(self._numbers)
            if isinstance(self.rows, TsvFile) and "image" in row.fields:
                image = row.text("image")
                if len(image) < MIN_IMAGE_CHARACTERS:
                    referring.append((self._numbers[sample_id], image))
        if not self._numbers:
            raise ValueError(f"{self.rows.path} has no rows")
        for number, target in referring:
            row = self.rows.row(number)
            if len(self._target(row, target).text("image")) < MIN_IMAGE_CHARACTERS:
                raise row.refused("image", f"row {target!r}, to which it refers, has no image")

    def _target(self, row: Row, index: str) -> Row:
        """The row that a short `image` cell refers to."""
        if index not in self._numbers:
            raise row.refused("image", f"{index!r} is neither an image nor the index of a row")
        return self.rows.row(self._numbers[index])

    def _embedded(self, row: Row) -> Iterator[bytes]:
        """The files of the images in a TSV row, or in the row that it refers to."""
        if not isinstance(self.rows, TsvFile) or "image" not in row.fields:
            return
        text = row.text("image")
        if len(text) < MIN_IMAGE_CHARACTERS:
            text = self._target(row, text).text("image")
        for encoded in listed(row, "image", text) if text.startswith("[") else [text]:
            try:
                yield decode_base64(encoded.rpartition("base64,")[2])
            except ToolError as error:
                raise row.refused("image", str(error)) from error


def chose_right(sample: Sample, answer: str | None) -> bool:
    """Whether an answer chooses the right one of the options in a sample's facts."""
    return same_option(sample.answer, answer, cast(Mapping[str, str], sample.facts["options"]))


def listed(row: Row, field: str, text: str) -> list[str]:
    """The texts of a list that is written as JSON or as Python would print it.

    Raises:
        ValueError: it is not such a list.
    """
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise row.refused(field, "a list of texts is needed") from error
    if not is_texts(values):
        raise row.refused(field, "a list of texts is needed")
    return [str(value) for value in values]


def answer_letter(row: Row, field: str, options: Mapping[str, str]) -> str:
    """The letter of the right option, which a field gives as such or as the option's text.

    Raises:
        ValueError: it is neither.
    """
    answer = row.text(field)
    letter = answer.strip("(). ").upper()
    if letter in options:
        return letter
    same = [k for k, option in options.items() if option.strip() == answer]
    if len(same) != 1:
        raise row.refused(
            field, f"{answer!r} is none of the options {', '.join(map(repr, options.values()))}"
        )
    return same[0]
