"""Tokens to text, one at a time."""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from tokenizers.decoders import DecodeStream

_MOST_HELD = 16
"""Tokens without text that are waited for: more than a few are broken, as a character has at most
four bytes."""

_UNFINISHED = 3
"""Tokens at the end that may still become a character: it lacks one byte at least."""


class TextStream:
    """Decode a turn as its tokens come: together, what is returned is the text of the whole.

    Special tokens are left out. Each token costs the same, however many were before it. What is
    returned is never taken back: of a tokenizer with byte fallback, a run of bytes that breaks off
    in the middle of a character loses its other characters too, but only in the text of the whole.

    Args:
        tokenizer: A tokenizer of transformers, in Rust or in Python.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._new_stream: Callable[[list[int]], Any]
        if backend is None:
            self._tokenizer, self._new_stream = tokenizer, _PythonDecodeStream
            self._special = set(tokenizer.all_special_ids)
        else:
            self._tokenizer, self._new_stream = backend, _rust_stream
            added = backend.get_added_tokens_decoder()
            self._special = {token_id for token_id, token in added.items() if token.special}
        self._lengths = [0]  # characters of the text after so many tokens
        self._last = 0  # the number of the last token that was not special
        self._context: list[int] = []  # tokens of the last text: spaces may depend on them
        self._restart()

    def push(self, token_id: int) -> str:
        """Take the next token.

        Returns:
            The text that ends with it; "" in the middle of a character.
        """
        new = ""
        if token_id not in self._special:
            self._last = len(self._lengths)
            new = self._step(token_id)
        self._lengths.append(self._lengths[-1] + len(new))
        return new

    def finish(self) -> str:
        """Return what is left at the end of the turn: a character that lacks bytes, or ""."""
        rest = self._decode(self._held)
        self._restart()
        for number in range(self._last, len(self._lengths)):
            self._lengths[number] += len(rest)
        return rest

    def tokens_in(self, characters: int) -> int:
        """Count the first tokens, special ones too, that spell so many characters."""
        return bisect_left(self._lengths, characters)

    def _restart(self) -> None:
        self._stream: Any = self._new_stream(self._context)
        self._held: list[int] = []  # tokens whose text is not returned yet

    def _step(self, token_id: int) -> str:
        self._held.append(token_id)
        try:
            new: str | None = self._stream.step(self._tokenizer, token_id)
        except Exception:  # tokenizers has no other: the text so far is not a part of the new one
            return self._give_up()
        if new is not None:
            self._context, self._held = self._held, []
            return new
        return self._give_up() if len(self._held) >= _MOST_HELD else ""

    def _give_up(self) -> str:
        """Return the text of broken characters, and go on with what may still be a whole one."""
        held = self._held
        whole = self._decode(held)
        start = len(held)
        for split in range(len(held) - _UNFINISHED, 0, -1):
            if self._decode(held[:split]) + self._decode(held[split:]) == whole:
                start = split
                break
        text = self._decode(held[:start])
        if not text.endswith("\ufffd"):
            self._context = held[:start]
        self._restart()
        return text + "".join(map(self._step, held[start:]))

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


def _rust_stream(context: list[int]) -> DecodeStream:
    return DecodeStream(context, skip_special_tokens=True)


class _PythonDecodeStream:
    """`DecodeStream` for tokenizers that have no counterpart in Rust."""

    def __init__(self, context: list[int]) -> None:
        self._before = context
        self._ids: list[int] = []

    def step(self, tokenizer: Any, token_id: int) -> str | None:
        """Take the next token; returns the new text, or None in the middle of a character."""
        self._ids.append(token_id)
        before, text = (
            tokenizer.decode(ids, skip_special_tokens=True)
            for ids in (self._before, self._before + self._ids)
        )
        if len(text) <= len(before) or text.endswith("\ufffd"):
            return None
        self._before, self._ids = self._ids, []
        new: str = text[len(before) :]
        return new
