"""Pictures and videos are told apart by their content."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numbered import write_numbered
from PIL import Image
from shared import write_clip

from visreplay.tools import ToolError, media_kind

DATA = Path(__file__).parent.parent / "data"


def picture() -> Image.Image:
    return Image.new("RGB", (40, 30), "red")


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "bmp", "tiff", "ppm"])
@pytest.mark.parametrize("name", ["a", "a.mp4", "a.txt"])
def test_a_picture_by_any_name(tmp_path: Path, kind: str, name: str) -> None:
    picture().save(tmp_path / name, kind)
    assert media_kind(tmp_path / name) == "image"


@pytest.mark.parametrize(
    ("kind", "expected"), [("gif", "video"), ("webp", "image"), ("png", "image")]
)
def test_a_gif_that_moves_is_a_video(tmp_path: Path, kind: str, expected: str) -> None:
    """No video decoder reads the others, of which the first frame is taken."""
    later = Image.new("RGB", (40, 30), "blue")
    picture().save(tmp_path / "a.png", kind, save_all=True, append_images=[later], duration=100)
    assert media_kind(tmp_path / "a.png") == expected


@pytest.mark.parametrize("name", ["a", "a.png", "a.mp4"])
def test_a_video_by_any_name(tmp_path: Path, name: str) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [0, 80, 160, 240])
    assert media_kind(clip.rename(tmp_path / name)) == "video"


@pytest.mark.parametrize(("suffix", "codec"), [("avi", "MJPG"), ("mkv", "mp4v"), ("mov", "mp4v")])
def test_videos_in_other_containers(tmp_path: Path, suffix: str, codec: str) -> None:
    file = tmp_path / f"a.{suffix}"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*codec), 10, (64, 48))
    for _ in range(4):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    assert media_kind(file.rename(tmp_path / "a.png")) == "video"


@pytest.mark.parametrize(
    ("suffix", "codec"), [("flv", "flv"), ("wmv", "wmv2"), ("vob", "mpeg2video"), ("ts", "libx264")]
)
def test_videos_of_other_makers(tmp_path: Path, suffix: str, codec: str) -> None:
    file = write_numbered(tmp_path / f"a.{suffix}", codec, 4)
    assert media_kind(file.rename(tmp_path / "a.png")) == "video"


def test_an_ogg_video() -> None:
    assert media_kind(DATA / "clips" / "id_theora.ogv") == "video"


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x00" * 1000])
def test_a_file_that_is_neither(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ToolError, match=r"a\.png is neither an image nor a video"):
        media_kind(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["nowhere.png", ".", "http://example.com/a.png"])
def test_no_file(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ToolError):
        media_kind(name)
