"""Turn logits into tokens: sampling, and when to stop."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypedDict, TypeVar

import torch
from torch import Tensor
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from visreplay.replay_core.errors import ConfigError

FinishReason = Literal["stop", "length"]

T = TypeVar("T")


class Decoding(TypedDict, total=False):
    """The settings of decoding, which every method that lets the policy write takes.

    Attributes:
        stop_strings: Texts that end the generation as soon as they are complete; they are kept.
        temperature: Divisor of the logits; 0, the default, takes the most probable token.
        top_p: Share of the probability that the tokens to draw from reach together, in (0, 1];
            1 by default. It matters for temperatures above 0 only.
        seed: Seed of the sampler; None, the default, takes torch's global generator.
    """

    stop_strings: Sequence[str]
    temperature: float
    top_p: float
    seed: int | None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log-probability of a token under the policy, before temperature and top-p.

    Attributes:
        token_id: The token.
        logprob: Its log-probability in nats.
        top: The most probable tokens at its place, each with its log-probability.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Generation:
    """The tokens that the policy wrote, and their text.

    Attributes:
        token_ids: The generated tokens, with the end-of-turn token if there is one.
        text: The same, decoded without special tokens.
        finish_reason: "stop" at an end-of-turn token or a stop string (which is kept), "length"
            when `max_new_tokens` or the model's positions were used up.
        logprobs: One entry for every token, if they were requested.
    """

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] = ()


GREEDY_BELOW = 1e-5
"""Temperatures below it take the most probable token: a division by less overflows."""


class Sampler:
    """Draws tokens: greedily at temperature 0, else by temperature and top-p."""

    def __init__(
        self, temperature: float = 0.0, top_p: float = 1.0, seed: int | None = None
    ) -> None:
        """Prepare to draw.

        Args:
            temperature: As in `Decoding`.
            top_p: As in `Decoding`.
            seed: As in `Decoding`.

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
        """Draw the next token."""
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
            tokenizer: Decodes the last tokens, which are searched for stop strings.
            eos_ids: End-of-turn tokens.
            stop_strings: As in `Decoding`.

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
        """Tell whether the last of these generated tokens is the end."""
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
        logprobs: Their log-probabilities, if they were requested.
    """

    def __init__(
        self, sample: Sampler, stops: StopRule, limit: int, logprobs: int | None = None
    ) -> None:
        """Start with nothing.

        Args:
            sample: Draws a token.
            stops: Decides whether it is the last.
            limit: Number of tokens to write at most.
            logprobs: How many of the most probable tokens to keep at each place; None keeps no
                log-probabilities at all.

        Raises:
            ConfigError: `logprobs` is negative.
        """
        if logprobs is not None and logprobs < 0:
            raise ConfigError(f"logprobs is {logprobs}, but must be 0 or more")
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self._sample, self._stops, self._limit, self._top = sample, stops, limit, logprobs
        self._stopped = False

    @classmethod
    def of(
        cls,
        model: Any,
        tokenizer: Any,
        limit: int,
        logprobs: int | None = None,
        *,
        stop_strings: Sequence[str] = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> Self:
        """Start with nothing, by the settings of `Decoding`.

        Args:
            model: The model whose end-of-turn tokens stop it.
            tokenizer: The tokenizer of the model.
            limit: As in the constructor.
            logprobs: As in the constructor.
            stop_strings: As in `Decoding`.
            temperature: As in `Decoding`.
            top_p: As in `Decoding`.
            seed: As in `Decoding`.

        Raises:
            ConfigError: a setting is out of range.
        """
        stops = StopRule(tokenizer, eos_ids(model, tokenizer), stop_strings)
        return cls(Sampler(temperature, top_p, seed), stops, limit, logprobs)

    @property
    def finished(self) -> bool:
        """Tell whether no other token follows."""
        return self._stopped or len(self.ids) >= self._limit

    def write(self, logits_V: Tensor) -> int:
        """Draw the next token."""
        self.ids.append(self._sample(logits_V))
        if self._top is not None:
            logprob_V = logits_V.float().log_softmax(-1)
            best, ids = logprob_V.topk(min(self._top, len(logprob_V)))
            top = tuple(zip(ids.tolist(), best.tolist(), strict=True))
            self.logprobs.append(TokenLogprob(self.ids[-1], float(logprob_V[self.ids[-1]]), top))
        self._stopped = self._stops(self.ids)
        return self.ids[-1]

    def generation(self, tokenizer: Any) -> Generation:
        """Decode the tokens so far."""
        text = tokenizer.decode(self.ids, skip_special_tokens=True)
        reason: FinishReason = "stop" if self._stopped else "length"
        return Generation(tuple(self.ids), text, reason, tuple(self.logprobs))


def eos_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """List the end-of-turn tokens of a model's generation config and of its tokenizer."""
    named = [model.generation_config.eos_token_id, tokenizer.eos_token_id]
    flat = [ids if isinstance(ids, list) else [ids] for ids in named if ids is not None]
    return tuple(sorted({int(token) for ids in flat for token in ids}))


def run_to_end(stream: Generator[Any, None, T]) -> T:
    """Run a generator to its end, and return its value."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            value: T = end.value
            return value
