from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shared import png, write_picture

from visreplay.tools import ImageStore, Media, ToolError

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
    names = (reference, RED, "first.png", "second.png", str(tmp_path / "second" / "second.png"))
    assert [media.image(name).size for name in names] == [(40, 30)] * 5


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("../private/private.png", "outside the folders"),
        ("{tmp}/private/private.png", "outside the folders"),
        ("link.png", "no image 'link.png'"),  # outside of the first, and not there in the second
        ("folder/private.png", "no image"),
        ("third.png", "no image 'third.png'"),
        ("", "no image"),
        (".", "no image"),
        ("a" * 10_000, "no image"),
        ("nul\0", "outside the folders"),
        ("\ud800", "outside the folders"),
        ("http://127.0.0.1/a.png", "is a URL"),
        ("file:///etc/passwd", "is a URL"),
        ("data:image/png;base64,AAAA", "not an image"),
        ("data:image/png;base64,-", "cannot be decoded"),
        ("data:image/png,red", "no base64 data URI"),
        (RED + "A", f"at most {len(RED)} are read"),
    ],
)
def test_nothing_else_is_read(media: Media, tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(ToolError, match=told):
        media.image(name.replace("{tmp}", str(tmp_path)))


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
