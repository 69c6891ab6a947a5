import errno
import fcntl
import os
import resource
from pathlib import Path

import pytest

from visreplay.tasks.evaluation.journal import Journal, Line, differences, read_journal
from visreplay.tools.disk import DiskError


def test_a_later_line_of_a_sample_replaces_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.jsonl"
    with Journal(path, {"tau": 0.4}) as journal:
        journal.add("1", {"error": "RuntimeError: away"})
        journal.add("2", {"error": None})
        journal.add("1", {"error": None})
    assert len(path.read_text().splitlines()) == 4
    with Journal(path, {"tau": 0.4}) as journal:
        assert journal.results == {n: {"sample_id": n, "error": None} for n in ("1", "2")}


def journal_of(path: Path, *ids: str) -> bytes:
    """Write a journal with some results; its bytes."""
    with Journal(path, {"tau": 0.4}) as journal:
        for sample_id in ids:
            journal.add(sample_id, {"kl": 1.0})
    return path.read_bytes()


SOMEBODY_S = [
    "no JSON\n",
    "[]\n",
    '{"other": 1}\n',
    '{"settings": []}\n',
    '{"settings": {}, "name": "an editor"}\n',
    '{"settings": {}, "name": "an editor"}',
    "[" * 100_000 + "\n",
    "notes without an end of line",
    '{"settings": ["a", "b"',
    "{\n",
    "\n",
]


@pytest.mark.parametrize("content", SOMEBODY_S)
def test_a_file_of_somebody_else_is_never_written(tmp_path: Path, content: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"line 1 of .*records.jsonl is not one that"):
        Journal(path, {"tau": 0.4})
    assert path.read_text() == content


@pytest.mark.parametrize("end", ["", "\n", "\n{", "\0\0"])
def test_settings_of_another_program_are_never_written(tmp_path: Path, end: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text('{"settings": {"theme": "dark"}}' + end)
    with pytest.raises(ValueError, match="of another version or program, and no result"):
        Journal(path, {"tau": 0.4})
    assert path.read_text() == '{"settings": {"theme": "dark"}}' + end


@pytest.mark.parametrize("target", ["a pipe", "/dev/zero", "/dev/full", "a folder"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, target: str) -> None:
    path = tmp_path / "run.jsonl"
    if target == "a pipe":
        os.mkfifo(path)
    elif target == "a folder":
        path.mkdir()
    else:
        path.symlink_to(target)
    with pytest.raises(ValueError, match=r"run\.jsonl is not a regular file"):
        Journal(path, {})


DAMAGE = [b"garbage", b"", b"\0\0\0", b"[1]", b"{}", b'{"sample_id": 7}', b'{"sample_id": "2", "kl']


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_costs_its_sample_alone(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "run.jsonl"
    whole = journal_of(path, "1", "2", "3")
    lines = whole.splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1] + damage + b"\n" + lines[3])
    content = read_journal(path)
    assert list(content.results) == ["1", "3"]
    assert [line.number for line in content.damaged] == [3]
    with Journal(path, {"tau": 0.4}) as journal:
        assert [line.number for line in journal.damaged] == [3]
        assert path.read_bytes() == lines[0] + lines[1] + lines[3]
        journal.add("2", {"kl": 1.0})
    assert (tmp_path / "run.jsonl.damaged").read_bytes() == damage + b"\n"
    assert read_journal(path).damaged == []
    assert list(read_journal(path).results) == ["1", "3", "2"]


def test_damaged_lines_alone_keep_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    settings, _ = journal_of(path, "1").splitlines(keepends=True)
    path.write_bytes(settings + b"garbage\n")
    with pytest.raises(ValueError, match=r"tau was 0.4 and is 0.3"):
        Journal(path, {"tau": 0.3})
    assert path.read_bytes() == settings + b"garbage\n"


def test_a_check_decides_what_a_result_is(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    journal_of(path, "1", "2")

    def check(settings: Line, line: Line) -> str | None:
        return f"tau is {settings['tau']}" if line["sample_id"] == "1" else None

    content = read_journal(path, check)
    assert list(content.results) == ["2"]
    assert [(line.number, line.reason) for line in content.damaged] == [(2, "tau is 0.4")]


def test_a_failed_write_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.jsonl"
    whole = journal_of(tmp_path / "whole.jsonl", "1", "2")
    with Journal(path, {"tau": 0.4}) as journal:
        journal.add("1", {"kl": 1.0})
        for name, number in (("write", errno.ENOSPC), ("fsync", errno.EIO)):
            with monkeypatch.context() as patch, pytest.raises(DiskError) as raised:
                fault = OSError(number, os.strerror(number))
                patch.setattr(os, name, lambda *_, fault=fault: (_ for _ in ()).throw(fault))
                journal.add("2", {"kl": 1.0})
            assert raised.value.errno == number
            assert str(path) in str(raised.value) and os.strerror(number) in str(raised.value)
            assert list(journal.results) == ["1"]
        journal.add("2", {"kl": 1.0})
    assert path.read_bytes() == whole


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(path, {"tau": 0.4}) as journal:
        journal.add("1", {"kl": 1.0})
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))
        try:
            with pytest.raises(DiskError, match=r"run.jsonl cannot be written: .*ulimit -f"):
                journal.add("2", {"kl": 1.0})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with Journal(path, {"tau": 0.4}) as journal:
        assert list(journal.results) == ["1"]


LOCKLESS = [
    *((each, "another --out") for each in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)),
    (errno.EIO, "check that disk"),
]


@pytest.mark.parametrize(("number", "way_out"), LOCKLESS)
def test_a_disk_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, way_out: str
) -> None:
    path = tmp_path / "run.jsonl"
    whole = journal_of(path, "1")

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        with pytest.raises(DiskError) as raised:
            Journal(path, {"tau": 0.4})
    told = str(raised.value)
    assert f"{path}.lock" in told and os.strerror(number) in told and way_out in told
    assert path.read_bytes() == whole
    Journal(path, {"tau": 0.4}).close()


def test_a_cut_line_is_dropped_wherever_the_cut_is(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with Journal(path, {"tau": 0.4}) as journal:
        journal.add("1", {"answer": "ä"})
        first = path.stat().st_size
        journal.add("2", {"answer": "ö"})
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with Journal(path, {"tau": 0.4}) as journal:
            assert list(journal.results) == (["1"] if length >= first else [])
            if "1" not in journal.results:
                journal.add("1", {"answer": "ä"})
            journal.add("2", {"answer": "ö"})
        assert path.read_bytes() == content


def test_without_a_result_the_settings_may_change(tmp_path: Path) -> None:
    Journal(tmp_path / "run.jsonl", {"tau": 0.4}).close()
    with Journal(tmp_path / "run.jsonl", {"tau": 0.3}) as journal:
        journal.add("1", {})
    with pytest.raises(ValueError, match=r"tau was 0.3 and is 0.4\): choose another --out"):
        Journal(tmp_path / "run.jsonl", {"tau": 0.4})


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with (
        Journal(path, {}),
        pytest.raises(ValueError, match=r"run\.jsonl is being written by another process"),
    ):
        Journal(path, {})
    Journal(path, {}).close()


def test_text_of_a_model_stays_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    text = "a\nb\u2028c\r\0\x85"
    with Journal(path, {}) as journal:
        journal.add("1", {"text": text})
        journal.add("2", {"text": "\ud800"})  # half a character, which no encoding has
    with Journal(path, {}) as journal:
        assert journal.results["1"]["text"] == text
        assert journal.results["2"]["text"] == "\ud800"


def test_ids_with_halves_of_characters_stay_apart(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    ids = ["x\ud800", "x\ud801", "x?", "x"]
    journal_of(path, *ids)
    with Journal(path, {"tau": 0.4}) as journal:
        assert list(journal.results) == ids


def test_other_paths_of_the_same_data_are_the_same_data(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    data = {"data": "a.tsv", "data_digest": "12"}
    with Journal(path, data) as journal:
        journal.add("1", {})
    Journal(path, {**data, "data": "/home/me/b.tsv"}).close()
    with pytest.raises(ValueError, match=r"data_digest was '12' and is '34'"):
        Journal(path, {**data, "data_digest": "34"})
    assert differences({"data": "a"}, {"data": "b"}) == [("data", "a", "b")]
    assert differences({**data, "data_digest": None}, {"data": "b", "data_digest": None})


def test_differences_have_dotted_names() -> None:
    before = {"replay": {"tau": 0.4, "steps": 10}, "seed": 0}
    now = {"replay": {"tau": 0.3, "steps": 10}, "shuffle": 1, "seed": 0}
    assert differences(before, now) == [("replay.tau", 0.4, 0.3), ("shuffle", None, 1)]
