"""The base class of all protocols: how a conversation opens, a turn is parsed, a result is shown.

A trained policy answers well only in the protocol that it was trained on. A `ToolProtocol`
implements one: it opens the conversation, parses a turn, runs a call with the right coordinates
on the right image, and formats the result. Tags, tool names and argument names are those of the
checkpoints; the sentences around them are this project's, and can be replaced by the checkpoint's
own (`system_prompt`, `user_suffix`, and the texts of observations in protocols that have them).
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from visreplay.agent.messages import Message, Part, VideoPart, image, text, user
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.protocols.crops import crop_region
from visreplay.agent.protocols.parsing import (
    bodies,
    boxed,
    ends_in_a_box,
    parse_call,
    split_thought,
)
from visreplay.agent.protocols.tool_schemas import Signature, describe_tools
from visreplay.agent.state import Observation, Scene, Step, ToolCall
from visreplay.tools import Frame, ImageStore, TokenGrid, ToolError, sample_frames, zoom
from visreplay.tools.video import frames_line

MAX_TURN_CHARACTERS = 100_000
"""Length from which on a turn is refused unparsed: no trained policy writes that much."""


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """A parsed policy turn: at most one of calls, answer and error is set.

    Attributes:
        thought: The reasoning part.
        calls: The calls to run, in this order.
        answer: The answer to the question.
        error: Why the turn cannot be parsed.
        open_ended: Whether nothing marks the end of the answer (free text, or a tag or a box that
            is not closed): if the token limit cut the turn off, there is no answer.
    """

    thought: str
    calls: tuple[ToolCall, ...] = ()
    answer: str | None = None
    error: str | None = None
    open_ended: bool = False

    @classmethod
    def free(cls, thought: str, written: str) -> "ParsedTurn":
        """Parse a turn whose whole text is the answer."""
        return cls(thought, answer=written.strip() or None, open_ended=True)

    @classmethod
    def tagged(cls, thought: str, written: str) -> "ParsedTurn":
        """Parse a turn whose answer follows its last <answer>."""
        answer, closed, _ = written.rpartition("<answer>")[2].partition("</answer>")
        return cls(thought, answer=answer.strip(), open_ended=not closed)

    @classmethod
    def boxed(cls, thought: str, written: str) -> "ParsedTurn":
        r"""Parse a turn whose answer is in its last closed \boxed{}."""
        return cls(thought, answer=boxed(written), open_ended=ends_in_a_box(written))


@dataclass(frozen=True, slots=True)
class ObservationPosition:
    """The place of an observation in its episode.

    Attributes:
        step: Index of the turn that made the call.
        observations: Number of observations before it.
        images: Number of images before it, those of the question included, a video's frames not.
    """

    step: int = 0
    observations: int = 0
    images: int = 0


def positions(step: Step, scene: Scene) -> Iterator[ObservationPosition]:
    """Give the place of each call's observation, in the order of the step's calls.

    Args:
        step: A step whose calls were all run.
        scene: The scene before the step's observations.
    """
    observations, images = len(scene.observations), len(scene.all_images)
    for use in step["tool_calls"]:
        yield ObservationPosition(step["index"], observations, images)
        if use["observation"] is not None:
            observations += 1
            images += len(use["observation"]["images"])


@dataclass(frozen=True)
class ToolProtocol(ABC):
    """One protocol.

    Attributes:
        grid: The model's token grid and pixel budget: how large it can see an image.
        store: The store of the images that tools make.
        system_prompt: Replaces the protocol's own system prompt ("" for none).
        user_suffix: Replaces the text that the protocol appends to the question.
        sampling: How the protocol's checkpoints are decoded, where a caller does not say.
    """

    grid: TokenGrid
    store: ImageStore
    system_prompt: str | None = None
    user_suffix: str | None = None
    sampling: Sampling = Sampling()

    name: ClassVar[str]
    checkpoints: ClassVar[tuple[str, ...]] = ()
    """Parts of the names of checkpoints that use the protocol: small letters and digits alone."""
    stop_strings: ClassVar[tuple[str, ...]] = ()
    max_steps: ClassVar[int] = 8
    max_images: ClassVar[int | None] = None
    """Largest number of images in a conversation, if there is a limit; a video counts as one."""
    videos: ClassVar[bool] = True
    """True if a question may be about a video; if not, it must be about an image."""
    overview_frames: ClassVar[int] = 16
    """Number of a video's frames that the conversation opens with."""
    separator: ClassVar[str] = ""
    """Text between the results of several calls."""
    named_calls: ClassVar[bool] = True
    """True if calls are JSON with the tool's name between <tool_call> tags. If so, the policy can
    also call tools that are not the protocol's own."""
    call_break: ClassVar[str] = "\n"
    """Text between those tags and the JSON."""
    own_tools: ClassVar[tuple[Signature, ...]] = ()
    """Signatures of the tools that `run` knows, where calls are JSON with the tool's name."""

    default_system_prompt: ClassVar[str] = ""
    default_user_suffix: ClassVar[str] = ""

    def open(self, question: str, images: list[str], video: str | None) -> list[Message]:
        """Build the conversation before the policy's first turn.

        Args:
            question: The user's question.
            images: References of the images that it is about.
            video: Path of the video that it is about; uniform frames of it are put in the store.

        Raises:
            ToolError: The video cannot be read, or the protocol has no use for it.
        """
        if not self.videos and (video is not None or not images):
            raise ToolError(
                f"the {self.name} protocol needs an image; for a video, use hermes, video-r1 or "
                "pixel-reasoner"
            )
        suffix = self.default_user_suffix if self.user_suffix is None else self.user_suffix
        opening: list[Message] = []
        if self._system:
            opening.append({"role": "system", "content": [text(self._system)]})
        return [*opening, user(*self.media_parts(images, video), text(question + suffix))]

    def media_parts(self, images: list[str], video: str | None) -> list[Part]:
        """Build the parts before the question: its images and its video."""
        parts: list[Part] = [image(reference) for reference in images]
        if video is not None:
            parts.append(self._overview(sample_frames(video, count=self.overview_frames)))
        return parts

    def read(self, written: str) -> ParsedTurn:
        """Parse a turn. Never raises: whatever is wrong with it is its `error`."""
        if len(written) > MAX_TURN_CHARACTERS:
            return ParsedTurn(
                "",
                error=f"The turn has {len(written)} characters; the limit is "
                f"{MAX_TURN_CHARACTERS}. Write less.",
            )
        thought, rest = split_thought(written)
        try:
            return self._read(thought, rest)
        except ToolError as error:
            return ParsedTurn(thought, error=str(error))

    def _read(self, thought: str, rest: str) -> ParsedTurn:
        """Parse the text after the thought: by default, the last tag is a call or an answer.

        Raises:
            ToolError: A call cannot be parsed.
        """
        answer_at, call_at = rest.rfind("<answer>"), rest.rfind("<tool_call>")
        if answer_at > call_at:
            return ParsedTurn.tagged(thought, rest)
        if call_at >= 0:
            *_, last = bodies(rest[call_at:], "tool_call")
            return ParsedTurn(thought, (parse_call(last),))
        return self._read_untagged(thought, rest)

    def _read_untagged(self, thought: str, rest: str) -> ParsedTurn:
        return ParsedTurn(thought)

    @abstractmethod
    def run(self, call: ToolCall, scene: Scene) -> Observation:
        """Run a call.

        Args:
            call: The call as the model wrote it.
            scene: All that it may look at.

        Raises:
            ToolError: Something is wrong with the call; the model reads what.
        """

    def offer(self, tools: Sequence[Signature], system: str) -> str:
        """Write the system prompt that offers tools.

        Where the tools are exactly the protocol's own, it is the protocol's own prompt.

        Args:
            tools: Their signatures.
            system: The system prompt without them.
        """
        if not system and tools and tuple(tools) == self.own_tools:
            return self._system
        return describe_tools(system or "You can call tools.", *tools) if tools else system

    def call_opening(self, names: Sequence[str]) -> str:
        """Write the beginning of a turn that calls one of some tools; the policy writes the rest.

        Args:
            names: Names of the tools.
        """
        # No space at its end: it would be the beginning of the policy's next token.
        opening = f'<tool_call>{self.call_break}{{"name":'
        return f'{opening} {json.dumps(names[0])}, "arguments":' if len(names) == 1 else opening

    def written(self, call: ToolCall) -> str:
        """Write a call as the policy writes it."""
        return self.tagged_call(json.dumps(call))

    def tagged_call(self, body: str) -> str:
        """Write the body of a call, which need not be JSON, between its tags."""
        return f"<tool_call>{self.call_break}{body}{self.call_break}</tool_call>"

    def show(self, step: Step, scene: Scene) -> Message:
        """Build the turn with a step's results: one for each of its calls, in their order.

        Args:
            step: A step whose calls were all run.
            scene: The scene before the step's observations.
        """
        if step["error"] is not None:
            return user(*self.error_parts(step["error"]))
        parts: list[Part] = []
        for use, position in zip(step["tool_calls"], positions(step, scene), strict=True):
            if parts and self.separator:
                parts.append(text(self.separator))
            if use["observation"] is None:
                parts += self.error_parts(use["error"] or "")
            else:
                parts += self.observation_parts(use["observation"], position)
        return user(*parts)

    def observation_parts(
        self, observation: Observation, position: ObservationPosition = ObservationPosition()
    ) -> list[Part]:
        """Show one call's result, in its frame."""
        return self.framed(self.content(observation, position))

    def content(
        self, observation: Observation, position: ObservationPosition = ObservationPosition()
    ) -> list[Part]:
        """Show one call's result without the frame."""
        return [image(reference) for reference in observation["images"]]

    def framed(self, parts: Sequence[Part]) -> list[Part]:
        """Put the result of any tool between the tags that mark it as one."""
        return [text("<tool_response>"), *parts, text("</tool_response>")]

    def error_parts(self, error: str) -> list[Part]:
        """Show what was wrong with one call, or with the turn."""
        return [text(f"Error: {error}")]

    @property
    def _system(self) -> str:
        return self.default_system_prompt if self.system_prompt is None else self.system_prompt

    @property
    def frame_grid(self) -> TokenGrid:
        """The pixel budget of one frame of a video."""
        return self.grid

    def _budget(self, least: int, most: int) -> TokenGrid:
        """Cap the protocol's own pixel budget by the model's."""
        most = min(most, self.grid.max_pixels)
        return TokenGrid(self.grid.factor, max(min(least, most // 2), self.grid.min_pixels), most)

    def _tokens(self, least: int, most: int) -> TokenGrid:
        """Do the same as `_budget`, in visual tokens."""
        side = self.grid.factor
        return self._budget(least * side * side, most * side * side)

    def _put(self, frames: tuple[Frame, ...]) -> list[str]:
        return [self.store.put(zoom(frame.image, grid=self.frame_grid)) for frame in frames]

    def _overview(self, frames: tuple[Frame, ...]) -> VideoPart:
        return {
            "type": "video",
            "frames": self._put(frames),
            "times": [frame.time for frame in frames],
        }

    def _frames(self, frames: tuple[Frame, ...]) -> Observation:
        """Build the observation of frames, each an image of its own."""
        times = [frame.time for frame in frames]
        return {
            "text": frames_line(times),
            "images": self._put(frames),
            "times": times,
        }

    def _zoom(
        self,
        reference: str,
        bbox: object,
        extent: tuple[float, float] | None,
        grid: TokenGrid,
        scene: Scene,
        *,
        min_side: int = 1,
        max_aspect: float = 200.0,
    ) -> Observation:
        """Crop an image to a box in a coordinate space of some extent (pixels when None).

        Raises:
            ToolError: The box is not valid.
        """
        return crop_region(
            self.store,
            reference,
            bbox,
            extent,
            grid,
            scene.observations,
            min_side=min_side,
            max_aspect=max_aspect,
        )
