"""Settings that were tuned for a pair."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from visreplay.replay_core.config import Method, ReplayConfig


def tuned_config(
    tuned: Mapping[Method, ReplayConfig], replay: ReplayConfig | Method | str, **changes: Any
) -> ReplayConfig:
    """Complete the name of a method by the settings that were tuned for a pair.

    Args:
        tuned: The tuned settings; any other method has the defaults of `ReplayConfig`.
        replay: The method, or settings, which are complete already.
        **changes: Fields of `ReplayConfig` to set otherwise.

    Raises:
        ConfigError: there is no such method, or a setting is out of range.
    """
    if not isinstance(replay, ReplayConfig):
        default = ReplayConfig(replay)  # type: ignore[arg-type]  # it converts strings
        replay = tuned.get(default.method, default)
    return replace(replay, **changes)
