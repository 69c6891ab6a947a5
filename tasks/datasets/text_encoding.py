"""Files in UTF-8, or in UTF-16 as spreadsheets save them."""

import codecs
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from weakref import finalize

BOM = codecs.BOM_UTF8
_CHUNK = 1 << 20


def utf16_of(start: bytes) -> str | None:
    """Tell by the first bytes of a text whether it is UTF-16, and which; None if it is not."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(start) > 1 and start[0] and not start[1]:
        return "utf-16-le"
    return "utf-16-be" if len(start) > 1 and start[1] and not start[0] else None


def utf8_bytes(content: bytes) -> bytes:
    """Convert a text to UTF-8, without a byte order mark.

    Raises:
        UnicodeDecodeError: It looks like UTF-16 and is not.
    """
    encoding = utf16_of(content[:2])
    return content.removeprefix(BOM) if encoding is None else content.decode(encoding).encode()


class Utf8File:
    """A file in UTF-8: the file itself or, for one in UTF-16, a temporary copy.

    Attributes:
        path: The path of the file in UTF-8, which exists as long as this object.
        digest: The sha256 of a file in UTF-16; empty for one in UTF-8, which is not read here.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.digest = path, ""
        with path.open("rb") as file:
            encoding = utf16_of(file.read(2))
            if encoding is None:
                return
            folder = mkdtemp(prefix="visreplay-")
            finalize(self, rmtree, folder, ignore_errors=True)
            self.path = Path(folder) / path.name
            digest, decoder = sha256(), codecs.getincrementaldecoder(encoding)("replace")
            file.seek(0)
            with self.path.open("wb") as copy:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                    copy.write(decoder.decode(chunk).encode())
                copy.write(decoder.decode(b"", final=True).encode())
            self.digest = digest.hexdigest()
