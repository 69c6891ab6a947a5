from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import ToolCall
from langchain_core.tools import BaseTool
from PIL import Image

from visreplay.agent.langchain.tools import visual_tools
from visreplay.tools import ImageStore

PICTURE = Image.linear_gradient("L").convert("RGB")


@pytest.fixture
def store() -> ImageStore:
    return ImageStore()


def by_name(store: ImageStore, media_root: Path | None = None) -> dict[str, BaseTool]:
    return {tool.name: tool for tool in visual_tools(store, media_root=media_root)}


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall(name=name, args=arguments, id="1", type="tool_call")


def test_the_tools_describe_themselves_to_the_model(store: ImageStore) -> None:
    schema = by_name(store)["zoom"].tool_call_schema.model_json_schema()
    assert schema["required"] == ["image"]
    assert schema["properties"]["bbox"]["description"].startswith("The region")


def test_a_crop_comes_back_as_text_image_and_reference(store: ImageStore) -> None:
    reference = store.put(PICTURE)
    message = by_name(store)["crop"].invoke(call("crop", image=reference, bbox=[10, 20, 50, 60]))
    text, image = message.content
    assert text["text"].startswith("box [10, 20, 50, 60] px of the 256 x 256 px image")
    assert image["type"] == "image"
    assert image["mime_type"] == "image/png"
    assert store.get(message.artifact[0]).size == (40, 40)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"image": "nothing"}, "no image 'nothing'"),
        ({"image": "{ref}", "bbox": [9, 9, 1, 1]}, "no area"),
        ({"image": "../../etc/passwd"}, "no image"),
    ],
)
def test_the_model_reads_what_was_wrong(
    store: ImageStore, arguments: dict[str, object], error: str
) -> None:
    reference = store.put(PICTURE)
    filled = {k: reference if v == "{ref}" else v for k, v in arguments.items()}
    message = by_name(store)["zoom"].invoke(call("zoom", **filled))
    assert message.status == "error"
    assert error in str(message.content)


def test_files_are_read_below_the_media_root_only(store: ImageStore, tmp_path: Path) -> None:
    root = tmp_path / "media"
    root.mkdir()
    PICTURE.save(root / "in.png")
    PICTURE.save(tmp_path / "out.png")
    (root / "link.png").symlink_to(tmp_path / "out.png")
    tools = by_name(store, root)
    assert tools["zoom"].invoke(call("zoom", image="in.png")).status == "success"
    for name in ("../out.png", "link.png", str(tmp_path / "out.png")):
        message = tools["zoom"].invoke(call("zoom", image=name))
        assert "outside the folder" in str(message.content)


def test_a_model_may_zoom_into_a_crop(store: ImageStore) -> None:
    tools = by_name(store)
    first = tools["crop"].invoke(call("crop", image=store.put(PICTURE), bbox=[0, 0, 99, 99]))
    assert first.artifact[0] in first.content[0]["text"]
    second = tools["zoom"].invoke(call("zoom", image=first.artifact[0], bbox=[9, 9, 50, 50]))
    assert second.status == "success"


@pytest.mark.parametrize("bbox", [None, "all", ["0", "0", "9", "9"], [False, False, True, True]])
def test_arguments_of_wrong_types_are_errors(store: ImageStore, bbox: object) -> None:
    message = by_name(store)["crop"].invoke(call("crop", image=store.put(PICTURE), bbox=bbox))
    assert message.status == "error"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
BOXES = st.lists(st.integers(-300, 600) | st.floats(-300, 600), min_size=4, max_size=4)


@settings(deadline=None)
@given(
    name=st.sampled_from(["crop", "zoom", "sample_frames"]),
    known=st.booleans(),
    bbox=BOXES | ANYTHING,
    more=st.dictionaries(
        st.sampled_from(["count", "times", "around", "window", "scenes", "video", "label"]),
        ANYTHING,
        max_size=3,
    ),
)
def test_any_arguments_give_an_image_or_an_error_for_the_model(
    name: str, known: bool, bbox: object, more: dict[str, object]
) -> None:
    store = ImageStore()
    image = store.put(PICTURE) if known else "elsewhere.png"
    message = by_name(store)[name].invoke(call(name, image=image, bbox=bbox, **more))
    if message.status == "success":
        assert store.get(message.artifact[0]).size[0] > 0
    else:
        assert str(message.content)
