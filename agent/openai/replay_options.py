"""How callers of the OpenAI-compatible server replay: settings that are theirs, within bounds."""

from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError

from visreplay.replay_core import ConfigError, ReplayConfig
from visreplay.tools.types import preview

SETTINGS = (
    "method",
    "replay_layers",
    "state_layers",
    "threshold",
    "tau",
    "side",
    "teacher",
    "entry_layer",
    "top_k",
    "steps",
    "learning_rate",
    "optimizer",
)
"""Those that a caller may set."""

MAX_TOP_K = 200
"""Entries of the base's vocabulary that he may ask for, each of which takes its memory."""

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
    for name in said:
        if name not in SETTINGS:
            raise ConfigError(
                f"replay has no setting {preview(name)}; there are {', '.join(SETTINGS)}"
            )
    try:
        config = _CONFIG.validate_python({**asdict(default), **said})
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
