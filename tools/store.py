"""A content-addressed store of images: state and checkpoints hold references, never pixels."""

import hashlib
import io
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from visreplay.tools.disk import disk_errors, sync_folder, write_file

_REFERENCE = re.compile(r"[0-9a-f]{64}")
_MODES = ("RGB", "RGBA", "L", "LA", "1")
_START = b"\x89PNG\r\n\x1a\n"
_END = b"\0\0\0\0IEND\xaeB`\x82"


class ImageStore:
    """Images by the hash of their content.

    Args:
        root: Folder for lossless PNG files. Without one, images live in memory only.
        memory_bytes: Size in bytes of the pixels that are kept in memory beside the files.
        forgetful: Whether the bound on memory also holds without a root. The images that were not
            used for longest are then lost; the last one used always stays.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        memory_bytes: int = 256 * 2**20,
        forgetful: bool = False,
    ) -> None:
        self.root = root
        self.memory_bytes = memory_bytes
        self._drops = forgetful or root is not None
        self._images: OrderedDict[str, Image.Image] = OrderedDict()
        self._bytes = 0
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def holding(self) -> Iterator[Callable[[Iterable[str]], None]]:
        """Keep images in memory while a block runs, beside those that the bound on memory allows.

        Yields:
            A function that takes references of the images to keep.
        """
        held: set[str] = set()

        def hold(references: Iterable[str]) -> None:
            with self._lock:
                new = set(references) - held
                held.update(new)
                self._held.update(new)

        try:
            yield hold
        finally:
            with self._lock:
                self._held -= Counter(held)  # images go when the next one is put

    def put(self, image: Image.Image) -> str:
        """Store an image; the same pixels always give the same reference.

        With a root, its file is on the disk when this returns. A file that is damaged, or holds
        another image, is replaced.

        Raises:
            ValueError: The image is more than its pixels (a palette, for example).
            DiskError: The file cannot be written.
        """
        return self._keep(image)

    def png(self, reference: str) -> bytes:
        """Encode an image as in its file, for a store on another machine.

        Raises:
            ValueError: As `get`, and so are the others.
            KeyError: See there.
            OSError: See there.
        """
        return _encoded(self.get(reference))

    def put_png(self, png: bytes) -> str:
        """Store an image that the `png` of another store encoded, without encoding it again.

        Raises:
            ValueError: The bytes are damaged, or as `put`.
            DiskError: The file cannot be written.
        """
        image = _load(io.BytesIO(png))
        if image is None:
            raise ValueError(f"{len(png)} bytes are no whole PNG file: send the image again")
        return self._keep(image, png)

    def get(self, reference: str) -> Image.Image:
        """Get the image of a reference.

        Raises:
            ValueError: The text is not a reference.
            KeyError: The store holds no such image, or its file is damaged.
            OSError: The file cannot be read.
        """
        path = self.path(reference)
        with self._lock:
            if reference in self._images:
                self._images.move_to_end(reference)
                return self._images[reference]
        if path is None or not path.is_file():
            raise KeyError(
                f"image {reference} is not in the store ({self.root or 'in memory'}); "
                "put it there first, or open the store with the root that it was put into"
            )
        image = _load(path)
        if image is None or _reference(image) != reference:
            raise KeyError(f"{path} is damaged, or another image: put the image there again")
        self._remember(reference, image)
        return image

    def is_whole(self, reference: str, *, decode: bool = True) -> bool:
        """Tell whether an image's file is there, and undamaged.

        Args:
            reference: The reference of the image.
            decode: Whether to look at all of it. Otherwise, only its first and last bytes are
                looked at, which finds files that are empty or cut.
        """
        path = self.path(reference) if _REFERENCE.fullmatch(reference) else None
        try:
            if path is None or not path.is_file():
                return False
            with path.open("rb") as file:
                start = file.read(len(_START))
                file.seek(-len(_END), io.SEEK_END)
                if start != _START or file.read() != _END:
                    return False
            image = _load(path) if decode else None
            return not decode or (image is not None and _reference(image) == reference)
        except OSError:  # it cannot be read, or is shorter than that
            return False

    def path(self, reference: str) -> Path | None:
        """Give the path of a reference's file, which need not exist; None without a root.

        Raises:
            ValueError: The text is not a reference.
        """
        if not _REFERENCE.fullmatch(reference):
            raise ValueError(f"{reference!r:.80} is not a reference: 64 hexadecimal digits")
        return self.root and self.root / f"{reference}.png"

    def __contains__(self, reference: str) -> bool:
        """Tell whether `get` would find an image."""
        if not _REFERENCE.fullmatch(reference):
            return False
        path = self.path(reference)
        with self._lock:
            known = reference in self._images
        return known or (path is not None and path.is_file())

    def _keep(self, image: Image.Image, png: bytes | None = None) -> str:
        if image.mode not in _MODES:
            raise ValueError(
                f"an image of mode {image.mode} cannot be stored: convert it to one of "
                f"{', '.join(_MODES)}"
            )
        reference = _reference(image)
        path = self.path(reference)
        # What is in memory has been written or read by this store.
        if path is not None and not (reference in self._images and path.is_file()):
            if self.is_whole(reference):
                # The process that wrote it may have ended before its name was on the disk.
                with disk_errors(path):
                    sync_folder(path.parent)
            else:
                write_file(path, png or _encoded(image))
        self._remember(reference, image)
        return reference

    def _remember(self, reference: str, image: Image.Image) -> None:
        with self._lock:
            if reference not in self._images:
                self._images[reference] = image
                self._bytes += _size(image)
            self._images.move_to_end(reference)
            if self._drops and self._bytes > self.memory_bytes:
                self._forget()

    def _forget(self) -> None:
        """Drop the images that were not used for longest, except the last one used."""
        held = self._held if self.root is None else {}
        loose = [reference for reference in self._images if reference not in held]
        size = sum(_size(self._images[reference]) for reference in loose)
        for reference in loose[:-1]:
            if size <= self.memory_bytes:
                break
            dropped = _size(self._images.pop(reference))
            size -= dropped
            self._bytes -= dropped


def _reference(image: Image.Image) -> str:
    """Compute the hash of an image's mode, size and pixels."""
    content = hashlib.sha256(f"{image.mode} {image.size}".encode())
    content.update(image.tobytes())
    return content.hexdigest()


def _encoded(image: Image.Image) -> bytes:
    png = io.BytesIO()
    image.save(png, "PNG", compress_level=1)
    return png.getvalue()


def _load(file: Path | io.BytesIO) -> Image.Image | None:
    """Decode a file; None if it is damaged.

    Raises:
        OSError: The system cannot read it.
    """
    try:
        # Not by Image.open, which refuses what is larger than most pictures: it was put here.
        with PngImageFile(file) as image:
            image.load()
    except Exception as error:  # Pillow raises errors of many types on damaged files
        if isinstance(error, OSError) and error.errno is not None:
            raise
        return None
    return image


def _size(image: Image.Image) -> int:
    return image.width * image.height * len(image.getbands())
