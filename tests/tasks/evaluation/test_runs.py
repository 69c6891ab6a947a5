from pathlib import Path

import pytest
from PIL import Image
from records import record, run_of, store_of

from visreplay.tasks.evaluation.runs import Run, open_runs


def test_a_run_on_the_disk(tmp_path: Path) -> None:
    reference = store_of(tmp_path / "hr4k").put(Image.new("RGB", (3, 2), "red"))
    run = run_of(
        tmp_path / "hr4k", record("1", True), record("2", error="RuntimeError: away"),
        replay={"method": "token"},
    )  # fmt: skip
    assert run.name == "hr4k"
    assert run.system == "DeepEyes-7B + token replay"
    assert list(run.records) == ["1", "2"]
    assert list(run.scored) == ["1"]
    assert list(run.errors) == ["2"]
    assert run.store.get(reference).size == (3, 2)


def test_an_unfinished_run(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    run_of(tmp_path, record("1", True), record("2", False))
    path.write_bytes(path.read_bytes()[:-20])
    assert list(Run.open(tmp_path).records) == ["1"]
    path.write_text("")
    with pytest.raises(ValueError, match="first sample has not ended"):
        Run.open(tmp_path)


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere is not the folder of a run"):
        Run.open(tmp_path / "nowhere")
    (tmp_path / "run.jsonl").write_text('{"settings": {}}\n{"sample_id": "1", "kl": 0}\n')
    with pytest.raises(ValueError, match=r"sample '1' of .* has no field 'category'"):
        Run.open(tmp_path)


def test_runs_of_one_name_are_labelled_by_their_paths(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("s0/hr4k", "s1/hr4k", "mlvu")]
    for folder in folders:
        run_of(folder, record("1", True))
    assert [run.name for run in open_runs(folders)] == ["s0/hr4k", "s1/hr4k", "mlvu"]
    with pytest.raises(ValueError, match="mlvu is named twice"):
        open_runs([folders[2], tmp_path / "s0" / ".." / "mlvu"])
