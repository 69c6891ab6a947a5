"""The tools that a dialect was trained on, for LangChain: they look at the conversation's pictures.

An episode is what follows the last human message: that is what these policies are trained on. Its
pictures are those of that message or, if it has none, of the last one that has some.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from langgraph.prebuilt import InjectedState, ToolRuntime

from visreplay.agent.chat.renderer import ChatRenderer, MessageError
from visreplay.agent.langchain.chat_model import ReplayChatModel
from visreplay.agent.langchain.messages import image_block, message_parts
from visreplay.agent.messages import Part
from visreplay.agent.protocols import ToolProtocol
from visreplay.agent.protocols.base import ObservationPosition
from visreplay.agent.state import EpisodeState, Observation, Step, ToolCall, ToolUse, observations
from visreplay.tools import ToolError, load_image

Blocks = list[str | dict[str, Any]]


def protocol_tools(model: ReplayChatModel, *, video: str | Path | None = None) -> list[BaseTool]:
    """The tools of a model's dialect, to be run by a `ToolNode` (or `create_agent`).

    They take the pictures from the messages of the graph's state. Images come back by reference
    into the model's store, and the `Observation` as the artifact. What is wrong with a call is
    told to the policy.

    Args:
        model: Speaks the dialect.
        video: Path of the clip that the conversation is about.
    """
    interpreter = model.renderer
    dialect = interpreter.protocol

    def tool(function: Mapping[str, Any]) -> BaseTool:
        def run(
            messages: Annotated[list[AnyMessage], InjectedState("messages")],
            runtime: ToolRuntime,
            **arguments: Any,
        ) -> tuple[Blocks, Observation]:
            state = _episode(interpreter, messages, video)
            if not dialect.clips and not state["images"]:
                raise ToolException("there is no image to look at: none was sent")
            try:
                made = dialect.run({"name": function["name"], "arguments": arguments}, state)
            except ToolError as error:
                raise ToolException(str(error)) from error
            # The calls of a turn are run at once, and numbered in their order.
            before = [
                *observations(state),
                *_observed(dialect, _earlier(messages, runtime.tool_call_id), state),
            ]
            images = len(state["images"]) + sum(len(seen["images"]) for seen in before)
            place = ObservationPosition(len(state["steps"]) - 1, len(before), images)
            return _blocks(dialect.seen(made, place)), made

        return _DialectTool(
            name=function["name"],
            description=function["description"],
            args_schema=function["parameters"],
            func=run,
            response_format="content_and_artifact",
            handle_tool_error=True,
        )

    return [tool(signature["function"]) for signature in dialect.own_tools]


def question(
    model: ReplayChatModel,
    words: str,
    images: Sequence[Any] = (),
    *,
    video: str | Path | None = None,
) -> HumanMessage:
    """A question as the model's dialect opens with it, its images put in the model's store.

    For agents of one's own; `served.chat_graph` opens every question itself.

    Args:
        model: Speaks the dialect.
        words: What is asked.
        images: Paths, bytes of files, or PIL images.
        video: Path of the clip that it is about.

    Raises:
        ToolError: If the media cannot be read, or do not suit the dialect.
    """
    references = [model.store.put(load_image(picture)) for picture in images]
    return _opened(model.renderer, words, references, video)


def episode_messages(model: ReplayChatModel, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The messages of the last question alone, opened as the dialect does.

    Raises:
        MessageError: If there is no question, or it cannot be shown.
        ToolError: If its media do not suit the dialect.
    """
    interpreter = model.renderer
    at = _asked_at(messages)
    parts = message_parts(messages[at], interpreter)
    words = "".join(part["text"] for part in parts if part["type"] == "text")
    opened = _opened(interpreter, words, _pictures(interpreter, messages[: at + 1]), None)
    clips = _blocks([part for part in parts if part["type"] == "video"])
    return [HumanMessage([*clips, *opened.content]), *messages[at + 1 :]]


class _DialectTool(StructuredTool):
    """Takes whatever arguments the model writes, those called `self` or `config` too."""

    def _run(self, /, *args: Any, **kwargs: Any) -> Any:
        assert self.func is not None
        return self.func(*args, **kwargs)


def _opened(
    interpreter: ChatRenderer, words: str, references: list[str], video: str | Path | None
) -> HumanMessage:
    clip = None if video is None else str(video)
    turn = interpreter.protocol.open(words, references, clip)[-1]
    return HumanMessage(_blocks(turn["content"]))


def _episode(
    interpreter: ChatRenderer, messages: Sequence[BaseMessage], video: str | Path | None
) -> EpisodeState:
    """The state as the dialect's `run` wants it, of the last question."""
    at = _asked_at(messages)
    parts = message_parts(messages[at], interpreter)
    steps: list[Step] = []
    for message in messages[at + 1 :]:
        if isinstance(message, AIMessage):
            steps.append(_step(len(steps)))
        elif isinstance(message, ToolMessage) and steps and _is_observation(message.artifact):
            use: ToolUse = {
                "name": message.name or "",
                "arguments": {},
                "observation": message.artifact,
                "error": None,
            }
            steps[-1]["tool_calls"].append(use)
    return {
        "question": "",
        "images": _pictures(interpreter, messages[: at + 1]),
        "video": None if video is None else str(video),
        "seed": 0,
        "messages": [{"role": "user", "content": parts}],
        "steps": steps,
        "answer": None,
        "stop_reason": None,
    }


def _step(index: int) -> Step:
    return {
        "index": index,
        "text": "",
        "thought": "",
        "tool_calls": [],
        "error": None,
        "replay": None,
        "seconds": 0.0,
    }


def _is_observation(artifact: object) -> bool:
    return isinstance(artifact, dict) and isinstance(artifact.get("images"), list)


def _earlier(messages: Sequence[BaseMessage], call_id: str | None) -> list[ToolCall]:
    """The calls of the last turn that stand before one of them."""
    for message in reversed(messages):
        if isinstance(message, AIMessage):
            calls = takewhile(lambda call: call["id"] != call_id, message.tool_calls)
            return [{"name": call["name"], "arguments": call["args"]} for call in calls]
    return []


def _observed(
    dialect: ToolProtocol, calls: Sequence[ToolCall], state: EpisodeState
) -> Iterator[Observation]:
    """What those of some calls give that can be run."""
    for call in calls:
        with suppress(ToolError):
            yield dialect.run(call, state)


def _asked_at(messages: Sequence[BaseMessage]) -> int:
    """Where the last question stands."""
    for at in reversed(range(len(messages))):
        if isinstance(messages[at], HumanMessage):
            return at
    raise MessageError("there is no question: send a human's message")


def _pictures(interpreter: ChatRenderer, messages: Sequence[BaseMessage]) -> list[str]:
    """References of the images of the last human message that has some."""
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            parts = message_parts(message, interpreter)
            if images := [part["image"] for part in parts if part["type"] == "image"]:
                return images
    return []


def _blocks(parts: Sequence[Part]) -> Blocks:
    """Parts as content blocks, images by reference."""
    return [_block(part) for part in parts]


def _block(part: Part) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    if part["type"] == "image":
        return dict(image_block(part["image"]))
    frames = [image_block(frame)["url"] for frame in part["frames"]]
    return {"type": "video", "frames": frames, "times": part["times"]}
