"""The tools of the embedded pair's protocol as LangChain tools, and its questions as messages."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.tools import BaseTool, tool

from visreplay.agent import ReplayChatModel
from visreplay.agent.chat.chat_policy import ChatPolicy
from visreplay.agent.langchain.messages import image_block
from visreplay.agent.protocols import EmbeddedProtocol
from visreplay.tasks.types import Sample
from visreplay.tools import Frame, load_image, parse_box
from visreplay.tools import sample_frames as frames_of
from visreplay.tools import zoom as enlarged


def tools_for(model: ReplayChatModel | ChatPolicy, sample: Sample) -> list[BaseTool]:
    """`zoom` and `sample_frames` on a sample's image or video; images go out by reference."""
    grid = model.renderer.protocol.frame_grid

    @tool
    def zoom(label: str, bbox_2d: list[float]) -> list[dict[str, str]]:
        """Look at a region of the picture, in cells of an 8 x 8 grid."""
        picture = load_image(sample.images[0])
        box = parse_box(bbox_2d, (EmbeddedProtocol.CELLS, EmbeddedProtocol.CELLS), picture.size)
        return [image_block(model.store.put(enlarged(picture, box, grid=grid)))]

    @tool
    def sample_frames(around: float) -> list[dict[str, str]]:
        """Look at two frames around a moment of the clip, in seconds."""
        assert sample.video is not None
        frames = frames_of(
            sample.video,
            count=EmbeddedProtocol.FRAMES,
            around=around,
            window=EmbeddedProtocol.WINDOW_SECONDS,
        )
        return [image_block(reference) for reference in put(model, frames)]

    return [zoom, sample_frames]


def put(model: ReplayChatModel | ChatPolicy, frames: Sequence[Frame]) -> list[str]:
    """Put frames into the model's store, in the size that the embedded pair was trained on."""
    grid = model.renderer.protocol.frame_grid
    return [model.store.put(enlarged(frame.image, grid=grid)) for frame in frames]


def question(model: ReplayChatModel, sample: Sample) -> HumanMessage:
    """A sample as a user's message."""
    blocks: list[str | dict[str, Any]] = [dict(model.image(image)) for image in sample.images]
    if sample.video is not None:
        overview = frames_of(sample.video, count=model.renderer.protocol.recipe.frames.count)
        blocks.append(
            {
                "type": "video",
                "frames": [image_block(reference)["url"] for reference in put(model, overview)],
                "times": [frame.time for frame in overview],
            }
        )
    return HumanMessage([*blocks, {"type": "text", "text": sample.question}])


def answer_of(message: BaseMessage) -> str:
    """The answer between the tags of a turn."""
    return message.text.partition("<answer>")[2].partition("</answer>")[0]
