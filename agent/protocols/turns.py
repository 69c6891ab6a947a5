"""What is parsed out of a policy's turn, and the places of the results of its calls."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from visreplay.agent.protocols.parsing import boxed, ends_in_a_box
from visreplay.agent.state import Scene, Step, ToolCall

MAX_TURN_CHARACTERS = 100_000
"""Length from which on a turn is refused unparsed: no trained policy writes that much."""

NOTHING_TO_CALL = "There are no tools to call. Answer the question."
"""The error of a turn that calls a tool where the policy is offered none."""


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
        calls_at: Where the calls begin in the turn, or the text that cannot be read as calls; None
            if there are none.
    """

    thought: str
    calls: tuple[ToolCall, ...] = ()
    answer: str | None = None
    error: str | None = None
    open_ended: bool = False
    calls_at: int | None = field(default=None, compare=False)

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
