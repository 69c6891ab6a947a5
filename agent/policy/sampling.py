"""The settings of decoding. Apart from the policy, so that a command line needs no torch."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Self

from visreplay.replay_core.decoding import check_decoding, is_greedy, resolved

MAX_NEW_TOKENS = 2048
"""Limit of a turn where nobody sets one, in tokens."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """The settings of decoding one turn; None is not set.

    What a caller does not set is the protocol's recipe's, then the checkpoint's, then neutral
    (`resolved`).

    Attributes:
        temperature: Divisor of the logits; 0 decodes greedily.
        top_p: Probability mass of nucleus sampling, in (0, 1]; 1 draws from all tokens.
        top_k: Number of most probable tokens to draw from; 0 draws from all.
        repetition_penalty: Penalty of every token that the context holds, as in transformers; 1 is
            none. It counts for greedy decoding too.
        max_new_tokens: Largest number of tokens of one turn.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_decoding(self.temperature, self.top_p, self.top_k, self.repetition_penalty)
        if self.max_new_tokens is not None and not self.max_new_tokens >= 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}, but must be at least 1")

    def filled(self, *others: Self) -> Self:
        """Take every setting that is not set here from the first of the others that sets it."""
        values = asdict(self)
        for other in others:
            for name, value in asdict(other).items():
                if values[name] is None:
                    values[name] = value
        return type(self)(**values)

    def resolved(self, *published: Self) -> Self:
        """Fill in every setting: from what is published, then with neutral values.

        Where a temperature is set here, a published `top_p` and `top_k` that go with another
        temperature do not count (`visreplay.replay_core.decoding.resolved`).

        Args:
            *published: The recipe's settings, then the checkpoint's.
        """
        neutral = type(self)(max_new_tokens=MAX_NEW_TOKENS)
        return type(self)(**resolved(*map(asdict, (self, *published, neutral))))

    @property
    def greedy(self) -> bool:
        """Tell whether all rollouts are the same. Settings that are not set count as neutral."""
        return is_greedy(self.temperature or 0.0, self.top_k or 0)


SAMPLING_FIELDS = tuple(field.name for field in fields(Sampling))
"""The names of the settings, for doors that take each of them as an option."""


def requested(own: Sampling, recipe: Sampling) -> Sampling:
    """Fill in the settings that a request names; the endpoint decides on the others.

    Greedy decoding and a limit of tokens are always named. A `top_p` or `top_k` of the recipe does
    not count if its temperature does not (`Sampling.resolved`).

    Args:
        own: The caller's settings.
        recipe: Those of the protocol's recipe.
    """
    if own.temperature is not None and recipe.temperature is not None:
        recipe = replace(recipe, top_p=None, top_k=None)
    return own.filled(recipe, Sampling(temperature=0.0, max_new_tokens=MAX_NEW_TOKENS))
