"""How each policy calls tools, is shown observations, and answers.

A trained policy answers well only in the dialect that it was trained on. A `ToolProtocol` knows
one dialect: it opens the conversation, reads a turn, runs the call with the right coordinates on
the right image, and frames what comes back. Tags, tool names and argument names are those of the
checkpoints; the sentences around them are this project's, and can be replaced by the checkpoint's
own (`system_prompt`, `user_suffix`).
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from visreplay.agent.state import (
    EpisodeState,
    ImagePart,
    Message,
    Observation,
    Part,
    TextPart,
    ToolCall,
    VideoPart,
)
from visreplay.tools import (
    Frame,
    ImageStore,
    TokenGrid,
    ToolError,
    parse_box,
    sample_frames,
    zoom,
)

MAX_TURN_CHARACTERS = 100_000
"""A longer turn is refused unread: no trained policy writes that much."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What was read from one policy turn: at most one of call, answer and error is set."""

    thought: str
    call: ToolCall | None = None
    answer: str | None = None
    error: str | None = None


def text(value: str) -> TextPart:
    """A text part."""
    return {"type": "text", "text": value}


def image(reference: str) -> ImagePart:
    """An image part."""
    return {"type": "image", "image": reference}


def user(*parts: Part) -> Message:
    """A user turn."""
    return {"role": "user", "content": list(parts)}


@dataclass(frozen=True)
class ToolProtocol(ABC):
    """One dialect.

    Attributes:
        grid: The model's token grid and pixel budget: how large an image it is shown.
        store: Where images that tools make are put.
        system_prompt: Replaces the protocol's own system prompt ("" for none).
        user_suffix: Replaces what the protocol appends to the question.
    """

    grid: TokenGrid
    store: ImageStore
    system_prompt: str | None = None
    user_suffix: str | None = None

    name: ClassVar[str]
    stop_strings: ClassVar[tuple[str, ...]] = ()
    max_steps: ClassVar[int] = 8
    overview_frames: ClassVar[int] = 16

    default_system_prompt: ClassVar[str] = ""
    default_user_suffix: ClassVar[str] = ""

    def open(self, question: str, images: list[str], video: str | None) -> list[Message]:
        """The conversation before the policy's first turn.

        Args:
            question: What is asked.
            images: References of the images that it is about.
            video: Path of the clip that it is about; its uniform frames are put in the store.

        Raises:
            ToolError: If the clip cannot be read, or the dialect has no use for it.
        """
        parts: list[Part] = [image(reference) for reference in images]
        if video is not None:
            parts.append(self._clip(sample_frames(video, count=self.overview_frames)))
        suffix = self.default_user_suffix if self.user_suffix is None else self.user_suffix
        parts.append(text(question + suffix))
        system = self.default_system_prompt if self.system_prompt is None else self.system_prompt
        opening: list[Message] = []
        if system:
            opening.append({"role": "system", "content": [text(system)]})
        return [*opening, user(*parts)]

    def read(self, written: str) -> Turn:
        """Read what the policy wrote. Never raises: whatever is wrong is the turn's `error`."""
        if len(written) > MAX_TURN_CHARACTERS:
            return Turn(
                "",
                error=f"The turn has {len(written)} characters; the limit is "
                f"{MAX_TURN_CHARACTERS}. Write less.",
            )
        thought, rest = _split_thought(written)
        answer_at, call_at = rest.rfind("<answer>"), rest.rfind("<tool_call>")
        if answer_at > call_at:
            answer = rest[answer_at + len("<answer>") :].partition("</answer>")[0]
            return Turn(thought, answer=answer.strip())
        if call_at >= 0:
            body, closed, _ = rest[call_at + len("<tool_call>") :].partition("</tool_call>")
            if not closed:
                return Turn(thought, error="The tool call is not closed with </tool_call>.")
            return _read_call(thought, body)
        return self._read_untagged(thought, rest)

    def _read_untagged(self, thought: str, rest: str) -> Turn:
        return Turn(thought)

    @abstractmethod
    def run(self, call: ToolCall, state: EpisodeState) -> Observation:
        """Run a call on the episode's media.

        Raises:
            ToolError: Whatever is wrong with the call; the model is told.
        """

    def show(self, observation: Observation) -> Message:
        """The turn that shows the policy what its call gave."""
        pictures = [image(reference) for reference in observation["images"]]
        return user(text("<tool_response>"), *pictures, text("</tool_response>"))

    def show_error(self, error: str) -> Message:
        """The turn that tells the policy what was wrong."""
        return user(text(f"Error: {error}"))

    @property
    def frame_grid(self) -> TokenGrid:
        """The pixel budget of one frame of a clip."""
        return self.grid

    def _put(self, frames: tuple[Frame, ...]) -> list[str]:
        return [self.store.put(zoom(frame.image, grid=self.frame_grid)) for frame in frames]

    def _clip(self, frames: tuple[Frame, ...]) -> VideoPart:
        return {
            "type": "video",
            "frames": self._put(frames),
            "times": [frame.time for frame in frames],
        }

    def _zoom(
        self,
        reference: str,
        bbox: object,
        extent: tuple[float, float] | None,
        grid: TokenGrid,
        min_side: int = 1,
        max_aspect: float = 200.0,
    ) -> Observation:
        """Crop an image to a box in the space of the given extent (pixels when None)."""
        picture = self.store.get(reference)
        box = parse_box(
            bbox, extent or picture.size, picture.size, min_side=min_side, max_aspect=max_aspect
        )
        region = zoom(picture, box, grid=grid)
        return {
            "text": f"box {list(box.as_tuple())} px of the {picture.width} x {picture.height} px "
            f"image, shown at {region.width} x {region.height} px",
            "images": [self.store.put(region)],
            "box": list(box.as_tuple()),
        }


def _split_thought(written: str) -> tuple[str, str]:
    """Split a turn at the end of its thinking; an unclosed <think> holds the whole turn."""
    before, closed, after = written.rpartition("</think>")
    if closed:
        return before.replace("<think>", "", 1).strip(), after
    if written.lstrip().startswith("<think>"):
        return written.replace("<think>", "", 1).strip(), ""
    outside = re.split(r"<tool_call>|<answer>", written, maxsplit=1)[0]
    return outside.strip(), written


def _read_call(thought: str, body: str) -> Turn:
    """Read the JSON of a call strictly: an object with a name and an object of arguments."""
    try:
        call = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return Turn(thought, error=f"The tool call is not valid JSON: {error}.")
    if (
        not isinstance(call, dict)
        or set(call) != {"name", "arguments"}
        or not isinstance(call["name"], str)
        or not isinstance(call["arguments"], dict)
    ):
        return Turn(
            thought,
            error='A tool call is one JSON object {"name": string, "arguments": object} '
            "and nothing else.",
        )
    return Turn(thought, call=ToolCall(name=call["name"], arguments=call["arguments"]))


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON value")


def _argument(arguments: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> object:
    """A required argument of a call whose arguments must all be known."""
    unknown = sorted(set(arguments) - set(allowed))
    if unknown:
        raise ToolError(f"unknown argument {unknown[0]!r}; allowed are {', '.join(allowed)}")
    if name not in arguments:
        raise ToolError(f"argument {name!r} is missing")
    return arguments[name]


def _unknown_tool(name: str, *known: str) -> ToolError:
    return ToolError(f"there is no tool {name!r}; available: {', '.join(known) or 'none'}")


@dataclass(frozen=True)
class EmbeddedProtocol(ToolProtocol):
    """The dialect of the pair that ships with the package.

    Boxes are counted in cells of an 8 x 8 grid over the image, one cell a visual token of the
    overview; `zoom` always looks at the original image. `sample_frames` shows two frames around a
    moment of the clip, in seconds.
    """

    name: ClassVar[str] = "embedded"
    overview_frames: ClassVar[int] = 8

    CELLS: ClassVar[float] = 8.0
    CROP_PIXELS: ClassVar[int] = 168 * 168
    FRAMES: ClassVar[int] = 2
    WINDOW_SECONDS: ClassVar[float] = 0.25

    @property
    def frame_grid(self) -> TokenGrid:
        """Crops and frames get at most 36 tokens, an overview 64."""
        return self.grid.capped(self.CROP_PIXELS)

    def run(self, call: ToolCall, state: EpisodeState) -> Observation:
        """Run `zoom` or `sample_frames`."""
        arguments = call["arguments"]
        if call["name"] == "zoom":
            bbox = _argument(arguments, "bbox_2d", ("label", "bbox_2d"))
            if not state["images"]:
                raise ToolError("there is no image to zoom into; the question is about a clip")
            extent = (self.CELLS, self.CELLS)
            return self._zoom(state["images"][0], bbox, extent, self.frame_grid)
        if call["name"] == "sample_frames":
            around = _argument(arguments, "around", ("around",))
            if state["video"] is None:
                raise ToolError("there is no clip to sample; the question is about an image")
            frames = sample_frames(
                state["video"],
                count=self.FRAMES,
                around=around,  # type: ignore[arg-type]  # untrusted: the tool checks it
                window=self.WINDOW_SECONDS,
            )
            times = [frame.time for frame in frames]
            return {
                "text": "frames at " + ", ".join(f"{time:.2f} s" for time in times),
                "images": self._put(frames),
                "times": times,
            }
        raise _unknown_tool(call["name"], "zoom", "sample_frames")


@dataclass(frozen=True)
class DeepEyesProtocol(ToolProtocol):
    """DeepEyes-7B: `image_zoom_in_tool` on the first image, absolute pixel boxes.

    Whether a box counts pixels of the original image or of the resized one that the model saw is
    contested; `coordinates` chooses.
    """

    coordinates: Literal["original", "resized"] = "original"

    name: ClassVar[str] = "deepeyes"
    stop_strings: ClassVar[tuple[str, ...]] = ("</tool_call>",)
    max_steps: ClassVar[int] = 6

    MIN_SIDE: ClassVar[int] = 30
    MAX_ASPECT: ClassVar[float] = 100.0
    TOOL: ClassVar[str] = "image_zoom_in_tool"

    default_system_prompt: ClassVar[str] = (
        "You answer questions about an image, and you can look closer with a tool.\n\n# Tools\n"
        "The function signature is given in JSON between <tools></tools> tags:\n<tools>\n"
        + json.dumps(
            {
                "type": "function",
                "function": {
                    "name": TOOL,
                    "description": "Enlarge a region of the image.",
                    "parameters": {
                        "type": "object",
                        "properties": {
                            "bbox_2d": {
                                "type": "array",
                                "items": {"type": "number"},
                                "minItems": 4,
                                "maxItems": 4,
                                "description": "The region as [x1, y1, x2, y2] in pixels, "
                                "(x1, y1) its top left and (x2, y2) its bottom right corner.",
                            },
                            "label": {
                                "type": "string",
                                "description": "What the region shows.",
                            },
                        },
                        "required": ["bbox_2d"],
                    },
                },
            }
        )
        + "\n</tools>\n\nTo call it, write one JSON object between tags:\n<tool_call>\n"
        '{"name": "' + TOOL + '", "arguments": {"bbox_2d": [x1, y1, x2, y2], "label": "..."}}\n'
        "</tool_call>"
    )
    default_user_suffix: ClassVar[str] = (
        "\nFirst think, then call the tool if a closer look helps, or answer. Write "
        "<think>...</think> followed by <tool_call>...</tool_call> or <answer>...</answer>."
    )

    def open(self, question: str, images: list[str], video: str | None) -> list[Message]:
        """Open with one or more images; DeepEyes has no clips."""
        if video is not None or not images:
            raise ToolError("the deepeyes protocol needs an image; use video-r1 for a clip")
        return super().open(question, images, video)

    def run(self, call: ToolCall, state: EpisodeState) -> Observation:
        """Run `image_zoom_in_tool` on the first image."""
        if call["name"] != self.TOOL:
            raise _unknown_tool(call["name"], self.TOOL)
        bbox = _argument(call["arguments"], "bbox_2d", ("bbox_2d", "label"))
        reference = state["images"][0]
        extent = None
        if self.coordinates == "resized":
            extent = self.grid.fit(self.store.get(reference).size)
        return self._zoom(reference, bbox, extent, self.grid, self.MIN_SIDE, self.MAX_ASPECT)

    def _read_untagged(self, thought: str, rest: str) -> Turn:
        # Both of the model's own evaluations take a turn without a call as its answer.
        return Turn(thought, answer=rest.strip() or None)


@dataclass(frozen=True)
class VideoR1Protocol(ToolProtocol):
    """Video-R1-7B: no tools; 16 uniform frames, thinking, then the answer."""

    name: ClassVar[str] = "video-r1"
    max_steps: ClassVar[int] = 1

    FRAME_PIXELS: ClassVar[int] = 200_704

    default_user_suffix: ClassVar[str] = (
        "\nThink about the question step by step between <think> and </think>, then give the "
        "final answer between <answer> and </answer>."
    )

    def run(self, call: ToolCall, state: EpisodeState) -> Observation:
        """Refuse: the dialect has no tools."""
        raise _unknown_tool(call["name"])

    @property
    def frame_grid(self) -> TokenGrid:
        """Frames have the pixel budget that the policy was trained with."""
        return self.grid.capped(self.FRAME_PIXELS)


PROTOCOLS: dict[str, type[ToolProtocol]] = {
    protocol.name: protocol for protocol in (EmbeddedProtocol, DeepEyesProtocol, VideoR1Protocol)
}
"""Every protocol by its name."""


def protocol_named(name: str, grid: TokenGrid, store: ImageStore, **options: Any) -> ToolProtocol:
    """The protocol of a name, with its options.

    Raises:
        ValueError: If there is no such protocol, or it has no such option.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"there is no protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    known = {field.name for field in fields(PROTOCOLS[name])}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(f"the {name} protocol has no option {unknown[0]!r}")
    return PROTOCOLS[name](grid, store, **options)
