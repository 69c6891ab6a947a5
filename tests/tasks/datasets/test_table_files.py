"""The two readers, and the errors that all file tasks share, with the common table and V*."""

import tracemalloc
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from shared import png, write_json, write_picture, write_tsv

from visreplay.tasks.datasets.file_task import FileTask
from visreplay.tasks.datasets.table_files import JsonFile
from visreplay.tasks.datasets.tsv_file import TsvFile
from visreplay.tasks.registry import get_task


def test_quoted_cells_hold_tabs_newlines_and_quotes(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"index": 0, "question": 'Two\nlines\tand a "quote"', "note": ""},
        {"index": 1, "question": "ö", "note": "x"},
        {"index": 2, "question": "\r\n", "note": "\n\n"},
    ]
    file = TsvFile(write_tsv(tmp_path / "a.tsv", rows), ["index"])
    scanned = list(file.scan())
    assert [row.fields["question"] for row in scanned] == [row["question"] for row in rows]
    assert [file.row(number) for number in (2, 0, 1)] == [scanned[number] for number in (2, 0, 1)]
    assert scanned[1].label == "row 2"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_line_ends_and_empty_lines(tmp_path: Path, end: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(f"\ufeffindex\tq{end}1\tä{end}{end}2\tb".encode())
    file = TsvFile(path, ["index", "q"])
    assert [(row.number, row.fields["q"]) for row in file.scan()] == [(0, "ä"), (1, "b")]
    assert file.row(1).fields == {"index": "2", "q": "b"}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_the_digest_is_that_of_the_file(tmp_path: Path, end: str) -> None:
    path = tmp_path / "a.tsv"
    rows = f'index\tquestion\timage\tanswer{end}1\t"ä\nb"\t{png("red")}\tx{end}'
    path.write_bytes(f"\ufeff{rows}".encode())
    assert get_task("image-qa", path).digest == sha256(path.read_bytes()).hexdigest()
    file = TsvFile(path, [])
    next(scan := file.scan())
    scan.close()
    assert file.digest == ""
    assert [len(list(file.scan())) for _ in range(2)] == [1, 1]
    assert file.digest == sha256(path.read_bytes()).hexdigest()


def test_the_digest_of_a_folder_is_that_of_its_files_in_order(tmp_path: Path) -> None:
    files = [write_json(tmp_path / name, [{"q": name}]) for name in ("b.json", "a.json")]
    assert JsonFile(files[0]).digest == sha256(files[0].read_bytes()).hexdigest()
    contents = files[1].read_bytes() + files[0].read_bytes()
    assert JsonFile(tmp_path).digest == sha256(contents).hexdigest()


def test_a_large_table_is_not_held_in_memory(tmp_path: Path) -> None:
    image = "A" * 1_000_000
    rows: list[dict[str, object]] = [{"index": n, "q": f"{n}?", "image": image} for n in range(20)]
    path = write_tsv(tmp_path / "large.tsv", rows)
    assert path.stat().st_size > 20_000_000
    tracemalloc.start()
    try:
        file = TsvFile(path, ["index"])
        assert sum(len(row.fields["image"]) for row in file.scan()) == 20_000_000
        assert file.row(19).fields["q"] == "19?"
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000
    # A row as bytes, as text, and as the csv module's buffer of 4 bytes a character.
    assert peak < 14_000_000


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("index\tquestion\n1\tb\n", "has no column 'q'; it has index, question"),
        ("", "has no column 'index'"),
        ("index\tq\tq\n1\tb\tc\n", "has the column 'q' twice"),
    ],
)
def test_a_table_without_a_column_is_refused(tmp_path: Path, content: str, error: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(content, "utf-8")
    with pytest.raises(ValueError, match=rf"a\.tsv.*{error}"):
        list(TsvFile(path, ["index", "q"]).scan())


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (b"2", "it has 1 cells, but the heading has 2"),
        (b"2\tb\tc", "it has 3 cells, but the heading has 2"),
        (b'2\t"open', "a cell begins with a quote that is not closed"),
        (b"2\t\xff\xfe", "utf-8.*: save the file as UTF-8"),
        (b"2\t" + b"x" * 5000, "it is longer than 1000 bytes"),
    ],
)
def test_a_malformed_row_has_a_fault_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: bytes, fault: str
) -> None:
    monkeypatch.setattr("visreplay.tasks.datasets.tsv_file.MAX_ROW", 1000)
    path = tmp_path / "a.tsv"
    path.write_bytes(b"index\tq\n1\ta\n" + row + b'\n3\t"c\n\td"\n4\te\n')
    file = TsvFile(path, ["index"])
    first, second, third, fourth = file.scan()
    assert file.digest == sha256(path.read_bytes()).hexdigest()
    assert [each.fields["q"] for each in (first, third, fourth)] == ["a", "c\n\td", "e"]
    assert second.fields == {}
    with pytest.raises(ValueError, match=rf"a\.tsv, row 2: .*{fault}"):
        second.check()
    assert [file.row(number) for number in range(4)] == [first, second, third, fourth]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('"Stop" is written where?', '"Stop" is written where?'),
        ('"Stop" or "Go"?', '"Stop" or "Go"?'),
        ('a 5" pipe', 'a 5" pipe'),
        ('"a 5"" pipe"', 'a 5" pipe'),
        ('""', ""),
        ('"""Stop"" is written where?"', '"Stop" is written where?'),
        ('"tab\tand\nline"', "tab\tand\nline"),
        ('""Stop""', '""Stop""'),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_only_a_cell_that_is_quoted_as_a_whole_loses_its_quotes(
    tmp_path: Path, written: str, read: str, end: str
) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(f"index\tq\tnote\n1\t{written}\tx\n2\ty\t{written}{end}".encode())
    assert [row.fields["q"] for row in TsvFile(path, []).scan()] == [read, "y"]
    assert [row.fields["note"] for row in TsvFile(path, []).scan()] == ["x", read]


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        *(("utf-16", ""), ("utf-16-le", ""), ("utf-16-be", ""), ("utf-8", "")),
        *(("utf-16-le", "\ufeff"), ("utf-16-be", "\ufeff"), ("utf-8", "\ufeff")),
    ],
)
def test_files_as_spreadsheets_save_them(tmp_path: Path, encoding: str, mark: str) -> None:
    path = tmp_path / "a.tsv"
    text = 'index\tquestion\tanswer\t\r\n1\t"Wo ist ""Süd""?"\t红\t\r\n2\tb\tc\t\t\r\n'
    path.write_bytes((mark + text).encode(encoding))
    file = TsvFile(path, ["index", "question"])
    rows = list(file.scan())
    assert rows[0].fields == {"index": "1", "question": 'Wo ist "Süd"?', "answer": "红"}
    assert file.row(1).fields == {"index": "2", "question": "b", "answer": "c"}
    assert file.digest == sha256(path.read_bytes()).hexdigest()
    items = tmp_path / "a.jsonl"
    items.write_bytes((mark + '{"q": "红"}\n{"q": "ü"}\n').encode(encoding))
    assert [row.fields["q"] for row in JsonFile(items).scan()] == ["红", "ü"]


def test_json_holds_rows_in_lists_by_name_or_alone(tmp_path: Path) -> None:
    def wheres(value: object, name: str = "a.json") -> list[str]:
        return [row.label for row in JsonFile(write_json(tmp_path / name, value)).scan()]

    assert wheres([{"q": 1}, {"q": 2}]) == ["item 1", "item 2"]
    assert wheres({"7": {"q": 1}, "9": {"q": 2}}) == ["7", "9"]
    assert wheres({"Split": {"0": {"q": 1}}}) == ["Split/0"]
    assert wheres({"data": [{"q": 1}]}) == ["data/item 1"]
    assert wheres({"q": 1, "options": ["a"]}) == ["the object"]
    assert wheres([{"q": 1}, {"q": 2}], "a.jsonl") == ["line 1", "line 2"]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.json", "[{]", "a.json is not JSON"),
        ("a.json", "[" * 100_000, "a.json is not JSON"),
    ],
)
def test_malformed_json_is_refused(tmp_path: Path, name: str, content: str, error: str) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(ValueError, match=error):
        JsonFile(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.json", '[{"q": 1}, 1]', "a.json, item 2: an object is needed, not 1"),
        ("a.jsonl", '{"q": 1}\n{"q"\n', "a.jsonl, line 2: it is not JSON"),
        ("a.jsonl", '{"q": 1}\n\n[]\n', "a.jsonl, line 3: an object is needed"),
    ],
)
def test_a_malformed_item_has_a_fault(tmp_path: Path, name: str, content: str, error: str) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    good, bad = JsonFile(tmp_path / name).scan()
    good.check()
    with pytest.raises(ValueError, match=error):
        bad.check()


def test_too_much_json_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visreplay.tasks.datasets.table_files.MAX_JSON", 10)
    with pytest.raises(ValueError, match="at most 10 are read"):
        JsonFile(write_json(tmp_path / "a.json", [{"question": 1}]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"there is no \*\.json\* in the folder"):
        JsonFile(tmp_path / "empty")


def table(tmp_path: Path, **changes: object) -> Path:
    row = {"index": 0, "question": "What?", "image": png("red"), "A": "x", "B": "y", "answer": "A"}
    return write_tsv(tmp_path / "a.tsv", [row | changes])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"question": ""}, "row 1, field 'question': a text is needed; it is empty"),
        ({"answer": "C"}, "row 1, field 'answer': 'C' is none of the options 'x', 'y'"),
        ({"image": ""}, "row 1, field 'image'"),
        ({"image": "7"}, "row 1, field 'image': '7' is neither an image nor the index of a row"),
        ({"image": "0"}, "row 1, field 'image': row '0', to which it refers, has no image"),
    ],
)
def test_the_fields_of_a_table_are_checked_when_it_is_opened(
    tmp_path: Path, changes: dict[str, object], error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        get_task("image-qa", table(tmp_path, **changes))


@pytest.mark.parametrize(
    ("image", "error"),
    [
        ("!" * 100, "field 'image': the base64 cannot be decoded"),
        ("A" * 101, "field 'image': the base64 cannot be decoded"),
        ("QUJD" * 30, "not an image that can be read"),
        (png("red")[:80], "field 'image'"),
        ("[" + "1," * 50 + "]", "field 'image'"),
        ("[broken" * 20, "field 'image': a list of texts is needed"),
    ],
)
def test_an_invalid_image_is_refused_when_it_is_loaded(
    tmp_path: Path, image: str, error: str
) -> None:
    task = get_task("image-qa", table(tmp_path, image=image))
    with pytest.raises(ValueError, match=rf"a\.tsv, row 1, .*{error}"):
        task.load("0")


def test_a_bad_row_costs_its_sample_alone(tmp_path: Path) -> None:
    good = {"index": 0, "question": "What?", "image": png("red"), "A": "x", "B": "y", "answer": "A"}
    changes: list[dict[str, object]] = [
        *({"index": 1, "answer": "C"}, {"index": 2, "question": ""}, {"index": 3, "image": "9"}),
        *({"index": 4, "image": "0"}, {"index": 5, "image": "1"}),
    ]
    task = get_task("image-qa", write_tsv(tmp_path / "a.tsv", [good, *(good | c for c in changes)]))
    assert isinstance(task, FileTask)
    assert task.sample_ids() == ["0", "a.tsv row 2", "a.tsv row 3", "3", "4", "5"]
    assert task.load("0").images
    assert task.load("4").images
    for sample_id, error in {
        "a.tsv row 2": "row 2, field 'answer': 'C' is none of the options",
        "a.tsv row 3": "row 3, field 'question': a text is needed",
        "3": "row 4, field 'image': '9' is neither an image nor the index of a row",
        "5": "row 6, field 'image': '1' is neither an image nor the index of a row",
    }.items():
        with pytest.raises(ValueError, match=rf"a\.tsv, {error}"):
            task.load(sample_id)
    [note] = task.notes
    assert note.startswith("4 of 6 rows cannot be read, and each is an error of its sample; the ")


@pytest.mark.parametrize(
    "write",
    [
        lambda text: text.rstrip("="),
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: f"data:image/png;base64,{text}",
        lambda text: f"DATA:image/png;BASE64,{text}",
        lambda text: f"b'{text}'",
        lambda text: "\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
        lambda text: f"['{text}']",
        lambda text: f'["data:image/png;base64,{text.rstrip("=")}"]',
    ],
)
def test_base64_as_tables_have_it(tmp_path: Path, write: Callable[[str], str]) -> None:
    for colour in ("red", "#fbefff", "#3effbf"):  # with + and / among them
        task = get_task("image-qa", table(tmp_path, image=write(png(colour))))
        assert len(task.load("0").images) == 1


def test_sample_ids_are_unique(tmp_path: Path) -> None:
    row: dict[str, object] = {"index": 3, "question": "?", "image": png("red"), "answer": "x"}
    path = write_tsv(tmp_path / "a.tsv", [row, row])
    with pytest.raises(ValueError, match=r"row 2: the sample id '3' is already that of row 1"):
        get_task("image-qa", path)
    empty = tmp_path / "empty.tsv"
    empty.write_text("index\tquestion\timage\tanswer\n")
    with pytest.raises(ValueError, match="has no rows"):
        get_task("image-qa", empty)
    task = get_task("image-qa", write_tsv(tmp_path / "d.tsv", [row]))
    with pytest.raises(ValueError, match="there is no sample '4'"):
        task.load("4")


LINE = {"text": "What?\n(A) red\n(B) blue", "category": "c", "question_id": 0, "label": "B"}


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("nowhere.png", "there is no nowhere.png in"),
        ("../secret.png", "leads out of"),
        ("a/../../secret.png", "leads out of"),
        ("/etc/passwd", "leads out of"),
        ("C:\\secret.png", "is not the relative path of a file"),
        ("https://example.org/a.png", "is not the relative path of a file"),
        ("link.png", "is a link that leads out of"),
        ("folder/secret.png", "is a link that leads out of"),
        ("a\0.png", "is not the relative path of a file"),
        ("", "a text is needed"),
        (["a.png"], "a text is needed, not \\['a.png'\\]"),
    ],
)
def test_no_path_leaves_the_folder_of_the_data(tmp_path: Path, place: object, error: str) -> None:
    write_picture(tmp_path / "secret.png", "red")
    data = tmp_path / "data"
    data.mkdir()
    (data / "link.png").symlink_to(tmp_path / "secret.png")
    (data / "folder").symlink_to(tmp_path)
    path = write_json(data / "q.jsonl", [LINE | {"image": place}])
    with pytest.raises(ValueError, match=rf"q\.jsonl, line 1, field 'image': .*{error}"):
        get_task("vstar", path)


def test_links_within_the_folder_are_fine(tmp_path: Path) -> None:
    write_picture(tmp_path / "there" / "a.png", "red")
    (tmp_path / "here").symlink_to(tmp_path / "there")
    path = write_json(tmp_path / "q.jsonl", [LINE | {"image": "./here/a.png"}])
    assert get_task("vstar", path).load("0").images


def test_a_snapshot_in_the_hugging_face_cache_is_read(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "datasets--a--b"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / "0a1b"
    for folder in (blobs, snapshot / "images", repository / "refs"):
        folder.mkdir(parents=True)
    write_picture(tmp_path / "a.png", "red").rename(blobs / "c0ffee")
    (snapshot / "images" / "a.png").symlink_to("../../../blobs/c0ffee")
    line = LINE | {"image": "images/a.png"}
    write_json(tmp_path / "q.jsonl", [line]).rename(blobs / "beef")
    (snapshot / "q.jsonl").symlink_to("../../blobs/beef")
    (tmp_path / "short").symlink_to(snapshot)
    for folder in (snapshot, tmp_path / "short"):
        assert get_task("vstar", folder / "q.jsonl").load("0").images

    (snapshot / "images" / "a.png").unlink()
    write_picture(tmp_path / "hub" / "secret.png", "red")
    write_picture(repository / "refs" / "secret.png", "red")
    (blobs / "out").symlink_to(tmp_path / "hub" / "secret.png")
    for target in ("../../../../secret.png", "../../../refs/secret.png", "../../../blobs/out"):
        (snapshot / "images" / "a.png").symlink_to(target)
        assert (snapshot / "images" / "a.png").is_file()
        with pytest.raises(ValueError, match="is a link that leads out of"):
            get_task("vstar", snapshot / "q.jsonl")
        (snapshot / "images" / "a.png").unlink()


def test_a_file_that_is_not_a_picture_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    task = get_task("vstar", write_json(tmp_path / "q.jsonl", [LINE | {"image": "a.png"}]))
    with pytest.raises(ValueError, match=r"q\.jsonl, line 1, field 'image': .*not an image"):
        task.load("0")


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"hr-bench-4k reads \.tsv files, not .*q\.json"):
        get_task("hr-bench-4k", write_json(tmp_path / "q.json", []))
    with pytest.raises(OSError, match=r"nowhere\.tsv"):
        get_task("hr-bench-4k", tmp_path / "nowhere.tsv")
