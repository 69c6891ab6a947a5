"""What all dialects have in common: how a conversation opens, a turn is read, a reply is framed.

A trained policy answers well only in the dialect that it was trained on. A `ToolProtocol` knows
one dialect: it opens the conversation, reads a turn, runs a call with the right coordinates on
the right image, and frames what comes back. Tags, tool names and argument names are those of the
checkpoints; the sentences around them are this project's, and can be replaced by the checkpoint's
own (`system_prompt`, `user_suffix`, and where a dialect has them the texts of its observations).
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from visreplay.agent.messages import (
    Message,
    Part,
    VideoPart,
    image,
    text,
    user,
)
from visreplay.agent.protocols.crops import cropped
from visreplay.agent.protocols.parsing import (
    bodies,
    boxed,
    ends_in_a_box,
    parse_call,
    split_thought,
)
from visreplay.agent.protocols.tool_schemas import Signature, described
from visreplay.agent.state import EpisodeState, Observation, Step, ToolCall, observations
from visreplay.tools import Frame, ImageStore, TokenGrid, ToolError, sample_frames, zoom

MAX_TURN_CHARACTERS = 100_000
"""A longer turn is refused unread: no trained policy writes that much."""


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """What was read from one policy turn: at most one of calls, answer and error is set.

    Attributes:
        thought: The reasoning part of it.
        calls: To be run, in this order.
        answer: The answer to the question.
        error: Why the turn cannot be read.
        open_ended: Nothing marks the end of the answer (free text, or a tag or a box that is not
            closed): if the token limit cut the turn off, it is none.
    """

    thought: str
    calls: tuple[ToolCall, ...] = ()
    answer: str | None = None
    error: str | None = None
    open_ended: bool = False

    @classmethod
    def free(cls, thought: str, written: str) -> "ParsedTurn":
        """A turn whose whole text is the answer."""
        return cls(thought, answer=written.strip() or None, open_ended=True)

    @classmethod
    def tagged(cls, thought: str, written: str) -> "ParsedTurn":
        """A turn whose answer stands after its last <answer>."""
        answer, closed, _ = written.rpartition("<answer>")[2].partition("</answer>")
        return cls(thought, answer=answer.strip(), open_ended=not closed)

    @classmethod
    def boxed(cls, thought: str, written: str) -> "ParsedTurn":
        r"""A turn whose answer stands in its last closed \boxed{}."""
        return cls(thought, answer=boxed(written), open_ended=ends_in_a_box(written))


@dataclass(frozen=True, slots=True)
class ObservationPosition:
    """Where in an episode an observation stands.

    Attributes:
        step: Index of the turn that called for it.
        observations: How many came before.
        images: How many images came before, those of the question included, a clip's frames not.
    """

    step: int = 0
    observations: int = 0
    images: int = 0


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
    spoken_by: ClassVar[tuple[str, ...]] = ()
    """Parts of checkpoints' names that give the dialect away: small letters and digits alone."""
    stop_strings: ClassVar[tuple[str, ...]] = ()
    max_steps: ClassVar[int] = 8
    max_images: ClassVar[int | None] = None
    """In a conversation, where the dialect has such a limit; a clip counts as one."""
    clips: ClassVar[bool] = True
    """Whether a question may be about a clip; if not, it must be about an image."""
    overview_frames: ClassVar[int] = 16
    separator: ClassVar[str] = ""
    """Between what came of several calls."""
    named_calls: ClassVar[bool] = True
    """Whether calls are JSON with the tool's name between <tool_call> tags: if so, the dialect can
    call other tools than its own."""
    call_break: ClassVar[str] = "\n"
    """Between those tags and the JSON."""
    own_tools: ClassVar[tuple[Signature, ...]] = ()
    """What `run` runs, where calls are JSON with the tool's name."""

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
        if not self.clips and (video is not None or not images):
            raise ToolError(
                f"the {self.name} protocol needs an image; for a clip, use hermes, video-r1 or "
                "pixel-reasoner"
            )
        suffix = self.default_user_suffix if self.user_suffix is None else self.user_suffix
        opening: list[Message] = []
        if self._system:
            opening.append({"role": "system", "content": [text(self._system)]})
        return [*opening, user(*self.media_parts(images, video), text(question + suffix))]

    def media_parts(self, images: list[str], video: str | None) -> list[Part]:
        """How the images and the clip of a question are shown, before the question."""
        parts: list[Part] = [image(reference) for reference in images]
        if video is not None:
            parts.append(self._clip(sample_frames(video, count=self.overview_frames)))
        return parts

    def read(self, written: str) -> ParsedTurn:
        """Read what the policy wrote. Never raises: whatever is wrong is the turn's `error`."""
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
        """Read what follows the thought: by default, the last tag is a call or an answer.

        Raises:
            ToolError: What is wrong with a call.
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
    def run(self, call: ToolCall, state: EpisodeState) -> Observation:
        """Run a call on the episode's media.

        Raises:
            ToolError: Whatever is wrong with the call; the model is told.
        """

    def offer(self, tools: Sequence[Signature], system: str) -> str:
        """The system prompt that offers tools: the dialect's own if they are its own, and no more.

        Args:
            tools: Their signatures.
            system: What the system prompt says besides.
        """
        if not system and tools and tuple(tools) == self.own_tools:
            return self._system
        return described(system or "You can call tools.", *tools) if tools else system

    def call_opening(self, names: Sequence[str]) -> str:
        """How a turn begins that calls one of some tools: what follows is the policy's."""
        # No space at its end: it would be the beginning of the policy's next token.
        opening = f'<tool_call>{self.call_break}{{"name":'
        return f'{opening} {json.dumps(names[0])}, "arguments":' if len(names) == 1 else opening

    def written(self, call: ToolCall) -> str:
        """A call as the policy writes it."""
        return f"<tool_call>{self.call_break}{json.dumps(call)}{self.call_break}</tool_call>"

    def show(self, step: Step, state: EpisodeState) -> Message:
        """The turn that tells the policy what came of a step: each of its calls, in their order.

        Args:
            step: All its calls were run.
            state: Before the step's observations.
        """
        if step["error"] is not None:
            return user(*self.error_parts(step["error"]))
        before = observations(state)
        parts: list[Part] = []
        for use in step["tool_calls"]:
            if parts and self.separator:
                parts.append(text(self.separator))
            if use["observation"] is None:
                parts += self.error_parts(use["error"] or "")
            else:
                images = len(state["images"]) + sum(len(seen["images"]) for seen in before)
                place = ObservationPosition(step["index"], len(before), images)
                parts += self.observation_parts(use["observation"], place)
                before.append(use["observation"])
        return user(*parts)

    def observation_parts(
        self, observation: Observation, place: ObservationPosition = ObservationPosition()
    ) -> list[Part]:
        """How the policy is shown what one call gave, in its frame."""
        return self.framed(self.seen(observation, place))

    def seen(
        self, observation: Observation, place: ObservationPosition = ObservationPosition()
    ) -> list[Part]:
        """The same without the frame."""
        return [image(reference) for reference in observation["images"]]

    def framed(self, parts: Sequence[Part]) -> list[Part]:
        """What a tool gave, whatever it is, in the tags that tell the policy so."""
        return [text("<tool_response>"), *parts, text("</tool_response>")]

    def error_parts(self, error: str) -> list[Part]:
        """How the policy is told what was wrong with one call, or with its turn."""
        return [text(f"Error: {error}")]

    @property
    def _system(self) -> str:
        return self.default_system_prompt if self.system_prompt is None else self.system_prompt

    @property
    def frame_grid(self) -> TokenGrid:
        """The pixel budget of one frame of a clip."""
        return self.grid

    def _budget(self, least: int, most: int) -> TokenGrid:
        """The model's grid with a pixel budget of the dialect's, as far as the model's allows."""
        most = min(most, self.grid.max_pixels)
        return TokenGrid(self.grid.factor, max(min(least, most // 2), self.grid.min_pixels), most)

    def _tokens(self, least: int, most: int) -> TokenGrid:
        """The same in visual tokens."""
        side = self.grid.factor
        return self._budget(least * side * side, most * side * side)

    def _put(self, frames: tuple[Frame, ...]) -> list[str]:
        return [self.store.put(zoom(frame.image, grid=self.frame_grid)) for frame in frames]

    def _clip(self, frames: tuple[Frame, ...]) -> VideoPart:
        return {
            "type": "video",
            "frames": self._put(frames),
            "times": [frame.time for frame in frames],
        }

    def _frames(self, frames: tuple[Frame, ...]) -> Observation:
        """The observation of frames, each an image of its own."""
        times = [frame.time for frame in frames]
        return {
            "text": "frames at " + ", ".join(f"{time:.2f} s" for time in times),
            "images": self._put(frames),
            "times": times,
        }

    def _zoom(
        self,
        reference: str,
        bbox: object,
        extent: tuple[float, float] | None,
        grid: TokenGrid,
        state: EpisodeState,
        *,
        min_side: int = 1,
        max_aspect: float = 200.0,
    ) -> Observation:
        """Crop an image to a box in the space of the given extent (pixels when None).

        Raises:
            ToolError: If the box is none.
        """
        return cropped(
            self.store,
            reference,
            bbox,
            extent,
            grid,
            observations(state),
            min_side=min_side,
            max_aspect=max_aspect,
        )
