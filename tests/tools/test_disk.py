import errno
import os
import stat
from pathlib import Path

import pytest

from visreplay.tools.disk import (
    DiskError,
    disk_errors,
    make_folder,
    replacing,
    write_all,
    write_file,
)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_file(path, b"old")
    with pytest.raises(KeyError), replacing(path) as descriptor:
        write_all(descriptor, b"new, but not whole")
        raise KeyError
    assert path.read_bytes() == b"old"
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_file(tmp_path / "new" / "a.png", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new" / "a.png").stat().st_mode) == 0o666 & ~umask


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "elsewhere" / "file"
    make_folder(target.parent)
    link.symlink_to(target)
    for content in (b"1", b"2"):
        write_file(link, content)
        assert link.is_symlink() and target.read_bytes() == content


def test_what_is_no_file_is_written_as_it_is() -> None:
    reader, writer = os.pipe()
    with replacing(Path(f"/dev/fd/{writer}")) as descriptor:
        write_all(descriptor, b"page")
    os.close(writer)
    with open(reader, "rb") as file:
        assert file.read() == b"page"


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.ENOSPC, "free space on that disk"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "make that disk writable"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EIO, "check that disk"),
        (errno.EACCES, "another folder"),
    ],
)
def test_errors_name_the_file_the_reason_and_a_way_out(number: int, way_out: str) -> None:
    with pytest.raises(DiskError) as raised, disk_errors("images/1.png"):
        raise OSError(number, os.strerror(number))
    message = str(raised.value)
    assert message.startswith(f"images/1.png cannot be written: {os.strerror(number)}")
    assert errno.errorcode[number] in message and way_out in message
    assert raised.value.errno == number


def test_a_file_where_a_folder_must_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "images"):
        with pytest.raises(DiskError, match="file"):
            make_folder(folder)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_file_systems_without_fsync_of_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync = os.fsync

    def fsync_of_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync_of_files)
    if number == errno.EIO:
        with pytest.raises(DiskError):
            write_file(tmp_path / "a", b"1")
    else:
        write_file(tmp_path / "a", b"1")
        assert (tmp_path / "a").read_bytes() == b"1"
