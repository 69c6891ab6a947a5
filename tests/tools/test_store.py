import io
import os
import threading
from pathlib import Path

import pytest
from PIL import Image

from visreplay.tools import ImageStore


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (50, 40), (shade, shade, shade))


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_was_put_is_got(on_disk: bool, tmp_path: Path) -> None:
    store = ImageStore(tmp_path if on_disk else None)
    reference = store.put(picture(3))
    assert reference == store.put(picture(3))
    assert reference != store.put(picture(4))
    assert store.get(reference).tobytes() == picture(3).tobytes()
    assert reference in store


def test_another_process_finds_it_by_its_reference(tmp_path: Path) -> None:
    reference = ImageStore(tmp_path / "images").put(picture(3))
    assert ImageStore(tmp_path / "images").get(reference).tobytes() == picture(3).tobytes()


def test_memory_is_bounded_by_bytes(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, memory_bytes=3 * 50 * 40 * 3)
    references = [store.put(picture(shade)) for shade in range(9)]
    assert len(store._images) == 3
    assert all(reference in store for reference in references)
    assert store.get(references[0]).tobytes() == picture(0).tobytes()


def test_without_a_folder_nothing_is_dropped() -> None:
    store = ImageStore(memory_bytes=1)
    references = [store.put(picture(shade)) for shade in range(9)]
    assert store.get(references[0]).tobytes() == picture(0).tobytes()


def test_a_forgetful_one_keeps_what_was_used_last() -> None:
    store = ImageStore(memory_bytes=2 * 50 * 40 * 3, forgetful=True)
    first, second = store.put(picture(1)), store.put(picture(2))
    store.get(first)
    third = store.put(picture(3))
    assert first in store and third in store and second not in store
    large = store.put(Image.new("RGB", (500, 400)))
    assert store.get(large).size == (500, 400)


def test_images_that_are_held_stay_until_they_are_let_go() -> None:
    store = ImageStore(memory_bytes=2 * 50 * 40 * 3, forgetful=True)
    with store.holding() as first, store.holding() as second:
        held = [store.put(picture(shade)) for shade in range(5)]
        first(held[:4])  # too late for what was dropped, and no harm
        kept = [reference for reference in held if reference in store]
        second(kept[-1:])
        first(kept)
        others = [store.put(picture(shade)) for shade in range(100, 120)]
        assert all(reference in store for reference in kept)
        assert [reference for reference in others if reference in store] == others[-2:]
    assert all(reference in store for reference in kept)
    last = store.put(picture(200))
    assert len(store._images) == 2 and last in store


def test_holding_twice_needs_letting_go_twice() -> None:
    store = ImageStore(memory_bytes=1, forgetful=True)
    reference = store.put(picture(1))
    with store.holding() as hold:
        hold([reference])
        with store.holding() as again:
            again([reference])
        store.put(picture(2))
        assert reference in store
    store.put(picture(3))
    assert reference not in store


def test_what_is_on_the_disk_is_not_held_in_memory(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, memory_bytes=50 * 40 * 3)
    with store.holding() as hold:
        references = [store.put(picture(shade)) for shade in range(9)]
        hold(references)
        store.put(picture(100))
        assert len(store._images) == 1
        assert all(reference in store for reference in references)


def test_unknown_images_are_explained(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="put it there first"):
        ImageStore(tmp_path).get("0" * 64)


@pytest.mark.parametrize("reference", ["", "../../etc/passwd", "x" * 64, "A" * 64])
def test_a_reference_is_no_path(reference: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a reference"):
        ImageStore(tmp_path).get(reference)


def test_threads_may_put_the_same_image_at_once(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    threads = [threading.Thread(target=store.put, args=(picture(7),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.iterdir())) == 1


def test_pixels_that_mean_nothing_by_themselves_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode P cannot be stored: convert it to one of RGB"):
        ImageStore(tmp_path).put(picture(1).convert("P"))
    assert "no reference" not in ImageStore(tmp_path)


def png_of(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


WHOLE = png_of(picture(3))
DAMAGED = {
    "empty": b"",
    "cut": WHOLE[:30],
    "without its end": WHOLE[:-12],
    "NULs": bytes(len(WHOLE)),
    "changed": WHOLE[:60] + bytes([WHOLE[60] ^ 255]) + WHOLE[61:],
    "another size": png_of(Image.new("RGB", (50, 41), (3, 3, 3))),
    "other pixels": png_of(picture(4)),
    "another format": b"GIF89a",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_told_and_replaced(damage: str, tmp_path: Path) -> None:
    reference = ImageStore(tmp_path).put(picture(3))
    path = tmp_path / f"{reference}.png"
    assert ImageStore(tmp_path).is_whole(reference)
    path.write_bytes(DAMAGED[damage])
    store = ImageStore(tmp_path)
    assert not store.is_whole(reference)
    if damage in ("empty", "cut", "without its end", "NULs"):
        assert not store.is_whole(reference, decode=False)
    if damage != "without its end":  # whose pixels are all there
        with pytest.raises(KeyError, match="is damaged, or another image"):
            store.get(reference)
    assert store.put(picture(3)) == reference
    assert ImageStore(tmp_path).get(reference).tobytes() == picture(3).tobytes()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_what_is_no_file_is_not_read(kind: str, tmp_path: Path) -> None:
    reference = ImageStore(tmp_path / "first").put(picture(3))
    path = tmp_path / f"{reference}.png"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(kind)
    store = ImageStore(tmp_path)
    assert reference not in store and not store.is_whole(reference)
    with pytest.raises(KeyError, match="not in the store"):
        store.get(reference)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1"])
def test_images_of_every_mode_are_found_whole(mode: str, tmp_path: Path) -> None:
    image = Image.linear_gradient("L").convert(mode)
    reference = ImageStore(tmp_path).put(image)
    store = ImageStore(tmp_path)
    assert store.is_whole(reference) and store.is_whole(reference, decode=False)
    assert store.get(reference).tobytes() == image.tobytes()


def test_a_picture_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        reference = ImageStore(tmp_path).put(picture(3))
    finally:
        os.umask(before)
    assert (tmp_path / f"{reference}.png").stat().st_mode & 0o777 == 0o644


def test_pictures_beyond_pillows_own_limit(tmp_path: Path) -> None:
    large = Image.new("1", (20_000, 10_000))
    store = ImageStore(tmp_path, memory_bytes=1)
    reference = store.put(large)
    store.put(Image.new("RGB", (4, 4)))  # which pushes the first out of memory
    assert store.get(reference).size == (20_000, 10_000)


def test_an_image_goes_to_another_store_as_it_is(tmp_path: Path) -> None:
    there, here, put = ImageStore(), ImageStore(tmp_path / "here"), ImageStore(tmp_path / "put")
    reference = there.put(picture(3))
    png = there.png(reference)
    assert here.put_png(png) == reference == put.put(picture(3))
    for path in (tmp_path / "here").iterdir():
        assert path.read_bytes() == png == (tmp_path / "put" / path.name).read_bytes()
    (tmp_path / "here" / f"{reference}.png").write_bytes(png[:50])
    ImageStore(tmp_path / "here").put_png(png)
    assert ImageStore(tmp_path / "here").is_whole(reference)
    with pytest.raises(ValueError, match="60 bytes are no whole PNG file"):
        here.put_png(png[:60])
