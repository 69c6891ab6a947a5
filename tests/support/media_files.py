"""Pictures that are made to hurt their decoder."""

import io
import struct
import zlib

from PIL import Image


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def endless() -> bytes:
    """Make a JPEG of a megabyte that repeats its last scan: hours of work."""
    jpeg = encoded(Image.new("RGB", (4000, 4000), "red"), "JPEG", progressive=True)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + scan * (2**20 // len(scan)) + b"\xff\xd9"


def icon(picture: bytes) -> bytes:
    """Make an icon that says that its picture has 16 x 16 pixels."""
    head = struct.pack("<HHH", 0, 1, 1)
    return head + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(picture), 22) + picture


def bomb() -> bytes:
    """A PNG of 30000 x 30000 pixels, whole, in half a megabyte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(1)
    lines = bytes(1000 * (1 + 30_000 // 8))
    pixels = b"".join(packer.compress(lines) for _ in range(30)) + packer.flush()
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
