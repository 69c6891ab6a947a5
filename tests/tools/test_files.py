"""What was checked and what is read are the same file."""

import os
import threading
from pathlib import Path

import pytest
from PIL import Image
from shared import write_picture

from visreplay.tools import ImageStore, Media, ToolError, load_image
from visreplay.tools.files import open_beneath, open_file


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_link_that_changes_meanwhile_never_leads_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    inside = write_picture(root / "a.png", "red")
    outside = tmp_path / "outside.png"
    Image.new("RGB", (7, 7), "blue").save(outside)
    stop = threading.Event()

    def swap() -> None:
        """Replace the picture with a link and back, as fast as possible."""
        content = inside.read_bytes()
        other = root / "other"
        while not stop.is_set():
            other.symlink_to(outside)
            os.replace(other, inside)
            other.write_bytes(content)
            os.replace(other, inside)

    swapping = threading.Thread(target=swap)
    swapping.start()
    media, found, refused, before = Media(ImageStore(), (root,)), 0, 0, descriptors()
    try:
        for _ in range(2000):
            try:
                file = media.file("a.png", "image")
            except ToolError:
                refused += 1
                continue
            with file:
                found += 1
                place = os.readlink(f"/proc/self/fd/{file.descriptor}").removesuffix(" (deleted)")
                assert Path(place).parent == root.resolve()
    finally:
        stop.set()
        swapping.join()
    assert found and refused, "the race was not met"
    assert descriptors() < before + 10


@pytest.mark.parametrize("make", ["folder", "pipe", "socket"])
def test_only_regular_files_are_opened(make: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    if make == "folder":
        path.mkdir()
    elif make == "pipe":
        os.mkfifo(path)
    before = descriptors()
    with pytest.raises(ToolError, match="there is no image"):
        open_file(path, "image")
    assert open_beneath(tmp_path, "a.png") is None
    assert descriptors() == before


def test_a_device_is_no_image() -> None:
    for device in ("/dev/zero", "/dev/stdin"):
        with pytest.raises(ToolError, match="there is no image"):
            load_image(device)


def test_the_name_may_go_while_a_file_is_open(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.png", "red")
    with open_file(path, "image") as file:
        path.unlink()
        assert load_image(file.path).getpixel((0, 0)) == (255, 0, 0)
