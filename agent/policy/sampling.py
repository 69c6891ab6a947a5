"""The settings of decoding. Apart from the policy, so that a command line needs no torch."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Sampling:
    """The settings of decoding one turn.

    Attributes:
        temperature: Divisor of the logits; 0 decodes greedily.
        top_p: Probability mass of nucleus sampling, in (0, 1].
        max_new_tokens: Largest number of tokens of one turn.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 2048


SAMPLING_FIELDS = tuple(field.name for field in fields(Sampling))
"""The names of the settings, for doors that take each of them as an option."""
