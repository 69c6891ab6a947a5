"""What the MCP tools give: structured results, and the same as text and images.

Many clients drop images, and many show no structured content, so the text says all that matters.
"""

from collections.abc import Sequence
from typing import Any, Self

from mcp.types import CallToolResult, ContentBlock, ImageContent, TextContent
from PIL import Image
from pydantic import BaseModel, Field

from visreplay.agent.episode.trajectory import Trajectory
from visreplay.agent.state import Step, ToolUse
from visreplay.tools.image import png_base64


def result(text: str, structured: BaseModel, images: Sequence[Image.Image] = ()) -> CallToolResult:
    """A tool's result in all forms."""
    content: list[ContentBlock] = [TextContent(type="text", text=text)]
    for image in images:
        content.append(ImageContent(type="image", data=png_base64(image), mimeType="image/png"))
    return CallToolResult(content=content, structuredContent=structured.model_dump(mode="json"))


class RegionResult(BaseModel):
    """A region of an image, as an image."""

    image: str = Field(description="Reference of what is shown: name it to look closer.")
    box: list[int] = Field(description="left, top, right, bottom in pixels of the source.")
    source_size: list[int] = Field(description="Of the source: width and height in pixels.")
    size: list[int] = Field(description="Of what is shown: width and height in pixels.")


class FrameResult(BaseModel):
    """A frame of a clip."""

    image: str = Field(description="Reference of what is shown: name it to look closer.")
    time: float = Field(description="In seconds from the start.")
    index: int = Field(description="Of the frame in the clip, from 0.")
    size: list[int] = Field(description="Of what is shown: width and height in pixels.")

    def told(self) -> str:
        """In words."""
        width, height = self.size
        return f"frame at {self.time:.2f} s, shown at {width} x {height} px ({self.image})"


class FramesResult(BaseModel):
    """Frames of a clip."""

    frames: list[FrameResult]


class VideoResult(BaseModel):
    """What a clip is."""

    duration: float = Field(description="In seconds.")
    fps: float = Field(description="Frames a second, on average.")
    frame_count: int
    size: list[int] = Field(description="Width and height in pixels, before any rotation.")

    def told(self) -> str:
        """In words."""
        width, height = self.size
        return (
            f"{self.duration:.2f} s, {self.frame_count} frames of {width} x {height} px, "
            f"{self.fps:.2f} frames a second"
        )


class CallResult(BaseModel):
    """A call that the model made, and what came of it."""

    name: str
    arguments: dict[str, Any]
    result: str | None
    images: list[str] = Field(description="References of what the model was shown.")
    error: str | None

    @classmethod
    def of(cls, use: ToolUse) -> Self:
        """What the record of an episode says of it."""
        observed = use["observation"]
        return cls(
            name=use["name"],
            arguments=use["arguments"],
            result=observed["text"] if observed else None,
            images=observed["images"] if observed else [],
            error=use["error"],
        )


class ReplayResult(BaseModel):
    """What Activation Replay did on the visual tokens that were new in a step."""

    method: str
    new_visual_tokens: int
    optimisation_steps: int
    kl_before: float | None = Field(description="KL(base || policy) in nats.")
    kl_after: float | None = Field(description="KL(base || policy) in nats.")
    seconds: float


class StepResult(BaseModel):
    """A turn of the model, and what came of it."""

    thought: str
    calls: list[CallResult]
    error: str | None = Field(description="What was wrong with the turn itself.")
    replay: ReplayResult | None
    seconds: float

    @classmethod
    def of(cls, step: Step) -> Self:
        """What the record of an episode says of it."""
        replay = step["replay"]
        return cls(
            thought=step["thought"],
            calls=[CallResult.of(use) for use in step["tool_calls"]],
            error=step["error"],
            replay=None if replay is None else ReplayResult.model_validate(replay),
            seconds=step["seconds"],
        )

    def told(self) -> str:
        """In a line: calls, or else the thought, and replay."""
        said = [f"{call.name}: {call.result or call.error}" for call in self.calls]
        said = said or [self.error or " ".join(self.thought.split())]
        replay = self.replay
        if replay and replay.kl_before is not None and replay.kl_after is not None:
            kl = f"KL {replay.kl_before:.4f} -> {replay.kl_after:.4f} nats"
            said.append(f"{replay.method} replay over {replay.new_visual_tokens} tokens, {kl}")
        return "; ".join(said)


class EpisodeResult(BaseModel):
    """What came of a question."""

    answer: str | None
    stop_reason: str
    steps: list[StepResult]
    policy: str
    base: str | None

    @classmethod
    def of(cls, trajectory: Trajectory) -> Self:
        """What the record of an episode says of it."""
        return cls(
            answer=trajectory.answer,
            stop_reason=trajectory.stop_reason,
            steps=[StepResult.of(step) for step in trajectory.steps],
            policy=trajectory.policy,
            base=trajectory.base,
        )

    def told(self) -> str:
        """The answer, and a line a step."""
        answer = "no answer" if self.answer is None else self.answer
        steps = [f"step {number}: {step.told()}" for number, step in enumerate(self.steps, 1)]
        return "\n".join([f"{answer} ({self.stop_reason})", *steps])

    def references(self) -> list[str]:
        """Of every image that the calls showed."""
        return [image for step in self.steps for call in step.calls for image in call.images]
