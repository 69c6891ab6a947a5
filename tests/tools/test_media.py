import base64
import io
import struct
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import bomb
from PIL import Image
from shared import png, write_clip, write_picture
from web import Server, only_here, sends

from visreplay.tools import DecodedVideo, ImageStore, Media, ToolError, load_image
from visreplay.tools.fetch import Fetcher
from visreplay.tools.media_budget import Budget

RED = "data:image/png;base64," + png("red")


@pytest.fixture
def media(tmp_path: Path) -> Media:
    """Two folders that may be read, and one between them that may not."""
    for folder in ("first", "second", "private"):
        write_picture(tmp_path / folder / f"{folder}.png", "red")
    (tmp_path / "first" / "link.png").symlink_to("../private/private.png")
    (tmp_path / "first" / "folder").symlink_to("../private")
    return Media(ImageStore(), (tmp_path / "first", tmp_path / "second"), 10_000, len(RED))


def test_a_reference_a_data_uri_and_files_of_every_root_are_found(
    media: Media, tmp_path: Path
) -> None:
    reference = media.store.put(Image.new("RGB", (40, 30)))
    write_picture(tmp_path / "first" / "a folder" / "ä.png", "red")
    names = (
        reference,
        "visreplay:" + reference,
        RED,
        "first.png",
        "second.png",
        str(tmp_path / "second" / "second.png"),
        f"file://{tmp_path}/second/second.png",
        f"file://localhost{tmp_path}/first/a%20folder/%C3%A4.png",
    )
    assert [media.image(name).size for name in names] == [(40, 30)] * 8
    red = media.reference(RED)
    assert [media.reference(name) for name in names] == [reference] * 2 + [red] * 6
    assert media.reference(base64=png("red")) == media.reference(base64=png("red") + "\n") == red
    assert media.store.get(red).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("../private/private.png", "outside the folders"),
        ("{tmp}/private/private.png", "outside the folders"),
        ("link.png", "no image 'link.png'"),  # outside of the first, and not there in the second
        ("folder/private.png", "no image"),
        ("third.png", "no image 'third.png'"),
        ("", "no image"),
        (".", "no image"),
        ("a" * 10_000, "no image"),
        ("a/" * 2**20 + "../" * 2**20 + "first.png", "no image"),
        ("file://" + "/a" * 2**20, "no image"),
        ("nul\0", "outside the folders"),
        ("\ud800", "outside the folders"),
        ("http://127.0.0.1/a.png", "is a URL"),
        ("ftp://127.0.0.1/a.png", "is a URL"),
        ("file:///etc/passwd", "outside the folders"),
        ("FILE:///etc/passwd", "outside the folders"),
        ("file://localhost/etc/passwd", "outside the folders"),
        ("file://example.org/etc/passwd", "no file of this machine"),
        ("file://first.png", "no file of this machine"),
        ("file://{tmp}/first/first.png?a=b", "no file of this machine"),
        ("file://[", "no URL"),
        ("file://", "no image"),
        ("file:first.png", "no image"),
        ("file://{tmp}/first/../private/private.png", "outside the folders"),
        ("file://{tmp}/first/%2e%2e/private/private.png", "outside the folders"),
        ("file://{tmp}/first/..%2fprivate%2Fprivate.png", "outside the folders"),
        ("file://{tmp}/first/%252e%252e/private/private.png", "no image"),
        ("file://{tmp}/first/nul%00", "outside the folders"),
        ("file://{tmp}/first/link.png", "outside the folders"),
        ("visreplay:first.png", "in the image store"),
        ("visreplay:" + "0" * 64, "in the image store"),
        ("data:image/png;base64,AAAA", "not an image"),
        ("data:image/png;base64,-", "cannot be decoded"),
        ("data:image/png,red", "no base64 data URI"),
        (RED + "A", f"at most {len(RED)} are read"),
    ],
)
def test_nothing_else_is_read(media: Media, tmp_path: Path, name: str, error: str) -> None:
    name = name.replace("{tmp}", str(tmp_path))
    for read in (media.image, media.reference):
        with pytest.raises(ToolError, match=error):
            read(name)
    with pytest.raises(ToolError):
        media.video(name)


def test_a_link_that_leads_out_is_refused_where_it_is_the_only_root(tmp_path: Path) -> None:
    write_picture(tmp_path / "private.png", "red")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link.png").symlink_to(tmp_path / "private.png")
    with pytest.raises(ToolError, match="outside the folders"):
        Media(ImageStore(), (tmp_path / "root",)).image("link.png")


def test_a_root_may_be_a_link_itself(tmp_path: Path) -> None:
    write_picture(tmp_path / "there" / "a.png", "red")
    (tmp_path / "here").symlink_to(tmp_path / "there")
    assert Media(ImageStore(), (tmp_path / "here",)).image("a.png").size == (40, 30)


def test_without_roots_no_file_and_without_a_limit_no_data_uri_is_read(tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "a.png", "red")
    for name in (str(picture), RED):
        with pytest.raises(ToolError, match="no files may be read"):
            Media(ImageStore()).image(name)
    with pytest.raises(ToolError, match="at most 0 are read"):
        Media(ImageStore()).reference(base64=png("red"))


def test_large_images_are_refused_before_they_are_decoded(media: Media) -> None:
    Image.new("RGB", (101, 100)).save(media.roots[0] / "large.png")
    with pytest.raises(ToolError, match="at most 10000 are allowed"):
        media.image("large.png")


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from(["..", ".", "", "private", "private.png", "folder", "first", "link.png"])
        | st.text(max_size=8),
        max_size=6,
    )
)
def test_no_name_leads_out_of_a_root(parts: list[str]) -> None:
    with pytest.raises(ToolError):
        Media(ImageStore(), (Path(__file__).parent,)).image("/".join(parts))


def damaged() -> dict[str, bytes]:
    picture = Image.effect_noise((80, 60), 90)
    files: dict[str, bytes] = {"bomb.png": bomb(), "text.png": b"hello" * 100, "empty.png": b""}
    for kind in ("png", "jpeg", "webp", "gif"):
        file = io.BytesIO()
        picture.save(file, kind)
        files[f"half.{kind}"] = file.getvalue()[: len(file.getvalue()) // 2]
    return files


def test_bombs_and_damaged_images_are_refused_however_they_come(
    tmp_path: Path, server: Server
) -> None:
    media = Media(ImageStore(), (tmp_path,), max_uri=10**6, fetch=Fetcher(allowed=only_here))
    for name, content in damaged().items():
        (tmp_path / name).write_bytes(content)
        server.answers["/" + name] = sends(content)
        encoded = base64.b64encode(content).decode()
        for source in (name, f"data:image/png;base64,{encoded}", f"{server.url}/{name}"):
            with pytest.raises(ToolError, match="at most 89478485" if "bomb" in name else "."):
                media.reference(source)
        with pytest.raises(ToolError):
            media.reference(base64=encoded)


def test_urls_are_read_where_there_is_a_fetcher(tmp_path: Path, server: Server) -> None:
    picture = write_picture(tmp_path / "a.png", "red").read_bytes()
    video = write_clip(tmp_path / "a.mp4", [10] * 10).read_bytes()
    server.answers |= {"/a.png": sends(picture), "/a.mp4": sends(video)}
    fetcher = Fetcher(max_bytes=len(picture), allowed=only_here)
    media = Media(ImageStore(), fetch=fetcher)
    assert media.image(server.url + "/a.png").getpixel((0, 0)) == (255, 0, 0)
    assert media.reference("HTTP" + server.url[4:] + "/a.png") in media.store
    assert len(media.video(server.url + "/a.mp4").frames) == 2  # a video has a limit of its own
    with pytest.raises(ToolError, match=f"more than the {len(video) - 1} bytes"):
        replace(media, max_video_bytes=len(video) - 1).video(server.url + "/a.mp4")
    with pytest.raises(ToolError, match="answered 404"):
        media.image(server.url + "/missing")
    requests = len(server.asked)
    for strict in (Media(ImageStore()), Media(ImageStore(), (tmp_path,)), media):
        strict = strict if strict.fetch is None else replace(media, fetch=Fetcher())
        for read in (strict.image, strict.reference, strict.video):
            with pytest.raises(ToolError, match=r"is not fetched here|not all of its addresses"):
                read(server.url + "/a.png")
    assert len(server.asked) == requests


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, which a test finds empty when all is well."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_video_is_the_same_however_it_comes(tmp_path: Path, temporary: Path) -> None:
    path = write_clip(tmp_path / "videos" / "a.mp4", [20] * 20 + [220] * 20)  # 10 a second
    encoded = base64.b64encode(path.read_bytes()).decode()
    media = Media(ImageStore(), (path.parent,), max_uri=10**6)
    video = media.video("a.mp4")
    assert video.times == (0.2, 0.7, 1.2, 1.7, 2.2, 2.7, 3.2, 3.7)
    shades = [np.asarray(media.store.get(frame)).mean() for frame in video.frames]
    assert max(shades[:4]) < 60 < 180 < min(shades[4:])
    assert media.video(f"file://{path}") == video
    assert media.video(f"data:video/mp4;base64,{encoded}") == video
    assert media.video(base64=encoded) == video
    assert not list(temporary.iterdir())


def test_a_video_has_at_least_one_frame_and_no_more_than_there_are(tmp_path: Path) -> None:
    media = Media(ImageStore(), (tmp_path,))
    write_clip(tmp_path / "short.mp4", [90], fps=30)
    assert media.video("short.mp4").times == (0.0,)
    write_clip(tmp_path / "slow.mp4", [90, 120, 150], fps=1)
    assert media.video("slow.mp4").times == (0.0, 1.0, 2.0)


def test_ten_thousand_frames_are_shown_with_as_many_as_are_allowed(tmp_path: Path) -> None:
    write_clip(tmp_path / "long.mp4", [shade % 256 for shade in range(10_000)], fps=30)
    media = Media(ImageStore(), (tmp_path,), max_side=32)
    video = media.video("long.mp4")
    assert len(video.frames) == len(video.times) == 64
    assert video.times[0] < 3 < 330 < video.times[-1]
    assert {media.store.get(frame).size for frame in video.frames} == {(32, 24)}
    assert len(replace(media, max_frames=3).video("long.mp4").frames) == 3
    with pytest.raises(ToolError, match=r"has 333.3 s; at most 333 s are allowed"):
        replace(media, max_seconds=333).video("long.mp4")


def test_videos_that_are_too_large_are_refused(tmp_path: Path, temporary: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", [20] * 20)
    content = path.read_bytes()
    uri = "data:video/mp4;base64," + base64.b64encode(content).decode()
    media = Media(ImageStore(), (tmp_path,), max_uri=len(uri))
    assert isinstance(media.video(uri), DecodedVideo)
    for changes, error in (
        ({"max_uri": len(uri) - 1}, f"at most {len(uri) - 1} are read"),
        ({"max_video_bytes": len(content) - 1}, f"at most {len(content) - 1} are read"),
        ({"max_pixels": 64 * 48 - 1}, "at most 3071 are allowed"),
        ({"max_seconds": 1}, "at most 1 s are allowed"),
    ):
        with pytest.raises(ToolError, match=error):
            replace(media, **changes).video(uri)  # type: ignore[arg-type]
    assert not list(temporary.iterdir())


def claiming(frames: int, path: Path) -> bytes:
    """An AVI of ten frames that claims more."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(10):
        writer.write(np.full((48, 64, 3), 90, np.uint8))
    writer.release()
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"strh") + 40, frames)
    return bytes(content)


def test_a_video_that_claims_too_much_is_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    media = Media(ImageStore(), (tmp_path,))
    for frames in (10, 2 * 10**9, 2**31 - 1):
        path.write_bytes(claiming(frames, path))
        assert len(media.video("a.avi").frames) == 2
    with pytest.raises(ToolError, match=r"longer than the 0.001 s"):
        replace(media, max_decoding=0.001).video("a.avi")


def test_a_file_that_is_no_video_is_refused_however_it_comes(
    tmp_path: Path, temporary: Path
) -> None:
    root = tmp_path / "root"
    whole = write_clip(root / "whole.mp4", [90] * 10)
    private = write_clip(tmp_path / "private" / "private.mp4", [90] * 10)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{private}\n#EXT-X-ENDLIST\n"
    contents = {
        "text.mp4": b"hello " * 100,
        "empty.mp4": b"",
        "half.mp4": whole.read_bytes()[:900],
        "picture.mp4": write_picture(tmp_path / "a.png", "red").read_bytes(),
        "playlist.m3u8": playlist.encode(),
        "playlist.mp4": playlist.encode(),
        "list.ffconcat": b"ffconcat version 1.0\nfile whole.mp4\n",
    }
    media = Media(ImageStore(), (root,), max_uri=10**6)
    (root / "link.mp4").symlink_to(private)
    for name, content in contents.items():
        (root / name).write_bytes(content)
        with pytest.raises(ToolError, match=r"is not a video|no frames"):
            media.video(base64=base64.b64encode(content).decode())
    for name in (*contents, "link.mp4", "../private/private.mp4", str(private), ".", "no.mp4"):
        with pytest.raises(ToolError):
            media.video(name)
    assert len(media.video("whole.mp4").frames) == 2
    assert not list(temporary.iterdir())


def test_what_one_caller_sends_is_counted_together(tmp_path: Path) -> None:
    """The same picture again costs as much again: it is decoded each time."""
    store = ImageStore()

    def media(**changes: Any) -> Media:
        bounds = {"pixels": 3000, "count": 9, "seconds": 60.0, **changes}
        return Media(store, (tmp_path,), max_uri=10**6, budget=Budget(**bounds))

    several = media()
    several.image(RED)
    several.reference(base64=png("red"))
    several.image(
        store.put(load_image(base64.b64decode(png("red"))))
    )  # what is there already costs nothing
    with pytest.raises(ToolError, match="more than 3,000 pixels together"):
        several.image(RED)
    few = media(count=1)
    few.image(RED)
    with pytest.raises(ToolError, match="more than 1 images and videos"):
        few.reference(RED)
    with pytest.raises(ToolError, match="longer to read than 0 s"):
        media(seconds=0.0).image(RED)
    left = media()
    assert left.budget is not None
    left.budget.leave()
    with pytest.raises(ToolError, match="longer to read"):
        left.image(RED)


def test_a_videos_frames_are_counted(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", [0] * 10)  # a second of 64 x 48 pixels: two frames
    bounds = Budget(pixels=5000, count=9, seconds=60.0)
    media = Media(ImageStore(), (tmp_path,), budget=bounds)
    with pytest.raises(ToolError, match="more than 5,000 pixels together"):
        media.video("clip.mp4")


def test_errors_name_what_the_caller_named(tmp_path: Path) -> None:
    """Not where it is on this machine, or where a link leads."""
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "link.png").symlink_to(tmp_path / "text.png")
    with pytest.raises(ToolError, match=r"'link\.png' is not an image") as caught:
        Media(ImageStore(), (tmp_path,)).image("link.png")
    assert str(tmp_path) not in str(caught.value)
