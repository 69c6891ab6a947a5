"""Convert the memory of a smolagents agent to our messages.

smolagents writes a step as text for any model: the turn of the model, "Calling tools:" with the
same calls again, images, "Observation:" or "Error:". Here the turn stands as it was generated, its
calls once, and their results as tool messages. All of a message is untrusted.
"""

import ast
import re
from collections.abc import Sequence
from typing import Any

from PIL import Image
from smolagents import AgentImage, ChatMessage, MessageRole

from visreplay.agent.chat.renderer import ChatRenderer, MessageError
from visreplay.agent.chat.turn_memory import TurnMemory
from visreplay.agent.messages import Message, Part, ToolCall, image, text, text_of, user
from visreplay.agent.protocols.calls import arguments_object
from visreplay.tools import ToolError, load_image
from visreplay.tools.media import REFERENCE

FINAL_ANSWER = "final_answer"
"""The tool by which agents of smolagents end."""

# What smolagents puts before the parts of a step, and the protocol says in its own way.
_TASK, _CALLS, _OBSERVATION, _ERROR = (
    "New task:\n",
    "Calling tools:\n",
    "Observation:\n",
    "Error:\n",
)
_CALL_ID = re.compile(r"\ACall id: .*\n")
# The line break is the agent's, which has one line an image; the protocol's frame has its own.
_IMAGE_LINE = re.compile(rf"\n?{REFERENCE}([0-9a-f]{{64}})")
_ANY_CONVERSATION = b""


class MemoryReader:
    """Converts the messages of agents, one conversation after the other.

    smolagents keeps a turn as text alone, without the white space around it, and rewrites what
    stands before it (plans, summaries): a turn is remembered by its text.

    Args:
        renderer: Parses the policy's turns; it has the image store.
        memory: The tokens of earlier turns.
    """

    def __init__(self, renderer: ChatRenderer, memory: TurnMemory) -> None:
        self.renderer = renderer
        self.memory = memory

    def keep(self, reply: str, token_ids: Sequence[int]) -> None:
        """Remember the tokens of a reply."""
        self.memory.keep(_ANY_CONVERSATION, _text_message(reply), token_ids)

    def token_ids(self, reply: str) -> list[int] | None:
        """The tokens of a reply; None if they are not known."""
        return self.memory.token_ids(_ANY_CONVERSATION, _text_message(reply))

    def conversation(self, messages: Sequence[ChatMessage | dict[str, Any]]) -> list[Message]:
        """Convert a whole history.

        Args:
            messages: What `write_memory_to_messages` returns, or any other messages of smolagents.

        Raises:
            MessageError: A message cannot be shown.
        """
        converted: list[Message] = []
        turn: Message | None = None  # whose results may follow
        answered = False  # whether that turn is an answer in the protocol's own way, without a call
        images: list[Part] = []  # of tools, which smolagents puts before their text
        for message in map(_as_chat_message, messages):
            role, parts = MessageRole(message.role), self._parts(message)
            words = "".join(map(_text_in, parts))
            if turn and role is MessageRole.USER and parts and not words:
                images += parts
                continue
            if turn and role is MessageRole.TOOL_RESPONSE:
                # What smolagents observes of an answer is the answer.
                if not (answered and words.startswith(_OBSERVATION)):
                    converted += self._results(turn, images, words)
                images = []
                continue
            if turn and images:
                converted += self._results(turn, images)
                images = []
            if role is MessageRole.ASSISTANT:
                turn, answered = self._assistant_turn(words), False
                converted.append(turn)
            elif role is MessageRole.TOOL_CALL:
                calls = _parse_listed_calls(words)
                if turn is None or converted[-1] is not turn:
                    turn, answered = _assistant("" if calls else words, calls), False
                    converted.append(turn)
                elif not _has_calls(turn):
                    answered = _is_answer(turn, calls)
                    if not answered and "token_ids" not in turn:
                        turn["tool_calls"] = calls
            else:
                turn = None
                if role is not MessageRole.SYSTEM:
                    converted.append(user(*_images_first(parts)))
                elif words:
                    converted.append({"role": "system", "content": [text(words)]})
        if turn and images:
            converted += self._results(turn, images)
        return converted

    def _assistant_turn(self, reply: str) -> Message:
        """A turn of the policy, with the tokens that it generated if they are known."""
        token_ids = self.token_ids(reply)
        if token_ids is None:
            return self.renderer.parse_reply(reply).message()
        reply = self.renderer.tokenizer.decode(token_ids, skip_special_tokens=True)
        return self.renderer.parse_reply(reply).message(token_ids)

    def _results(self, turn: Message, images: list[Part], words: str = "") -> list[Message]:
        """The results of a turn: as a tool's if it called some, or else as smolagents has them."""
        words = _CALL_ID.sub("", words)
        if not _has_calls(turn):
            return [user(*images, *self._with_images(words))]
        calls = turn.get("tool_calls")
        call_id = calls[0].get("id", "") if calls else ""
        if not words.startswith(_ERROR):
            observation = self._with_images(words.removeprefix(_OBSERVATION))
            return [_tool_message(call_id, [*images, *observation])]
        # An error is text alone.
        error = text(words.removeprefix(_ERROR).strip())
        results = [_tool_message(call_id, images)] if images else []
        return [*results, _tool_message(call_id, [error], is_error=True)]

    def _with_images(self, words: str) -> list[Part]:
        """An observation, with images in the place of the references to them."""
        parts: list[Part] = []
        store = self.renderer.protocol.store
        for at, piece in enumerate(_IMAGE_LINE.split(words)):
            if at % 2 and piece in store:
                parts.append(image(piece))
            elif piece:
                parts.append(text(REFERENCE * (at % 2) + piece))
        return parts

    def _parts(self, message: ChatMessage) -> list[Part]:
        content = message.content or []
        if isinstance(content, str):
            return [text(content)]
        return [self._part(block) for block in content]

    def _part(self, block: Any) -> Part:
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise MessageError(f"{block!r:.80} is no block of a message: it has no type")
        if block["type"] != "image" or not isinstance(block.get("image"), Image.Image):
            (part,) = self.renderer.parts([block])
            return part
        picture = block["image"]
        try:
            raw = picture.to_raw() if isinstance(picture, AgentImage) else picture
            return image(self.renderer.protocol.store.put(load_image(raw)))
        except ToolError as error:
            raise MessageError(str(error)) from error


def _as_chat_message(message: ChatMessage | dict[str, Any]) -> ChatMessage:
    return ChatMessage.from_dict(message) if isinstance(message, dict) else message


def _text_in(part: Part) -> str:
    return part["text"] if part["type"] == "text" else ""


def _assistant(reply: str, calls: list[ToolCall]) -> Message:
    return {"role": "assistant", "content": [text(reply)], "tool_calls": calls}


def _text_message(reply: str) -> Message:
    return {"role": "assistant", "content": [text(reply.strip())]}


def _tool_message(call_id: str, parts: list[Part], is_error: bool = False) -> Message:
    return {"role": "tool", "content": parts, "tool_call_id": call_id, "is_error": is_error}


def _has_calls(turn: Message) -> bool:
    return bool(turn.get("tool_calls") or turn.get("unparsed_calls"))


def _is_answer(turn: Message, calls: Sequence[ToolCall]) -> bool:
    """Tell whether a turn without calls is the answer that smolagents lists as a call."""
    answers = [str(c["arguments"].get("answer")) for c in calls if c["name"] == FINAL_ANSWER]
    return len(calls) == len(answers) == 1 and answers[0] in text_of(turn)


def _images_first(parts: list[Part]) -> list[Part]:
    """A task as protocols open it, the images first; other messages stay as they are."""
    if not parts or not _text_in(parts[0]).startswith(_TASK):
        return parts
    return [*parts[1:], text(_text_in(parts[0]).removeprefix(_TASK))]


def _parse_listed_calls(words: str) -> list[ToolCall]:
    """The calls that smolagents lists after a turn; none if they are not such as protocols have."""
    try:
        listed = ast.literal_eval(words.removeprefix(_CALLS))
        calls = [
            ToolCall(
                name=call["function"]["name"],
                arguments=arguments_object(call["function"]["arguments"]),  # type: ignore[typeddict-item]
                id=call["id"],
            )
            for call in listed
        ]
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        return []
    return calls if all(isinstance(call["arguments"], dict) for call in calls) else []
