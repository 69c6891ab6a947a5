"""The tokens of earlier turns, for clients whose messages have no place for them."""

import hashlib
import json
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ToolMessage,
)

from visreplay.agent.chat.renderer import TOKEN_IDS


class TurnMemory:
    """The tokens of turns, by the conversation that they answered and what was said in them.

    OpenAI's messages have no place for tokens. With these, what a client sends back goes into the
    context as it was generated, and the session that has read it is found. Whether tokens say what
    the message says is checked where they are used (`Interpreter`).

    Args:
        max_tokens: Of all turns together; those that were not used for longest go first.
    """

    def __init__(self, max_tokens: int = 1_000_000) -> None:
        self.max_tokens = max_tokens
        self._turns: OrderedDict[bytes, array[int]] = OrderedDict()
        self._tokens = 0
        self._lock = threading.Lock()

    def keep(self, conversation: bytes, said: AIMessage, ids: Sequence[int]) -> None:
        """Remember a turn.

        Args:
            conversation: What it answered, as `recall` gives it.
            said: What it says.
            ids: Its tokens.
        """
        key = _after(conversation, said)
        with self._lock:
            self._tokens += len(ids) - len(self._turns.pop(key, ()))
            self._turns[key] = array("q", ids)
            while self._tokens > self.max_tokens:
                self._tokens -= len(self._turns.popitem(last=False)[1])

    def recall(self, asked: Any, messages: Iterable[BaseMessage]) -> bytes:
        """Give messages of the policy's the tokens that they were generated as, where known.

        Args:
            asked: What else the policy's words depend on: model, settings, tools.
            messages: The conversation.

        Returns:
            A digest of the whole conversation.
        """
        conversation = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).digest()
        for message in messages:
            conversation = _after(conversation, message)
            if isinstance(message, AIMessage):
                with self._lock:
                    ids = self._turns.get(conversation)
                    if ids is not None:
                        self._turns.move_to_end(conversation)
                        message.additional_kwargs[TOKEN_IDS] = ids.tolist()
        return conversation


def _after(conversation: bytes, message: BaseMessage) -> bytes:
    """The digest of a conversation that goes on with a message."""
    told: list[Any] = [message.type, message.content]
    match message:
        case AIMessage():  # whatever form its text has, and the ids of its calls
            calls = [[call["name"], call["args"]] for call in message.tool_calls]
            told = [message.type, message.text, calls]
        case ToolMessage():
            told.append(message.tool_call_id)
    spelled = json.dumps(told, sort_keys=True).encode()
    return hashlib.sha256(conversation + spelled).digest()


class Spoken:
    """What the policy said lately, and the tokens that it generated for it.

    smolagents keeps a turn as text alone, without the white space around it.

    Args:
        most: Turns that are kept; the least recently used go first. A turn that is forgotten is
            read as text: it costs its own tokens again.
    """

    def __init__(self, most: int = 1000) -> None:
        self.most = most
        self._ids: OrderedDict[str, list[int]] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, written: str, ids: Sequence[int]) -> None:
        """Keep the tokens of a turn."""
        with self._lock:
            self._ids[written.strip()] = list(ids)
            self._ids.move_to_end(written.strip())
            while len(self._ids) > self.most:
                self._ids.popitem(last=False)

    def ids(self, written: str) -> list[int] | None:
        """The tokens of a turn; None if it is not known."""
        with self._lock:
            ids = self._ids.get(written.strip())
            if ids is not None:
                self._ids.move_to_end(written.strip())
            return ids
