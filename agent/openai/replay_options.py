"""The settings of replay that a request may change, within bounds."""

from dataclasses import asdict, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from visreplay.replay_core import ConfigError, ReplayConfig
from visreplay.tools.types import preview

KEPT_FROM_CALLERS = {
    "theta": "measured for the served pair, and as long as a caller likes",
    "swap_roles": "a model of its own: `base`",
    "recompute_activations": "the server's memory",
    "memory_bytes": "the server's memory",
    "query_chunk": "the server's memory",
}
"""Fields of `ReplayConfig` that no request may set, with the reason."""

SETTINGS = tuple(
    field.name for field in fields(ReplayConfig) if field.name not in KEPT_FROM_CALLERS
)
"""Fields that a request may set."""

MAX_TOP_K = 200
"""Most entries of the base's vocabulary, which take memory."""

MAX_STEPS = 100
"""Most gradient steps of token replay, which take time."""

MAX_RATE = 1000.0
"""Highest learning rate: by far too high, but nothing overflows."""

_CONFIG = TypeAdapter(ReplayConfig)


def replay_config(default: ReplayConfig, changes: dict[str, Any]) -> ReplayConfig:
    """Apply the changes of a request to the server's replay.

    Args:
        default: The server's replay.
        changes: The fields of the request.

    Raises:
        ConfigError: There is no such setting for requests, or its value is out of range.
    """
    for name in changes:
        if name not in SETTINGS:
            raise ConfigError(
                f"replay has no setting {preview(name)}; there are {', '.join(SETTINGS)}"
            )
    try:
        config = _CONFIG.validate_python({**asdict(default), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("replay", *first["loc"])))
        raise ConfigError(f"{where}: {first['msg']}") from error
    for name, most in (("steps", MAX_STEPS), ("top_k", MAX_TOP_K)):
        if getattr(config, name) > most:
            raise ConfigError(
                f"replay.{name} is {getattr(config, name)}, but may be {most} at most"
            )
    if config.rate > MAX_RATE:
        raise ConfigError(f"replay.learning_rate is {config.rate}, but may be {MAX_RATE:g} at most")
    return config
