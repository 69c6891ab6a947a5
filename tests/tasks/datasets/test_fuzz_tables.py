"""Whatever lies in a data file, it is read, or file and row are named; `make fuzz` tries more."""

import base64
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fuzzing import fuzzing
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from visreplay.tasks.datasets.tsv_file import TsvFile
from visreplay.tasks.registry import get_task

FUZZING = fuzzing(60, 5000)


def picture() -> str:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PICTURE = picture()
COLUMNS = ["index", "question", "image", "A", "B", "answer", "choices", "question_type", "category"]
CELLS = st.sampled_from(
    [
        *("", "0", "1", "A", "B", "red", "blue", "nan", "open", "[]", "['red', 'blue']", "[1"),
        *(
            '"',
            '""',
            '"red" or',
            '"a\tb"',
            '"a\nb"',
            '"a""b"',
            'x"y',
            "\r",
            "\0",
            "\ufeff",
            "[" * 50,
        ),
        *(PICTURE, PICTURE.rstrip("="), f"['{PICTURE}']", f"data:image/png;base64,{PICTURE}"),
    ]
) | st.text(max_size=8)
GOOD = {"question": "Which?", "image": PICTURE, "A": "red", "B": "blue", "answer": "A"}
TABLES = st.builds(
    lambda rows, gap, end: end.join(gap.join(row) for row in [COLUMNS, *rows]),
    st.lists(
        st.lists(CELLS, min_size=8, max_size=10)
        | st.builds(
            lambda index, at, cell: [
                cell if name == at else str(index) if name == "index" else GOOD.get(name, "")
                for name in COLUMNS
            ],
            st.integers(0, 5),
            st.sampled_from([*COLUMNS, ""]),
            CELLS,
        ),
        max_size=5,
    ),
    st.sampled_from(["\t", "\t", "\t", ","]),
    st.sampled_from(["\n", "\r\n", "\n\n", "\r"]),
)
ENCODINGS = st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
BYTES = st.builds(lambda text, code: text.encode(code, "replace"), TABLES, ENCODINGS)
SPOILT = st.builds(
    lambda content, at, piece: (
        content[: int(at * len(content))] + piece + content[int(at * len(content)) :]
    ),
    BYTES,
    st.floats(0, 1),
    st.binary(max_size=4) | st.sampled_from([b'"', b"\t", b"\n", b"\x00"]),
)


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=6) | st.sampled_from(["A", "x.mp4"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["video", "question", "candidates", "answer", "id", "options", "text"]),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@FUZZING
@given(
    BYTES | SPOILT | st.binary(max_size=80), st.sampled_from(["mmmu", "mathvista", "logicvista"])
)
def test_a_table_is_read_or_refused_with_its_name(content: bytes, name: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.tsv"
        path.write_bytes(content)
        try:
            task = get_task(name, path)
        except ValueError as error:
            assert "a.tsv" in str(error)
            return
        assert task.sample_ids()
        for sample_id in task.sample_ids():
            try:
                sample = task.load(sample_id)
            except ValueError as error:
                assert "a.tsv, row" in str(error)
                continue
            assert sample.sample_id == sample_id
            assert not task.is_right(sample, None)


@FUZZING
@given(BYTES | SPOILT)
def test_a_row_is_the_same_alone_and_in_the_scan(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.tsv"
        path.write_bytes(content)
        try:
            file = TsvFile(path, [])
        except ValueError:
            return
        rows = list(file.scan())
        assert [file.row(number) for number in range(len(rows))] == rows
        assert all(row.fault is None or not row.fields for row in rows)


@FUZZING
@given(st.lists(st.lists(st.text(max_size=12), min_size=2, max_size=2), max_size=6))
def test_cells_that_are_quoted_as_a_whole_come_back(rows: list[list[str]]) -> None:
    written = ["a\tb", *("\t".join('"' + c.replace('"', '""') + '"' for c in row) for row in rows)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.tsv"
        path.write_text("\n".join(written), "utf-8", errors="surrogatepass", newline="")
        read = [row.fields for row in TsvFile(path, ["a", "b"]).scan()]
    assert [[row.get("a"), row.get("b")] for row in read] == rows


@FUZZING
@given(VALUES, st.sampled_from(["mlvu", "video-mmmu", "vstar", "mmvu", "video-holmes", "video-r1"]))
def test_json_is_read_or_refused_with_its_name(value: object, name: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_text(json.dumps(value), "utf-8")
        (Path(folder) / "x.mp4").write_bytes(b"no video")
        try:
            task = get_task(name, path)
        except ValueError as error:
            assert "a.json" in str(error)
            return
        for sample_id in task.sample_ids():
            with pytest.raises(ValueError, match=r"a\.json, "):
                task.load(sample_id)
