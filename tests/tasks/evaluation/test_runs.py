import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from records import record, run_of, store_of

from visreplay.tasks.evaluation.runs import Run, damage, damaged_samples, open_runs


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
    with pytest.raises(ValueError, match=r"line 1 of .* not the settings of a run: task: field"):
        Run.open(tmp_path)


def edit(folder: Path, number: int, path: tuple[str | int, ...], value: object) -> None:
    """Put a value into a line of a run's file, or take one out."""
    lines = (folder / "run.jsonl").read_text().splitlines()
    line = json.loads(lines[number - 1])
    parent = line
    for key in path[:-1]:
        parent = parent[key]
    if value is MISSING:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    lines[number - 1] = json.dumps(line)
    (folder / "run.jsonl").write_text("\n".join(lines) + "\n")


MISSING = object()
ROLLOUT = ("rollouts", 0)
EPISODE = (*ROLLOUT, "trajectory")


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("category",), MISSING, "category: field required"),
        (("question",), 7, "question: "),
        (("error",), ["away"], "error: "),
        (("seconds",), "1", "seconds: "),
        (("seconds",), 10**400, "seconds: "),
        (("rollouts",), None, "rollouts: "),
        (("rollouts",), [], "it has 0 rollouts, and the settings say 1"),
        ((*ROLLOUT, "right"), "yes", "rollouts.0.right: "),
        ((*ROLLOUT, "right"), 1, "rollouts.0.right: "),
        ((*ROLLOUT, "cot_right"), "no", "rollouts.0.cot_right: "),
        ((*ROLLOUT, "trajectory"), None, "rollouts.0.trajectory: "),
        ((*EPISODE, "answer"), 3, "rollouts.0.trajectory.answer: "),
        ((*EPISODE, "images"), [1], "rollouts.0.trajectory.images.0: "),
        ((*EPISODE, "steps"), {}, "rollouts.0.trajectory.steps: "),
        ((*EPISODE, "steps", 0, "seconds"), True, "steps.0.seconds: "),
        ((*EPISODE, "steps", 0, "replay"), {"method": "token"}, "steps.0.replay.new_visual"),
        ((*EPISODE, "messages"), [{"role": "user"}], "messages.0.content: field required"),
        (
            (*EPISODE, "messages"),
            [{"role": "user", "content": [{"type": "video", "frames": [], "times": [1.0]}]}],
            "0 frames have 1 times",
        ),
        (
            (*EPISODE, "messages"),
            [{"role": "user", "content": [{"type": "sound"}]}],
            "messages.0.content.0: ",
        ),
    ],
)
def test_a_record_of_another_shape_is_left_out_and_named(
    tmp_path: Path, path: tuple[str | int, ...], value: object, reason: str
) -> None:
    run_of(tmp_path, record("1", True), record("2", False), record("3", True))
    edit(tmp_path, 3, path, value)
    run = Run.open(tmp_path)
    assert list(run.records) == ["1", "3"]
    (line,) = run.damaged
    assert line.number == 3 and reason in line.reason
    (told,) = damage(run)
    assert "line 3 of run.jsonl is damaged and left out" in told and reason in told


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("task",), MISSING, "task: field required"),
        (("policy",), None, "policy: "),
        (("replay",), "token", "replay: "),
        (("replay", "method"), MISSING, "replay.method: "),
        (("replay", "theta"), 7, "replay.theta: "),
        (("rollouts",), 0, "rollouts: "),
        (("rollouts",), "1", "rollouts: "),
        (("sampling",), MISSING, "sampling: "),
        (("sampling", "temperature"), "hot", "sampling.temperature: "),
        (("versions",), [], "versions: "),
        (("data",), ["a"], "data: "),
        (("recipe",), {"frames": {"count": 1}}, "recipe.frames.choice: "),
        (("recipe",), {"expects": "system"}, "recipe.expects: "),
        (("limits",), [], "limits: "),
    ],
)
def test_settings_of_another_shape_are_refused(
    tmp_path: Path, path: tuple[str | int, ...], value: object, reason: str
) -> None:
    run_of(tmp_path, record("1", True))
    edit(tmp_path, 1, ("settings", *path), value)
    with pytest.raises(ValueError, match=f"line 1 of .*not the settings of a run: {reason}"):
        Run.open(tmp_path)


def test_a_run_without_a_good_record_is_refused(tmp_path: Path) -> None:
    run_of(tmp_path, record("1", True))
    edit(tmp_path, 2, ("rollouts",), 7)
    with pytest.raises(ValueError, match="holds no record of a sample: line 2 is none, rollouts: "):
        Run.open(tmp_path)


def test_texts_of_any_characters_are_records(tmp_path: Path) -> None:
    odd = "\ud800\x1b[2J\0\u202e"
    run = run_of(tmp_path, record(odd, True, question=odd, answer=odd, category=odd, group=odd))
    assert run.damaged == []
    assert run.records[odd]["rollouts"][0]["trajectory"]["answer"] == odd


def test_lost_images_are_told_with_their_samples(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    references = [store.put(Image.new("RGB", (3, 2), (n, 0, 0))) for n in range(6)]

    def message(reference: str) -> tuple[dict[str, Any], ...]:
        return ({"role": "user", "content": [{"type": "image", "image": reference}]},)

    records = [record(str(n), True, messages=message(each)) for n, each in enumerate(references)]
    run = run_of(tmp_path, *records)
    assert damage(run) == [] and damaged_samples(run, decode=True) == []
    paths = [store.path(reference) for reference in references]
    assert paths[1] and paths[2] and paths[4] and paths[5]
    paths[1].unlink()
    paths[2].write_bytes(b"")
    paths[4].write_bytes(paths[4].read_bytes()[:-3])
    paths[5].write_bytes(paths[0].read_bytes())  # type: ignore[union-attr]
    assert damaged_samples(run) == ["1", "2", "4"]
    assert damaged_samples(run, decode=True) == ["1", "2", "4", "5"]
    (told,) = damage(run)
    assert "images of 3 samples are missing or damaged (1, 2, 4)" in told
    assert "--retry-errors" in told


def test_runs_of_one_name_are_labelled_by_their_paths(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("s0/hr4k", "s1/hr4k", "mlvu")]
    for folder in folders:
        run_of(folder, record("1", True))
    assert [run.name for run in open_runs(folders)] == ["s0/hr4k", "s1/hr4k", "mlvu"]
    with pytest.raises(ValueError, match="mlvu is named twice"):
        open_runs([folders[2], tmp_path / "s0" / ".." / "mlvu"])
