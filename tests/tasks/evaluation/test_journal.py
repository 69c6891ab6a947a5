from pathlib import Path

import pytest

from visreplay.tasks.evaluation.journal import Journal, differences


def test_a_later_line_of_a_sample_replaces_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.jsonl"
    with Journal(path, {"tau": 0.4}) as journal:
        journal.add("1", {"error": "RuntimeError: away"})
        journal.add("2", {"error": None})
        journal.add("1", {"error": None})
    assert len(path.read_text().splitlines()) == 4
    with Journal(path, {"tau": 0.4}) as journal:
        assert journal.results == {n: {"sample_id": n, "error": None} for n in ("1", "2")}


def test_a_file_that_is_not_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with Journal(path, {"tau": 0.4}) as journal:
        journal.add("1", {"kl": 1.0})
    good = path.read_text()
    for content, line in (
        ("no JSON\n", 1),
        ("[]\n", 1),
        ('{"other": 1}\n', 1),
        ("[" * 100_000 + "\n", 1),
        (good + "{}\n", 3),
        (good + "{\n" + good, 3),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=f"line {line} of .*records.jsonl is not one that"):
            Journal(path, {"tau": 0.4})
        assert path.read_text() == content


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
        assert journal.results["2"]["text"] == "?"


def test_differences_have_dotted_names() -> None:
    before = {"replay": {"tau": 0.4, "steps": 10}, "seed": 0}
    now = {"replay": {"tau": 0.3, "steps": 10}, "shuffle": 1, "seed": 0}
    assert differences(before, now) == [("replay.tau", 0.4, 0.3), ("shuffle", None, 1)]
