"""The tokens of earlier turns, for clients whose messages have no place for them."""

import hashlib
import json
import threading
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from cachetools import LRUCache

from visreplay.agent.messages import Message, text_of


class TurnMemory:
    """The tokens of turns, by the conversation that they answer and by what they say.

    With its tokens, a turn that a client sends back goes into the context as it was generated, and
    the session that has read it is found. Whether the tokens say what the message says is checked
    where they are used (`ChatRenderer`). It may be used from several threads.

    Args:
        max_tokens: Limit of all turns together, each of which counts 64 tokens more than it has;
            the least recently used go first.
    """

    def __init__(self, max_tokens: int = 1_000_000) -> None:
        self._turns: LRUCache[bytes, array[int]] = LRUCache(max_tokens, getsizeof=_size)
        self._lock = threading.Lock()

    def keep(self, conversation: bytes, message: Message, token_ids: Sequence[int]) -> None:
        """Remember a turn; one that is longer than the limit is not kept.

        Args:
            conversation: The digest of what it answers, as `recall` returns it.
            message: The turn as an assistant message.
            token_ids: Its tokens.
        """
        if _size(token_ids) <= self._turns.maxsize:
            with self._lock:
                self._turns[_extend(conversation, message)] = array("q", token_ids)

    def token_ids(self, conversation: bytes, message: Message) -> list[int] | None:
        """The tokens of a turn; None if they are not known."""
        return self._recall(_extend(conversation, message))

    def recall(self, settings: Any, messages: Iterable[Message]) -> bytes:
        """Give assistant messages the tokens that they were generated as, where they are known.

        Args:
            settings: What the turns depend on besides (model, replay, tools), as JSON values.
            messages: The conversation. Its assistant messages gain `token_ids` in place.

        Returns:
            A digest of the whole conversation.
        """
        conversation = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()
        for message in messages:
            conversation = _extend(conversation, message)
            if message["role"] == "assistant":
                token_ids = self._recall(conversation)
                if token_ids is not None:
                    message["token_ids"] = token_ids
        return conversation

    def _recall(self, key: bytes) -> list[int] | None:
        with self._lock:
            token_ids = self._turns.get(key)
        return None if token_ids is None else token_ids.tolist()


def _size(token_ids: Sequence[int]) -> int:
    """The size of a turn in the memory; short ones take memory for their keys alone."""
    return len(token_ids) + 64


def _extend(conversation: bytes, message: Message) -> bytes:
    """The digest of a conversation that goes on with a message."""
    content: list[Any] = [message["role"], message["content"], message.get("tool_call_id")]
    if message["role"] == "assistant":  # the ids of its calls are the client's to choose
        calls = [[call["name"], call["arguments"]] for call in message.get("tool_calls", ())]
        content = [message["role"], text_of(message), calls]
    spelled = json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(conversation + spelled).digest()
