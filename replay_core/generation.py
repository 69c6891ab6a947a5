"""From logits to tokens: sampling, and when to stop."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from visreplay.replay_core.errors import ConfigError

FinishReason = Literal["stop", "length"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How probable the policy held a token to be, before temperature and top-p.

    Attributes:
        token_id: The token.
        logprob: In nats.
        top: The most probable tokens at its place, with theirs.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Generation:
    """What the policy wrote.

    Attributes:
        token_ids: The generated tokens, with the end-of-turn token if there is one.
        text: The same, decoded without special tokens.
        finish_reason: "stop" at an end-of-turn token or a stop string (which is kept), "length"
            when `max_new_tokens` or the model's positions were used up.
        logprobs: Of every token, where they were asked for.
    """

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] = ()


GREEDY_BELOW = 1e-5
"""Temperatures below it take the most probable token: by less, logits overflow."""


class Sampler:
    """Draws tokens: greedily at temperature 0, else by temperature and top-p."""

    def __init__(
        self, temperature: float = 0.0, top_p: float = 1.0, seed: int | None = None
    ) -> None:
        """Prepare to draw.

        Args:
            temperature: Divides the logits; 0, or nearly so, takes the most probable token.
            top_p: Share of the probability that the tokens to draw from must reach together.
            seed: Makes the draws repeatable; None takes torch's global generator.

        Raises:
            ConfigError: a negative temperature, or top_p outside (0, 1].
        """
        if temperature < 0:
            raise ConfigError(f"temperature is {temperature}, but must be 0 (greedy) or more")
        if not 0 < top_p <= 1:
            raise ConfigError(f"top_p is {top_p}, but must lie in (0, 1]")
        self._warpers: list[Any] = []
        if temperature >= GREEDY_BELOW:
            self._warpers.append(TemperatureLogitsWarper(float(temperature)))
            if top_p < 1:
                self._warpers.append(TopPLogitsWarper(top_p))
        # Draws are made on the CPU, so that a seed means the same on every device.
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __call__(self, logits_V: Tensor) -> int:
        """The next token."""
        if not self._warpers:
            return int(logits_V.argmax())
        scores_1V = logits_V[None].float().cpu()
        for warp in self._warpers:
            scores_1V = warp(None, scores_1V)
        return int(torch.multinomial(scores_1V.softmax(-1), 1, generator=self._generator))


class StopRule:
    """Decides after every token whether the text is at its end."""

    def __init__(self, tokenizer: Any, eos_ids: Sequence[int], stop_strings: Sequence[str]) -> None:
        """Prepare to decide.

        Args:
            tokenizer: Decodes the tail that is searched for stop strings.
            eos_ids: End-of-turn tokens.
            stop_strings: Texts that end the generation as soon as they are complete.

        Raises:
            ConfigError: an empty stop string.
        """
        if "" in stop_strings:
            raise ConfigError("a stop string is empty, and would stop before the first token")
        self._tokenizer = tokenizer
        self._eos_ids = frozenset(eos_ids)
        self._stop_strings = tuple(stop_strings)
        # A token is at least one byte, and a character at most four.
        self._tail = 4 * max(map(len, self._stop_strings), default=0)

    def __call__(self, ids: Sequence[int]) -> bool:
        """Whether the last of these generated tokens is the end."""
        if ids[-1] in self._eos_ids:
            return True
        if not self._stop_strings:
            return False
        tail = self._tokenizer.decode(list(ids[-self._tail :]), skip_special_tokens=False)
        return any(stop in tail for stop in self._stop_strings)


class TokenWriter:
    """One continuation while it is being written.

    Attributes:
        ids: Its tokens so far.
        logprobs: Theirs, where they were asked for.
    """

    def __init__(self, sample: Sampler, ends: StopRule, logprobs: int | None = None) -> None:
        """Start with nothing.

        Args:
            sample: Draws a token.
            ends: Says whether it is the last.
            logprobs: How many of the most probable tokens to keep at each place; None keeps no
                log-probabilities at all.

        Raises:
            ConfigError: `logprobs` is negative.
        """
        if logprobs is not None and logprobs < 0:
            raise ConfigError(f"logprobs is {logprobs}, but must be 0 or more")
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self._sample, self._ends, self._top = sample, ends, logprobs
        self._finish: FinishReason = "length"

    def goes_on(self, limit: int) -> bool:
        """Whether another token follows, of at most `limit`."""
        return self._finish == "length" and len(self.ids) < limit

    def write(self, logits_V: Tensor) -> int:
        """Draw the next token."""
        self.ids.append(self._sample(logits_V))
        if self._top is not None:
            logprob_V = logits_V.float().log_softmax(-1)
            best, ids = logprob_V.topk(min(self._top, len(logprob_V)))
            top = tuple(zip(ids.tolist(), best.tolist(), strict=True))
            self.logprobs.append(TokenLogprob(self.ids[-1], float(logprob_V[self.ids[-1]]), top))
        if self._ends(self.ids):
            self._finish = "stop"
        return self.ids[-1]

    def generation(self, tokenizer: Any) -> Generation:
        """What was written."""
        text = tokenizer.decode(self.ids, skip_special_tokens=True)
        return Generation(tuple(self.ids), text, self._finish, tuple(self.logprobs))


def eos_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The end-of-turn tokens of a model's generation config and of its tokenizer."""
    named = [model.generation_config.eos_token_id, tokenizer.eos_token_id]
    flat = [ids if isinstance(ids, list) else [ids] for ids in named if ids is not None]
    return tuple(sorted({int(token) for ids in flat for token in ids}))


def run_to_end(stream: Generator[Any, None, T]) -> T:
    """What a generator returns at its end."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            value: T = end.value
            return value
