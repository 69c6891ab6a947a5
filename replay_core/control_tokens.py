"""Control tokens: those that end a turn, open one, or stand for an image.

Texts of callers, tools and models may spell them out. They are broken up before a text is
tokenized: it would otherwise end a turn, or add an image that is not there.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self


def special_token_ids(tokenizer: Any) -> frozenset[int]:
    """List the ids of all special tokens.

    `tokenizer_config.json` need not name them all: what counts is what the tokenizer itself holds.

    Args:
        tokenizer: A tokenizer of transformers.
    """
    held = {token_id for token_id, token in _added(tokenizer).items() if token.special}
    return frozenset({*held, *tokenizer.all_special_ids})


@dataclass(frozen=True)
class ControlTokens:
    """The tokens that a text must not spell out.

    Attributes:
        tokens: The special tokens of the tokenizer, and what the processor puts images and videos
            in the place of.
        normalizer: How the tokenizer normalizes a text; None if it does not.
        normalized: Those of the tokens that it looks for in the normalized text, as they are there.
    """

    tokens: frozenset[str]
    normalizer: Any = None
    normalized: frozenset[str] = frozenset()

    @classmethod
    def of(cls, processor: Any) -> Self:
        """Collect the control tokens of a processor.

        Args:
            processor: A processor of transformers, with its `tokenizer`.
        """
        tokenizer = processor.tokenizer
        added = _added(tokenizer)
        tokens = {token.content for token in added.values() if token.special}
        tokens.update(map(str, tokenizer.all_special_tokens))
        for name, value in vars(processor).items():
            if name.endswith("_token") and isinstance(value, str):
                tokens.add(value)
            elif name.endswith("_token_id") and isinstance(value, int) and value in added:
                tokens.add(added[value].content)
        spelled = frozenset(token for token in tokens if token.strip())
        normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
        normalized = spelled & {token.content for token in added.values() if token.normalized}
        if normalizer is None or not normalized:
            return cls(spelled)
        return cls(spelled, normalizer, frozenset(map(normalizer.normalize_str, normalized)))

    def broken_in(self, texts: Sequence[str]) -> list[str]:
        """Break every control token that texts spell out.

        Args:
            texts: Texts that may come to stand one after the other.
        """
        broken = break_up(texts, self.tokens)
        if not self.normalized:
            return broken
        plain = [self.normalizer.normalize_str(text) for text in broken]
        again = break_up(plain, self.normalized)
        return broken if again == plain else again


def break_up(texts: Sequence[str], tokens: Collection[str]) -> list[str]:
    """Break some words by a space after their first character.

    Args:
        texts: Texts that may come to stand one after the other: a word that begins in one of them
            and ends in another one is broken too.
        tokens: The words; one of a single character is replaced by a space.
    """
    whole = "".join(texts)
    longest_first = sorted(filter(None, tokens), key=len, reverse=True)
    if not any(token in whole for token in longest_first):
        return list(texts)
    # Looked for at each place, since two words may overlap.
    pattern = re.compile(f"(?=({'|'.join(map(re.escape, longest_first))}))")
    ends = list(accumulate(map(len, texts)))
    broken = [list(text) for text in texts]
    for mark in pattern.finditer(whole):
        number = bisect_right(ends, mark.start())
        at = mark.start() - (ends[number - 1] if number else 0)
        broken[number][at] = " " if len(mark[1]) == 1 else f"{whole[mark.start()]} "
    return ["".join(characters) for characters in broken]


def _added(tokenizer: Any) -> dict[int, Any]:
    """The tokens that were added to a tokenizer's vocabulary, by their ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    added: dict[int, Any] = (
        tokenizer.added_tokens_decoder if backend is None else backend.get_added_tokens_decoder()
    )
    return added
