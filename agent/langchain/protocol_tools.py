"""A protocol's own tools for LangChain: they look at the pictures of the conversation.

An episode begins with the last human message, since these policies are trained on single
questions. Its pictures are those of that message or, if it has none, of the last one that has some.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from langgraph.prebuilt import InjectedState, ToolRuntime

from visreplay.agent.chat.renderer import ChatRenderer, MessageError
from visreplay.agent.langchain.chat_model import ReplayChatModel
from visreplay.agent.langchain.messages import Blocks, content_blocks, message_parts
from visreplay.agent.messages import VideoPart
from visreplay.agent.protocols import ToolProtocol
from visreplay.agent.protocols.turns import ObservationPosition
from visreplay.agent.state import Observation, Scene, ToolCall
from visreplay.tools import ToolError, load_image


def protocol_tools(model: ReplayChatModel, *, video: str | Path | None = None) -> list[BaseTool]:
    """Make the tools of a model's protocol, to be run by a `ToolNode` (or `create_agent`).

    They take the pictures from the messages of the graph's state. Images come back by reference
    into the model's store, with the `Observation` as the artifact. The policy reads what is wrong
    with a call.

    Args:
        model: The model that writes the calls.
        video: Path of the video that the conversation is about.
    """
    renderer = model.renderer
    protocol = renderer.protocol

    def make_tool(function: Mapping[str, Any]) -> BaseTool:
        def run(
            messages: Annotated[list[AnyMessage], InjectedState("messages")],
            runtime: ToolRuntime,
            **arguments: Any,
        ) -> tuple[Blocks, Observation]:
            scene = _scene(renderer, messages, video)
            if not protocol.videos and not scene.images:
                raise ToolException("there is no image to look at: none was sent")
            try:
                observation = protocol.run(
                    {"name": function["name"], "arguments": arguments}, scene
                )
            except ToolError as error:
                raise ToolException(str(error)) from error
            # A turn's calls are run at the same time, but numbered in their order.
            earlier = _observations(protocol, _earlier_calls(messages, runtime.tool_call_id), scene)
            before = replace(scene, observations=(*scene.observations, *earlier))
            turns = sum(isinstance(message, AIMessage) for message in _episode(messages))
            position = ObservationPosition(
                turns - 1, len(before.observations), len(before.all_images)
            )
            return content_blocks(protocol.content(observation, position)), observation

        return _ProtocolTool(
            name=function["name"],
            description=function["description"],
            args_schema=function["parameters"],
            func=run,
            response_format="content_and_artifact",
            handle_tool_error=True,
        )

    return [make_tool(signature["function"]) for signature in protocol.own_tools]


def question(
    model: ReplayChatModel,
    text: str,
    images: Sequence[Any] = (),
    *,
    video: str | Path | None = None,
) -> HumanMessage:
    """Make a question as the model's protocol opens with it, its images put in the model's store.

    It is for agents of your own; `graph_server.chat_graph` opens every question itself.

    Args:
        model: The model that answers.
        text: The question.
        images: Paths, bytes of files, or PIL images.
        video: Path of the video that the question is about.

    Raises:
        ToolError: The media cannot be read, or the protocol has no use for them.
    """
    references = [model.store.put(load_image(picture)) for picture in images]
    path = None if video is None else str(video)
    opening = model.renderer.protocol.open(text, references, path)
    return HumanMessage(content_blocks(opening[-1]["content"]))


def last_question(
    renderer: ChatRenderer, messages: Sequence[BaseMessage]
) -> tuple[str, list[str], list[VideoPart]]:
    """Find the last question: its text, references of its images, and its videos.

    Raises:
        MessageError: There is no question, or it cannot be read.
    """
    parts = message_parts(_episode(messages)[0], renderer)
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    videos = [part for part in parts if part["type"] == "video"]
    return text, _images(renderer, messages), videos


class _ProtocolTool(StructuredTool):
    """A tool that takes whatever arguments the model writes, also `self` and `config`."""

    def _run(self, /, *args: Any, **kwargs: Any) -> Any:
        assert self.func is not None
        return self.func(*args, **kwargs)


def _scene(
    renderer: ChatRenderer, messages: Sequence[BaseMessage], video: str | Path | None
) -> Scene:
    """Build the scene of the last question from the messages."""
    _, images, videos = last_question(renderer, messages)
    observations = [
        message.artifact
        for message in _episode(messages)
        if isinstance(message, ToolMessage) and _is_observation(message.artifact)
    ]
    return Scene(
        images=tuple(images),
        video=None if video is None else str(video),
        overview=videos[0] if videos else None,
        observations=tuple(observations),
    )


def _is_observation(artifact: object) -> bool:
    return isinstance(artifact, dict) and isinstance(artifact.get("images"), list)


def _earlier_calls(messages: Sequence[BaseMessage], call_id: str | None) -> list[ToolCall]:
    """List the calls of the last turn that come before a call."""
    for message in reversed(messages):
        if isinstance(message, AIMessage):
            calls = takewhile(lambda call: call["id"] != call_id, message.tool_calls)
            return [{"name": call["name"], "arguments": call["args"]} for call in calls]
    return []


def _observations(
    protocol: ToolProtocol, calls: Sequence[ToolCall], scene: Scene
) -> Iterator[Observation]:
    """Run some calls, and give the results of those that succeed."""
    for call in calls:
        with suppress(ToolError):
            yield protocol.run(call, scene)


def _episode(messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
    """Cut off everything before the last question."""
    for index in reversed(range(len(messages))):
        if isinstance(messages[index], HumanMessage):
            return messages[index:]
    raise MessageError("there is no question: send a human's message")


def _images(renderer: ChatRenderer, messages: Sequence[BaseMessage]) -> list[str]:
    """Find the images of the last human message that has some, by their references."""
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            parts = message_parts(message, renderer)
            if images := [part["image"] for part in parts if part["type"] == "image"]:
                return images
    return []
