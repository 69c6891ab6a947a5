"""From what an agent of smolagents remembers to the messages that a policy reads in its dialect.

smolagents writes a step as text for any model: what the model said, "Calling tools:" with the same
calls again, images, "Observation:" or "Error:". Here the policy's turn stands as it was generated,
its calls once, and what came of them in the dialect's frame. All of a message is untrusted.
"""

import ast
import re
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from PIL import Image
from smolagents import AgentImage, ChatMessage, MessageRole

from visreplay.agent.chat.renderer import TOKEN_IDS, ChatRenderer, MessageError, image_block
from visreplay.agent.chat.turn_memory import Spoken
from visreplay.tools import ToolError, load_image
from visreplay.tools.media import REFERENCE

FINAL_ANSWER = "final_answer"
"""The tool by which agents of smolagents end."""

# What smolagents puts before the parts of a step, and the dialect says in its own way.
_TASK, _CALLS, _OBSERVATION, _ERROR = (
    "New task:\n",
    "Calling tools:\n",
    "Observation:\n",
    "Error:\n",
)
_CALL_ID = re.compile(r"\ACall id: .*\n")
# The line break is the agent's, who has one line an image; the dialect's frame has its own.
_SHOWN = re.compile(rf"\n?{REFERENCE}([0-9a-f]{{64}})")

Block = dict[str, Any]


class MemoryReader:
    """Reads the messages of agents, one conversation after the other.

    Args:
        interpreter: Of the policy's dialect; it has the image store.
        spoken: What the policy said.
    """

    def __init__(self, interpreter: ChatRenderer, spoken: Spoken) -> None:
        self.interpreter = interpreter
        self.spoken = spoken

    def conversation(self, messages: Sequence[ChatMessage | dict[str, Any]]) -> list[BaseMessage]:
        """The whole history.

        Args:
            messages: As `write_memory_to_messages` has them, or any others of smolagents'.

        Raises:
            MessageError: What is wrong with a message.
        """
        read: list[BaseMessage] = []
        turn: AIMessage | None = None  # whose results may follow
        answered = False  # by that turn, in the dialect's own way, which is no call
        seen: list[Block] = []  # what tools showed, before smolagents tells what they said
        for message in map(_message, messages):
            role, blocks = MessageRole(message.role), self._blocks(message)
            words = "".join(map(_words, blocks))
            if turn and role is MessageRole.USER and blocks and not words:
                seen += blocks
                continue
            if turn and role is MessageRole.TOOL_RESPONSE:
                # What smolagents observes of an answer is the answer.
                if not (answered and words.startswith(_OBSERVATION)):
                    read += self._result(turn, seen, words)
                seen = []
                continue
            if turn and seen:
                read += self._result(turn, seen)
                seen = []
            if role is MessageRole.ASSISTANT:
                turn, answered = self._turn(words), False
                read.append(turn)
            elif role is MessageRole.TOOL_CALL:
                calls = _echoed(words)
                if turn is None or read[-1] is not turn:
                    turn, answered = AIMessage("" if calls else words, tool_calls=calls), False
                    read.append(turn)
                elif not _called(turn):
                    answered = _answered(turn, calls)
                    if not answered and TOKEN_IDS not in turn.additional_kwargs:
                        turn.tool_calls = calls
            else:
                turn = None
                if role is not MessageRole.SYSTEM:
                    read.append(HumanMessage(_asked(blocks)))
                elif words:
                    read.append(SystemMessage(words))
        if turn and seen:
            read += self._result(turn, seen)
        return read

    def _turn(self, written: str) -> AIMessage:
        """A turn of the policy's, with the tokens that it generated if they are known."""
        ids = self.spoken.ids(written)
        if ids is not None:
            written = self.interpreter.tokenizer.decode(ids, skip_special_tokens=True)
        said = self.interpreter.said(written)
        return AIMessage(
            said.content,
            tool_calls=list(said.tool_calls),
            invalid_tool_calls=list(said.invalid_tool_calls),
            additional_kwargs={} if ids is None else {TOKEN_IDS: ids},
        )

    def _result(self, turn: AIMessage, seen: list[Block], words: str = "") -> list[BaseMessage]:
        """What came of a turn: in the frame of tools if it called some, or as smolagents has it."""
        words = _CALL_ID.sub("", words)
        if not _called(turn):
            return [HumanMessage([*seen, *self._with_images(words)])]
        call_id = turn.tool_calls[0]["id"] if turn.tool_calls else ""
        if not words.startswith(_ERROR):
            shown = self._with_images(words.removeprefix(_OBSERVATION))
            return [ToolMessage([*seen, *shown], tool_call_id=call_id)]
        # An error is words alone.
        told = words.removeprefix(_ERROR).strip()
        error = ToolMessage(told, tool_call_id=call_id, status="error")
        return [ToolMessage([*seen], tool_call_id=call_id), error] if seen else [error]

    def _with_images(self, words: str) -> list[Block]:
        """An observation with images where it refers to them."""
        blocks: list[Block] = []
        store = self.interpreter.dialect.store
        for at, piece in enumerate(_SHOWN.split(words)):
            if at % 2 and piece in store:
                blocks.append(dict(image_block(piece)))
            elif piece:
                blocks.append({"type": "text", "text": REFERENCE * (at % 2) + piece})
        return blocks

    def _blocks(self, message: ChatMessage) -> list[Block]:
        content = message.content or []
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        return [self._block(block) for block in content]

    def _block(self, block: Any) -> Block:
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise MessageError(f"{block!r:.80} is no block of a message: it has no type")
        if block["type"] != "image" or not isinstance(block.get("image"), Image.Image):
            return block
        picture = block["image"]
        try:
            raw = picture.to_raw() if isinstance(picture, AgentImage) else picture
            return dict(image_block(self.interpreter.dialect.store.put(load_image(raw))))
        except ToolError as error:
            raise MessageError(str(error)) from error


def _message(message: ChatMessage | dict[str, Any]) -> ChatMessage:
    return ChatMessage.from_dict(message) if isinstance(message, dict) else message


def _words(block: Block) -> str:
    return str(block.get("text", "")) if block["type"] == "text" else ""


def _called(turn: AIMessage) -> bool:
    return bool(turn.tool_calls or turn.invalid_tool_calls)


def _answered(turn: AIMessage, calls: Sequence[ToolCall]) -> bool:
    """Whether a turn without calls is the answer that smolagents lists as a call."""
    answers = [str(c["args"].get("answer")) for c in calls if c["name"] == FINAL_ANSWER]
    return len(calls) == len(answers) == 1 and answers[0] in turn.text


def _asked(blocks: list[Block]) -> list[str | Block]:
    """A task as dialects ask it, the images first; other messages stay as they are."""
    if not blocks or not _words(blocks[0]).startswith(_TASK):
        return list(blocks)
    first = {**blocks[0], "text": blocks[0]["text"].removeprefix(_TASK)}
    return [*blocks[1:], first]


def _echoed(words: str) -> list[ToolCall]:
    """The calls that smolagents lists after a turn; none if they are not such as dialects have."""
    try:
        listed = ast.literal_eval(words.removeprefix(_CALLS))
        calls = [
            ToolCall(
                name=call["function"]["name"], args=call["function"]["arguments"], id=call["id"]
            )
            for call in listed
        ]
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        return []
    return calls if all(isinstance(call["args"], dict) for call in calls) else []
