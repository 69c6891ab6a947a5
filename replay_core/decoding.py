"""The settings of decoding, and whose value counts where several set one. Imports no torch."""

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from math import inf
from numbers import Real
from typing import Any, TypedDict

from visreplay.replay_core.errors import ConfigError

logger = logging.getLogger(__name__)

GREEDY_BELOW = 1e-5
"""Temperatures below it take the most probable token: a division by less overflows."""

NEUTRAL: Mapping[str, Any] = {
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 0,
    "repetition_penalty": 1.0,
}
"""The settings where nobody sets any: greedy, and nothing else."""

_UNUSED_IN_SAMPLING: Mapping[str, Any] = {
    "min_p": 0,
    "top_h": None,
    "typical_p": 1,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
}
_UNUSED: Mapping[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "guidance_scale": 1,
    "encoder_repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "diversity_penalty": 0,
    "penalty_alpha": 0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "bad_words_ids": [],
    "force_words_ids": [],
    "constraints": [],
    "sequence_bias": {},
    "stop_strings": [],
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "watermarking_config": None,
    "dola_layers": None,
    "max_time": None,
    "token_healing": False,
}
"""What else a `generation_config.json` may set that changes the text, by its neutral values: some
of it only where tokens are drawn. How long a turn may be is for the caller to say."""


class Decoding(TypedDict, total=False):
    """The settings of decoding, which every method that lets the policy write takes.

    A setting that is left out or None is the checkpoint's (`checkpoint_decoding`), and neutral if
    the checkpoint has none; `resolved` says how the two go together.

    Attributes:
        stop_strings: Texts that end the generation as soon as they are complete; they are kept.
        temperature: Divisor of the logits; 0 takes the most probable token.
        top_p: Draw from the most probable tokens alone, as many as together reach this share of
            the probability, in (0, 1]; 1 draws from all.
        top_k: Draw from this many most probable tokens alone; 0 draws from all. Tokens as
            probable as the last one that `top_k` or `top_p` keeps are kept as well.
        repetition_penalty: Divisor of the positive logits, and factor of the negative ones, of
            every token that the context holds, placeholders of visual tokens included; 1 changes
            nothing. It counts for greedy decoding too, as in `generate` of transformers.
        seed: Seed of the sampler; None takes torch's global generator.
    """

    stop_strings: Sequence[str]
    temperature: float | None
    top_p: float | None
    top_k: int | None
    repetition_penalty: float | None
    seed: int | None


def checkpoint_decoding(generation_config: Any) -> dict[str, Any]:
    """Read the settings that a checkpoint's `generation_config.json` sets.

    Temperature, top-p and top-k count only beside `do_sample`, as in transformers; with it a
    missing temperature is 1. The `top_k` of 50 that transformers takes where nothing is set is not
    the checkpoint's, and does not count. A value that is out of range is left out, with a warning:
    whoever loads the checkpoint did not write it. One more warning names the settings that would
    change the text in transformers, and are not used here.

    Args:
        generation_config: A `GenerationConfig` of transformers.

    Returns:
        Those of `temperature`, `top_p`, `top_k` and `repetition_penalty` that are set.
    """
    sampled = bool(generation_config.do_sample)
    names = [*(("temperature", "top_p", "top_k") if sampled else ()), "repetition_penalty"]
    values = {name: getattr(generation_config, name, None) for name in names}
    if sampled and values["temperature"] is None:
        values["temperature"] = 1.0
    _warn_of_unused(generation_config, {**_UNUSED_IN_SAMPLING, **_UNUSED} if sampled else _UNUSED)
    usable = {}
    for name, value in values.items():
        try:
            check_decoding(**{name: value})
        except ConfigError as error:
            _warn_once(f"generation_config.json: {error}; it is left out")
        else:
            usable[name] = value
    return {name: value for name, value in usable.items() if value is not None}


def _warn_of_unused(generation_config: Any, neutral: Mapping[str, Any]) -> None:
    names = [
        name
        for name, nothing in neutral.items()
        if getattr(generation_config, name, None) not in (None, nothing)
    ]
    if names:
        _warn_once(
            f"generation_config.json sets {', '.join(names)}, but of its settings only "
            f"{', '.join(NEUTRAL)} are used; give other values for these if the text suffers"
        )


@cache
def _warn_once(text: str) -> None:
    logger.warning(text)


def resolved(*settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in every setting of decoding: the first mapping that sets one decides.

    `top_p` and `top_k` are chosen for a temperature. So a mapping that has a temperature is asked
    for them only if its temperature counts. Qwen2.5-VL's file, for example, is greedy by a `top_k`
    of 1: a caller who sets a temperature wants to sample, and gets all tokens.

    Args:
        *settings: For example the caller's and the checkpoint's; None is not set.

    Returns:
        Everything that is set, with neutral values for the rest.
    """
    values: dict[str, Any] = {}
    for each in settings:
        new = {name: value for name, value in each.items() if value is not None}
        if "temperature" in values and "temperature" in new:
            new = {name: new[name] for name in new.keys() - {"top_p", "top_k"}}
        values = {**new, **values}
    return {**NEUTRAL, **values}


def is_greedy(temperature: float, top_k: int) -> bool:
    """Tell whether the most probable token is taken, whatever the seed."""
    return temperature < GREEDY_BELOW or top_k == 1


def check_decoding(
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    repetition_penalty: float | None = None,
) -> None:
    """Refuse settings that are out of range, or no numbers; None is not set.

    Raises:
        ConfigError: a setting is out of range.
    """
    if temperature is not None and not (isinstance(temperature, Real) and 0 <= temperature < inf):
        raise ConfigError(
            f"temperature is {temperature!r}, but must be 0 (greedy) or more, and finite"
        )
    if top_p is not None and not (isinstance(top_p, Real) and 0 < top_p <= 1):
        raise ConfigError(f"top_p is {top_p!r}, but must lie in (0, 1]")
    if top_k is not None and not (isinstance(top_k, int) and top_k >= 0):
        raise ConfigError(f"top_k is {top_k!r}, but must be a whole number, 0 (all tokens) or more")
    penalty = repetition_penalty
    if penalty is not None and not (isinstance(penalty, Real) and 0 < penalty < inf):
        raise ConfigError(
            f"repetition_penalty is {penalty!r}, but must be above 0 and finite; 1 is none"
        )
