"""The base class of all protocols: how a conversation opens, a turn is parsed, a result is shown.

A trained policy answers well only in the protocol that it was trained on. A `ToolProtocol`
implements one: it opens the conversation, parses a turn, runs a call with the right coordinates
on the right image, and formats the result. Tags, tool names and argument names are in the code of
its class; all texts, budgets and limits come from a `Recipe`.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from visreplay.agent.messages import Message, Part, VideoPart, image, text, user
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.protocols.crops import crop_region
from visreplay.agent.protocols.recipe import Recipe
from visreplay.agent.protocols.tool_schemas import Signature
from visreplay.agent.protocols.turn_reader import TurnReader
from visreplay.agent.protocols.turns import ObservationPosition, positions
from visreplay.agent.protocols.wording import Question, fill, tags_of
from visreplay.agent.state import Observation, Scene, Step, ToolCall
from visreplay.replay_core.control_tokens import break_up
from visreplay.tools import Frame, ImageStore, TokenGrid, ToolError, probe, sample_frames, zoom
from visreplay.tools.types import Size
from visreplay.tools.video import frames_line


@dataclass(frozen=True)
class ToolProtocol(TurnReader, ABC):
    """One protocol; `get_protocol` makes it.

    Attributes:
        grid: The token grid and pixel budget of any image that the model sees.
        store: The store of the images that tools make.
        recipe: What the protocol says, and the facts of the checkpoint.
    """

    grid: TokenGrid
    store: ImageStore
    recipe: Recipe

    name: ClassVar[str]
    videos: ClassVar[bool] = True
    """True if a question may be about a video; if not, it must be about an image."""
    named_calls: ClassVar[bool] = True
    """True if calls are JSON with the tool's name between <tool_call> tags. If so, the policy can
    also call tools that are not the protocol's own."""
    call_break: ClassVar[str] = "\n"
    """Text between those tags and the JSON."""
    unused: ClassVar[tuple[str, ...]] = ()
    """Keys of a recipe that mean nothing in this protocol: a recipe that sets them is refused."""

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end a turn."""
        return self.recipe.stop_strings

    @property
    def sampling(self) -> Sampling:
        """How the checkpoint's authors decode, as far as the recipe says it."""
        return self.recipe.decoding

    @property
    def frame_grid(self) -> TokenGrid:
        """The pixel budget of one frame of a video."""
        return self.recipe.pixels.frame.within(self.grid)

    @property
    def crop_grid(self) -> TokenGrid:
        """The pixel budget of a crop."""
        return self.recipe.pixels.crop.within(self.grid)

    def open(self, question: str | Question, images: list[str], video: str | None) -> list[Message]:
        """Build the conversation before the policy's first turn.

        Args:
            question: The user's question; a `Question` is worded as the recipe says.
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
        if isinstance(question, str):
            question = Question(question)
        texts = self.recipe.texts
        words = "".join(
            (
                texts.prefix,
                self.recipe.question.write(question),
                texts.suffix,
                self.recipe.endings.get(question.kind, ""),
            )
        )
        opening: list[Message] = []
        if self._system:
            opening.append({"role": "system", "content": [text(self._system)]})
        return [*opening, user(*self.media_parts(images, video), text(words))]

    def media_parts(self, images: list[str], video: str | None) -> list[Part]:
        """Build the parts before the question: its images and its video."""
        parts: list[Part] = [image(reference) for reference in images]
        if video is not None:
            parts.append(self._overview(video))
        return parts

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

        Where the tools are exactly the protocol's own (none, where calls are not JSON), it is the
        protocol's own prompt.

        Args:
            tools: Their signatures.
            system: The system prompt without them.
        """
        if not system and tuple(tools) == self.own_tools:
            return self._system
        section = self._tool_section(tools) if tools else ""
        return "\n\n".join(filter(None, (system, section)))

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
            if parts and self.recipe.texts.separator:
                parts.append(text(self.recipe.texts.separator))
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
        texts, images = self.recipe.texts, observation["images"]
        line, mark = (
            (texts.frames, "{images}") if "times" in observation else (texts.crop, "{image}")
        )
        width, height = self.store.get(images[0]).size if "{width}" in line else (0, 0)
        before, after = (
            fill(
                half,
                suffix=texts.suffix,
                width=width,
                height=height,
                action=position.step,
                observation=position.observations + 1,
                first=position.images + 1,
                last=position.images + len(images),
            )
            for half in line.split(mark)
        )
        return [*_some(before), *map(image, images), *_some(after)]

    def framed(self, parts: Sequence[Part]) -> list[Part]:
        """Put the result of any tool between the tags that mark it as one.

        A result that spells these tags out cannot end the frame.
        """
        before, after = self.recipe.texts.frame.split("{result}")
        texts = [part["text"] for part in parts if part["type"] == "text"]
        broken = iter(break_up(texts, tags_of(self.recipe.texts.frame)))
        inside = [text(next(broken)) if part["type"] == "text" else part for part in parts]
        return [*_some(before), *inside, *_some(after)]

    def error_parts(self, error: str) -> list[Part]:
        """Show what was wrong with one call, or with the turn."""
        (error,) = break_up([error], tags_of(self.recipe.texts.error))
        return [text(fill(self.recipe.texts.error, error=error))]

    @property
    def _system(self) -> str:
        return fill(self.recipe.texts.system, tools=self._tool_section(self.own_tools))

    def _tool_section(self, tools: Sequence[Signature]) -> str:
        """Write the section of a system prompt that offers tools."""
        section = self.recipe.texts.tools
        around = section.split("{signatures}")
        ends = (*tags_of(around[0])[-1:], *tags_of(around[1])[:1])
        (signatures,) = break_up(["\n".join(map(json.dumps, tools))], ends)
        return fill(section, signatures=signatures)

    def _extent(self, size: Size) -> Size:
        """Choose the pixels that a box in pixels counts, of an image of some size."""
        return size if self.recipe.crops.coordinates == "original" else self.grid.fit(size)

    def _put(self, frames: tuple[Frame, ...]) -> list[str]:
        return [self.store.put(zoom(frame.image, grid=self.frame_grid)) for frame in frames]

    def _overview(self, video: str) -> VideoPart:
        """Sample the frames that the conversation opens with."""
        rules = self.recipe.frames
        frames = sample_frames(video, count=rules.count, ends=rules.choice == "ends")
        part: VideoPart = {
            "type": "video",
            "frames": self._put(frames),
            "times": [frame.time for frame in frames],
        }
        if rules.choice == "ends" or rules.time == "whole":
            # As qwen-vl-utils does: a frame stands for its share of the video, a step for two.
            info = probe(video)
            seconds = 2 * info.frame_count / info.fps / rules.count
            part["step_seconds"] = float(int(seconds)) if rules.time == "whole" else seconds
        return part

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
            min_side=self.recipe.crops.min_side,
            max_aspect=self.recipe.crops.max_aspect,
        )


def _some(words: str) -> list[Part]:
    """Make a text part, unless there is no text."""
    return [text(words)] if words else []
