"""How callers of the OpenAI-compatible server replay: settings that are theirs, within bounds."""

from dataclasses import asdict, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from visreplay.replay_core import ConfigError, ReplayConfig
from visreplay.tools.types import shown

OWN_RESOURCES = frozenset({"memory_bytes", "query_chunk", "theta"})
"""Settings of replay that are the server's, not a caller's."""

MAX_STEPS = 100
"""Gradient steps of token replay that a caller may ask for, which take their time."""

MAX_RATE = 1000.0
"""The learning rate that he may ask for: by far too much, but no overflow."""

_CONFIG = TypeAdapter(ReplayConfig)


def replay_config(default: ReplayConfig, said: dict[str, Any]) -> ReplayConfig:
    """A caller's way of replaying.

    Args:
        default: The server's.
        said: Fields that are to be other ones.

    Raises:
        ConfigError: There is no such setting for callers, or it is out of range.
    """
    names = sorted({field.name for field in fields(default)} - OWN_RESOURCES)
    for name in said:
        if name not in names:
            raise ConfigError(f"replay has no setting {shown(name)}; there are {', '.join(names)}")
    try:
        config = _CONFIG.validate_python({**asdict(default), **said})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("replay", *first["loc"])))
        raise ConfigError(f"{where}: {first['msg']}") from error
    if config.steps > MAX_STEPS:
        raise ConfigError(f"replay.steps is {config.steps}, but may be {MAX_STEPS} at most")
    if config.rate > MAX_RATE:
        raise ConfigError(f"replay.learning_rate is {config.rate}, but may be {MAX_RATE:g} at most")
    return config
