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

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not self.temperature >= 0:
            raise ValueError(f"temperature is {self.temperature}, but must be 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, but must lie in (0, 1]")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}, but must be at least 1")


SAMPLING_FIELDS = tuple(field.name for field in fields(Sampling))
"""The names of the settings, for doors that take each of them as an option."""
