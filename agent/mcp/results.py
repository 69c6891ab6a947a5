"""Results of the MCP tools: structured content, and the same as text and images.

Many clients drop images, and many show no structured content, so the text says all that matters.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

from mcp.types import CallToolResult, ImageContent, TextContent
from pydantic import BaseModel, Field

from visreplay.agent.episode.trajectory import Trajectory
from visreplay.agent.mcp.sizes import MAX_RESULT, cut_texts, fit_pictures
from visreplay.agent.state import Step, ToolUse
from visreplay.tools import Frame, ImageStore, VideoInfo
from visreplay.tools.visual_tools import FramesView, RegionView


def result(text: str, structured: BaseModel, images: Sequence[ImageContent] = ()) -> CallToolResult:
    """Make a tool's result in all forms.

    Args:
        text: The result in words.
        structured: The result as data.
        images: The pictures that belong to it.
    """
    return CallToolResult(
        content=[TextContent(type="text", text=text), *images],
        structuredContent=structured.model_dump(mode="json"),
    )


class RegionResult(BaseModel):
    """A region of an image, as an image."""

    image: str = Field(description="Reference of the region's image: name it to look closer.")
    box: list[int] = Field(description="left, top, right, bottom in pixels of the source.")
    source_size: list[int] = Field(description="Width and height of the source in pixels.")
    size: list[int] = Field(description="Width and height of the region's image in pixels.")


def region_result(store: ImageStore, view: RegionView) -> CallToolResult:
    """Make the result of a region, whose image is put in the store at the size that is sent."""
    fitted = fit_pictures(view.images)
    view = replace(view, image=fitted.pictures[0])
    reference = store.put(view.image)
    structured = RegionResult(
        image=reference,
        box=list(view.box.as_tuple()),
        source_size=list(view.source_size),
        size=list(view.image.size),
    )
    line = ", ".join(filter(None, (view.text, fitted.note)))
    return result(f"{line} ({reference})", structured, fitted.blocks)


class FrameResult(BaseModel):
    """A frame of a video."""

    image: str = Field(description="Reference of the frame's image: name it to look closer.")
    time: float = Field(description="Time in seconds from the start.")
    index: int = Field(description="Number of the frame in the video, from 0.")
    size: list[int] = Field(description="Width and height of the frame's image in pixels.")

    @classmethod
    def of(cls, store: ImageStore, frame: Frame) -> Self:
        """Describe a frame, whose image is put in the store."""
        return cls(
            image=store.put(frame.image),
            time=frame.time,
            index=frame.index,
            size=list(frame.image.size),
        )

    def text(self) -> str:
        """Describe the frame in words."""
        width, height = self.size
        return f"frame at {self.time:.2f} s, shown at {width} x {height} px ({self.image})"


class FramesResult(BaseModel):
    """Frames of a video."""

    frames: list[FrameResult]


def frames_result(store: ImageStore, view: FramesView) -> CallToolResult:
    """Make the result of frames, whose images are put in the store at the size that is sent."""
    fitted = fit_pictures(view.images)
    pairs = zip(view.frames, fitted.pictures, strict=True)
    frames = [FrameResult.of(store, replace(frame, image=image)) for frame, image in pairs]
    lines = [*(frame.text() for frame in frames), fitted.note]
    return result("\n".join(filter(None, lines)), FramesResult(frames=frames), fitted.blocks)


class VideoResult(BaseModel):
    """Properties of a video."""

    duration: float = Field(description="Duration in seconds.")
    fps: float = Field(description="Frames a second, on average.")
    frame_count: int
    size: list[int] = Field(description="Width and height in pixels, as it is shown.")


def video_result(info: VideoInfo) -> CallToolResult:
    """Make the result of a video's description."""
    structured = VideoResult(
        duration=info.duration, fps=info.fps, frame_count=info.frame_count, size=list(info.size)
    )
    width, height = info.size
    text = (
        f"{info.duration:.2f} s, {info.frame_count} frames of {width} x {height} px, "
        f"{info.fps:.2f} frames a second"
    )
    return result(text, structured)


class CallResult(BaseModel):
    """A call of the model and its result."""

    name: str
    arguments: dict[str, Any]
    result: str | None
    images: list[str] = Field(description="References of the images that the model was shown.")
    error: str | None

    @classmethod
    def of(cls, use: ToolUse) -> Self:
        """Take the fields from the record of an episode."""
        observation = use["observation"]
        return cls(
            name=use["name"],
            arguments=use["arguments"],
            result=observation["text"] if observation else None,
            images=observation["images"] if observation else [],
            error=use["error"],
        )


class ReplayResult(BaseModel):
    """The effect of Activation Replay on the visual tokens that were new in a step."""

    method: str
    new_visual_tokens: int
    optimisation_steps: int
    kl_before: float | None = Field(description="KL(base || policy) in nats.")
    kl_after: float | None = Field(description="KL(base || policy) in nats.")
    seconds: float


class StepResult(BaseModel):
    """A turn of the model and its consequences."""

    thought: str
    calls: list[CallResult]
    error: str | None = Field(description="What was wrong with the turn itself.")
    replay: ReplayResult | None
    seconds: float

    @classmethod
    def of(cls, step: Step) -> Self:
        """Take the fields from the record of an episode."""
        replay = step["replay"]
        return cls(
            thought=step["thought"],
            calls=[CallResult.of(use) for use in step["tool_calls"]],
            error=step["error"],
            replay=None if replay is None else ReplayResult.model_validate(replay),
            seconds=step["seconds"],
        )

    def text(self) -> str:
        """Describe the step in a line: its calls, or else the thought, and replay."""
        lines = [f"{call.name}: {call.result or call.error}" for call in self.calls]
        lines = lines or [self.error or " ".join(self.thought.split())]
        replay = self.replay
        if replay and replay.kl_before is not None and replay.kl_after is not None:
            kl = f"KL {replay.kl_before:.4f} -> {replay.kl_after:.4f} nats"
            lines.append(f"{replay.method} replay over {replay.new_visual_tokens} tokens, {kl}")
        return "; ".join(lines)


class EpisodeResult(BaseModel):
    """The answer to a question, and the steps to it."""

    answer: str | None
    stop_reason: str
    steps: list[StepResult]
    policy: str
    base: str | None

    @classmethod
    def of(cls, trajectory: Trajectory) -> Self:
        """Take the fields from the record of an episode."""
        return cls(
            answer=trajectory.answer,
            stop_reason=trajectory.stop_reason,
            steps=[StepResult.of(step) for step in trajectory.steps],
            policy=trajectory.policy,
            base=trajectory.base,
        )

    def text(self) -> str:
        """Write the answer, and a line for each step."""
        answer = "no answer" if self.answer is None else self.answer
        steps = [f"step {number}: {step.text()}" for number, step in enumerate(self.steps, 1)]
        return "\n".join([f"{answer} ({self.stop_reason})", *steps])

    def references(self) -> list[str]:
        """List the references of all images that the calls showed."""
        return [image for step in self.steps for call in step.calls for image in call.images]


def episode_result(episode: EpisodeResult) -> CallToolResult:
    """Make the result of an episode; texts are cut, and at last steps left out, to make it fit."""
    data = episode.model_dump()
    for length in (MAX_RESULT, 20_000, 4_000, 800, 160):
        cut = EpisodeResult.model_validate(cut_texts(data, length))
        note = "" if length == MAX_RESULT else f"\n(texts are cut to {length} characters)"
        whole = result(cut.text() + note, cut)
        if _size(whole) <= MAX_RESULT:
            return whole
    cut = cut.model_copy(update={"steps": []})
    return result(f"{cut.text()}\n(its {len(episode.steps)} steps are left out)", cut)


def _size(whole: CallToolResult) -> int:
    """The bytes of a result as it is sent."""
    return len(whole.model_dump_json(by_alias=True, exclude_none=True).encode())
