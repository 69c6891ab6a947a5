import json
from pathlib import Path

import pytest
from PIL import Image
from scripted import ScriptedPolicy

from visreplay.agent import (
    Loop,
    StopReason,
    Trajectory,
    build_graph,
    get_protocol,
)
from visreplay.tools import ImageStore, TokenGrid

CALL = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 100, 100]}}
TURNS = [f"<tool_call>{json.dumps(CALL)}</tool_call>", "<answer>grey</answer>"]


@pytest.fixture
def store() -> ImageStore:
    return ImageStore()


@pytest.fixture
def trajectory(store: ImageStore) -> Trajectory:
    protocol = get_protocol("deepeyes", TokenGrid(), store)
    picture = Image.linear_gradient("L").convert("RGB")
    start = Loop(protocol).start("Which colour?", images=[store.put(picture)], seed=3)
    state = build_graph(ScriptedPolicy(TURNS), protocol).invoke(start)
    return Trajectory.of(state, policy="p", base=None, protocol="deepeyes", settings={})  # type: ignore[arg-type]


def test_a_trajectory_is_plain_json(trajectory: Trajectory) -> None:
    record = json.loads(json.dumps(trajectory.to_json()))
    assert record["answer"] == "grey"
    assert record["stop_reason"] == "answered"
    assert record["seed"] == 3
    assert [step["index"] for step in record["steps"]] == [0, 1]


def test_saving_writes_the_record_and_every_image_once(
    trajectory: Trajectory, store: ImageStore, tmp_path: Path
) -> None:
    path = trajectory.save(tmp_path / "episode", store)
    assert json.loads(path.read_text("utf-8")) == json.loads(json.dumps(trajectory.to_json()))
    files = sorted(file.stem for file in (tmp_path / "episode" / "images").iterdir())
    assert files == sorted(trajectory.references())
    assert len(files) == 2


def test_a_running_episode_has_no_trajectory(store: ImageStore) -> None:
    protocol = get_protocol("deepeyes", TokenGrid(), store)
    start = Loop(protocol).start("?", images=[store.put(Image.new("RGB", (64, 64)))])
    with pytest.raises(ValueError, match="has not ended"):
        Trajectory.of(start, policy="p", base=None, protocol="deepeyes", settings={})


def test_every_stop_reason_is_explained() -> None:
    assert [reason.value for reason in StopReason] == [
        "answered",
        "max_steps",
        "max_images",
        "repeated_call",
        "max_tokens",
        "no_answer",
    ]
