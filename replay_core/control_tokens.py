"""Control tokens: those that end a turn, open one, or stand for an image.

Texts of callers, tools and models may spell them out. They are broken up before a text is
tokenized: it would otherwise end a turn, or add an image that is not there.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Any


def special_token_ids(tokenizer: Any) -> frozenset[int]:
    """List the ids of all special tokens.

    `tokenizer_config.json` need not name them all: what counts is what the tokenizer itself holds.

    Args:
        tokenizer: A tokenizer of transformers.
    """
    held = {token_id for token_id, token in _added(tokenizer).items() if token.special}
    return frozenset({*held, *tokenizer.all_special_ids})


def control_tokens(processor: Any) -> frozenset[str]:
    """List all tokens that a text must not spell out.

    These are the special tokens of the tokenizer, and what the processor puts images and videos in
    the place of.

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
    return frozenset(token for token in tokens if token.strip())


def without_control_tokens(texts: Sequence[str], processor: Any) -> list[str]:
    """Break every control token that texts spell out.

    Args:
        texts: Texts that may come to stand one after the other.
        processor: As in `control_tokens`.
    """
    tokens = control_tokens(processor)
    broken = break_up(texts, tokens)
    normalized = {
        token.content for token in _added(processor.tokenizer).values() if token.normalized
    }
    normalizer = getattr(
        getattr(processor.tokenizer, "backend_tokenizer", None), "normalizer", None
    )
    if normalizer is None or not normalized & tokens:
        return broken
    # The tokenizer looks for some of them in the text as it normalizes it.
    plain = [normalizer.normalize_str(text) for text in broken]
    spelled = {normalizer.normalize_str(token) for token in normalized & tokens}
    again = break_up(plain, spelled)
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
