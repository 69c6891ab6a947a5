"""Turn logits into text: draw tokens, decide when to stop, and keep their log-probabilities."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar, Unpack

from torch import Tensor

from visreplay.replay_core.decoding import Decoding, checkpoint_decoding, resolved
from visreplay.replay_core.errors import ConfigError, LogitsError
from visreplay.replay_core.sampling import Sampler, draw

FinishReason = Literal["stop", "length"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log-probability of a token under the policy, before penalty and temperature.

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


class StopRule:
    """Decides after every token whether the text is at its end.

    Attributes:
        eos_ids: End-of-turn tokens.
        stop_strings: As in `Decoding`.
    """

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
        self.eos_ids = frozenset(eos_ids)
        self.stop_strings = tuple(stop_strings)
        # A token is at least one byte, and a character at most four.
        self._tail = 4 * max(map(len, self.stop_strings), default=0)

    def __call__(self, ids: Sequence[int]) -> bool:
        """Tell whether the last of these generated tokens is the end."""
        if ids[-1] in self.eos_ids:
            return True
        if not self.stop_strings:
            return False
        tail = self._tokenizer.decode(list(ids[-self._tail :]), skip_special_tokens=False)
        return any(stop in tail for stop in self.stop_strings)


class TokenWriter:
    """One continuation while it is being written.

    Attributes:
        ids: Its tokens so far.
        logprobs: Their log-probabilities, if they were requested.
        sampler: How its tokens are drawn.
        stops: Decides which token is the last.
        limit: Number of tokens to write at most.
        top: How many of the most probable tokens to keep at each place; None keeps no
            log-probabilities at all.
    """

    def __init__(
        self, sampler: Sampler, stops: StopRule, limit: int, logprobs: int | None = None
    ) -> None:
        """Start with nothing.

        Args:
            sampler: The attribute, and so are the next two.
            stops: See there.
            limit: See there.
            logprobs: The attribute `top`.

        Raises:
            ConfigError: `logprobs` is negative.
        """
        if logprobs is not None and logprobs < 0:
            raise ConfigError(f"logprobs is {logprobs}, but must be 0 or more")
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.sampler, self.top = sampler, logprobs
        self.stops, self.limit = stops, limit
        self._stopped = False

    @classmethod
    def of(
        cls,
        model: Any,
        tokenizer: Any,
        context_ids: Sequence[int],
        limit: int,
        logprobs: int | None = None,
        **decoding: Unpack[Decoding],
    ) -> Self:
        """Start with nothing, by the settings of `Decoding`.

        Args:
            model: The model that writes; its generation config has the settings that are not set
                here, and the end-of-turn tokens.
            tokenizer: The tokenizer of the model.
            context_ids: The tokens that are continued.
            limit: As in the constructor.
            logprobs: As in the constructor.
            **decoding: The settings.

        Raises:
            ConfigError: a setting is out of range.
        """
        stop_strings = decoding.pop("stop_strings", ())
        seed = decoding.pop("seed", None)
        settings = resolved(decoding, checkpoint_decoding(model.generation_config))
        sampler = Sampler(**settings, seed=seed, context_ids=context_ids)
        stops = StopRule(tokenizer, eos_ids(model, tokenizer), stop_strings)
        return cls(sampler, stops, limit, logprobs)

    @property
    def finished(self) -> bool:
        """Tell whether no other token follows."""
        return self._stopped or len(self.ids) >= self.limit

    def write(self, logits_V: Tensor) -> int:
        """Draw the next token.

        Raises:
            LogitsError: the logits are no numbers.
        """
        (error,) = write_tokens([self], logits_V[None])
        if error is not None:
            raise error
        return self.ids[-1]

    def add(self, token_id: int, logprob: TokenLogprob | None) -> None:
        """Add a token that was drawn."""
        self.ids.append(token_id)
        self.sampler.add(token_id)
        if logprob is not None:
            self.logprobs.append(logprob)
        self._stopped = self.stops(self.ids)

    def generation(self, tokenizer: Any) -> Generation:
        """Decode the tokens so far."""
        text = tokenizer.decode(self.ids, skip_special_tokens=True)
        reason: FinishReason = "stop" if self._stopped else "length"
        return Generation(tuple(self.ids), text, reason, tuple(self.logprobs))


def write_tokens(writers: Sequence[TokenWriter], logits_KV: Tensor) -> list[Exception | None]:
    """Draw the next token of each continuation, all of them at once.

    Args:
        writers: The continuations.
        logits_KV: Logits of their next tokens.

    Returns:
        What went wrong in each continuation, which has no new token then; None if nothing did.
    """
    drawn = draw(logits_KV, [writer.sampler for writer in writers])
    logprobs = _logprobs(writers, logits_KV, [token_id or 0 for token_id in drawn])
    errors: list[Exception | None] = []
    for writer, token_id, logprob in zip(writers, drawn, logprobs, strict=True):
        try:
            if token_id is None:
                raise LogitsError(
                    "the policy's logits are no numbers (NaN, or infinite), so that no token can "
                    "be drawn: load it with another dtype, or replay with smaller steps"
                )
            writer.add(token_id, logprob)
            errors.append(None)
        except Exception as error:  # the continuation's own: the others go on
            errors.append(error)
    return errors


def _logprobs(
    writers: Sequence[TokenWriter], logits_KV: Tensor, token_ids: Sequence[int]
) -> list[TokenLogprob | None]:
    """Compute the log-probabilities of new tokens, for the continuations that keep them."""
    logprobs: list[TokenLogprob | None] = [None] * len(writers)
    for row, (writer, token_id) in enumerate(zip(writers, token_ids, strict=True)):
        if writer.top is not None:
            logprob_V = logits_KV[row].float().log_softmax(-1)
            best, ids = logprob_V.topk(min(writer.top, len(logprob_V)))
            top = tuple(zip(ids.tolist(), best.tolist(), strict=True))
            logprobs[row] = TokenLogprob(token_id, float(logprob_V[token_id]), top)
    return logprobs


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
