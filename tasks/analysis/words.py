"""The lens' top words at low-entropy and high-entropy tokens: the base's, and each system's."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from visreplay.replay_core import LensComparison
from visreplay.replay_core.analysis import entropy_groups

ENDS = {"lowest": 0, "highest": -1}
"""The groups by base entropy whose words are counted, and their places among all groups."""

MAX_LAYERS = 6
"""The number of layers, evenly spread with the first and the last, whose words are counted."""

MAX_WORDS = 20
"""The number of words, and of changed words, that a summary keeps."""

Pairs = list[list[int]]
"""Entries of the vocabulary: [the base's, the system's, number of tokens]."""


def count_words(parts: Sequence[LensComparison], groups: int) -> dict[str, dict[str, Pairs]]:
    """Count the pairs of most probable entries, by layer and group.

    Args:
        parts: The comparison `(L, T)` of each visual block, or of other sets of positions. Groups
            are formed within each.
        groups: Number of groups by base entropy.
    """
    depth = len(parts[0].kl)
    layers = torch.linspace(0, depth - 1, min(depth, MAX_LAYERS)).round().int().tolist()
    grouped = [(part, entropy_groups(part.base_entropy, groups)) for part in parts]
    result: dict[str, dict[str, Pairs]] = {}
    for layer in layers:
        result[str(layer)] = {}
        for name, place in ENDS.items():
            counts: Counter[tuple[int, int]] = Counter()
            for part, group_LT in grouped:
                member_T = group_LT[layer] == place % groups
                base, top = part.base_top[layer][member_T], part.top[layer][member_T]
                counts.update(zip(base.tolist(), top.tolist(), strict=True))
            result[str(layer)][name] = [[*pair, n] for pair, n in counts.most_common()]
    return result


def summarise_words(
    samples: Sequence[Mapping[str, Mapping[str, Mapping[str, Pairs]]]],
    decode: Callable[[int], str],
) -> dict[str, Any]:
    """Sum the counts of all samples, and write the entries out.

    Args:
        samples: For each sample and system, the counts of `count_words`.
        decode: Maps an entry of the vocabulary to its text.

    Returns:
        By layer and group: the number of tokens; the base's most frequent words and the systems'
        (`words`: text and number of tokens); and where a system's word is not the base's, the most
        frequent changes (`changed`: base's text, system's text, number of tokens, of samples) with
        the number of all of them.
    """
    summary: dict[str, Any] = {}
    systems = list(samples[0])
    for layer, ends in samples[0][systems[0]].items():
        summary[layer] = {}
        for end in ends:
            counted: dict[str, Any] = {}
            for system in systems:
                tokens: Counter[tuple[int, int]] = Counter()
                spread: Counter[tuple[int, int]] = Counter()
                for sample in samples:
                    for base, top, n in sample[system][layer][end]:
                        tokens[base, top] += n
                        spread[base, top] += 1
                changes = Counter({pair: n for pair, n in tokens.items() if pair[0] != pair[1]})
                counted[system] = {
                    "words": _most(_sums(tokens, 1), decode),
                    "changed_tokens": changes.total(),
                    "changed": [
                        [decode(base), decode(top), n, spread[base, top]]
                        for (base, top), n in changes.most_common(MAX_WORDS)
                    ],
                }
            summary[layer][end] = {
                "tokens": tokens.total(),
                "base": _most(_sums(tokens, 0), decode),
                "systems": counted,
            }
    return summary


def visible(text: str) -> str:
    r"""Make every character of a token visible: spaces as "␣", the unprintable as escapes.

    Examples:
        >>> visible(" red\n")
        '␣red\\n'
    """
    return "".join(
        "␣" if char == " " else char if char.isprintable() and char != "\\" else _escape(char)
        for char in text
    )


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def token_text(tokenizer: Any, entry: int) -> str:
    """Write an entry of the vocabulary so that it can be read, whatever it holds.

    A token that is a part of a character only, or is beyond the tokenizer, is written as its
    number.
    """
    text = tokenizer.decode([entry])
    return f"<token {entry}>" if not text or "\ufffd" in text else visible(text)


def _sums(pairs: Counter[tuple[int, int]], side: int) -> Counter[int]:
    """Sum the counts of pairs by one side of the pair."""
    sums: Counter[int] = Counter()
    for pair, n in pairs.items():
        sums[pair[side]] += n
    return sums


def _most(counts: Counter[int], decode: Callable[[int], str]) -> list[list[Any]]:
    return [[decode(entry), n] for entry, n in counts.most_common(MAX_WORDS)]
