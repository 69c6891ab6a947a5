"""Model arguments, and the part of Inspect's generation options that a policy under replay has."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from inspect import signature
from typing import Any, TypeVar

from inspect_ai.model import GenerateConfig
from pydantic import TypeAdapter, ValidationError

from visreplay.agent.episode.visual_agent import VisualAgent
from visreplay.agent.policy.sampling import Sampling
from visreplay.replay_core import ConfigError, Method, ReplayConfig, load_theta
from visreplay.replay_core.embedded_pair import EMBEDDED_PAIRS
from visreplay.replay_core.tuned import tuned_config
from visreplay.tools.types import preview

S = TypeVar("S")

REPLAY = tuple(field.name for field in fields(ReplayConfig))
"""Model arguments that are settings of replay."""

LOADING = tuple(
    name
    for name, parameter in signature(VisualAgent.from_pretrained).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD and name not in ("policy", "replay", "store")
)
"""Model arguments that say how the pair is loaded, and in which protocol it answers."""

PENALTY = "repetition_penalty"
"""The setting of `Sampling` that Inspect has no option for: a model argument."""

CACHE = "cache_bytes"
"""The model argument that limits the memory of what was read."""

SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_tokens": "max_new_tokens",
}
"""Options of Inspect, and the settings of `Sampling` that they are."""

EPISODE_OPTIONS = frozenset({*SAMPLING, "seed"})
"""Options of Inspect that an episode has."""

TURN_OPTIONS = EPISODE_OPTIONS | {
    *("stop_seqs", "num_choices", "logprobs", "top_logprobs", "parallel_tool_calls"),
}
"""Options of Inspect that a single turn has."""

_INSPECTS_OWN = frozenset(
    {
        *("max_retries", "timeout", "attempt_timeout", "stream_idle_timeout", "max_connections"),
        *("adaptive_connections", "system_message", "internal_tools", "max_tool_output", "cache"),
        *("cache_prompt", "fail_on_refusal", "reasoning_history"),
    }
)
"""Options that Inspect carries out itself, or that change nothing here."""


def check_names(given: Collection[str], known: Collection[str], what: str, more: str = "") -> None:
    """Refuse a name that there is not.

    Args:
        given: The names.
        known: Those that there are.
        what: The word for what they name.
        more: A further way out.

    Raises:
        ConfigError: There is no such name.
    """
    for name in given:
        if name not in known:
            raise ConfigError(
                f"there is no {what} {preview(name)}; there are {', '.join(known)}{more}"
            )


def checked(kind: type[S], values: Mapping[str, Any]) -> S:
    """Build settings from values of any type, as a command line gives them.

    Args:
        kind: The class of the settings.
        values: Its fields.

    Raises:
        ConfigError: A value has another type, or is out of range.
    """
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(next(iter(first["loc"]), ""))
        if not name:
            raise ConfigError(first["msg"].removeprefix("Value error, ")) from error
        raise ConfigError(f"{name} is {preview(values.get(name))}: {first['msg']}") from error


def replay_config(policy: str, settings: Mapping[str, Any]) -> ReplayConfig:
    """Complete settings of replay by those of the pair, where it has some of its own.

    Args:
        policy: Name of the policy.
        settings: Fields of `ReplayConfig`; `theta` may be the path of a file that
            `visreplay calibrate` wrote.

    Raises:
        ConfigError: A value is out of range, or two do not go together.
    """
    given = dict(settings)
    tuned = EMBEDDED_PAIRS[policy].settings if policy in EMBEDDED_PAIRS else {}
    default = tuned_config(tuned, given.get("method", Method.TOKEN))
    if isinstance(given.get("theta"), str):
        given["theta"] = load_theta(given["theta"])
    return checked(ReplayConfig, {**asdict(default), **given})


def sampling_of(config: GenerateConfig, known: Collection[str]) -> Sampling:
    """Read how to decode.

    Args:
        config: Inspect's options.
        known: Those of them that are carried out (`TURN_OPTIONS`, `EPISODE_OPTIONS`).

    Raises:
        ConfigError: Another option is set, or a value is out of range.
    """
    values = config.model_dump(exclude_none=True)
    for name, value in values.items():
        # What is false or zero asks for nothing.
        if value and name not in known and name not in _INSPECTS_OWN:
            raise ConfigError(
                f"{name} is {preview(value)}, but a policy under replay has no such option: leave "
                f"it out; there are {', '.join(sorted(known))}"
            )
    return checked(
        Sampling, {ours: values[name] for name, ours in SAMPLING.items() if name in values}
    )
