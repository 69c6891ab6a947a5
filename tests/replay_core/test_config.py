from dataclasses import replace
from typing import Any

import pytest

from visreplay.replay_core import Alignment, ConfigError, Method, ReplayConfig, Threshold


def test_the_papers_settings() -> None:
    config = ReplayConfig.paper()
    assert (config.method, config.depth, config.tau, config.top_k) == (Method.TOKEN, 16, 0.4, 50)
    assert (config.steps, config.rate, config.optimizer) == (25, 10.0, "sgd")
    assert config.alignment == "reference"
    ours = {"optimizer": "adam", "steps": 6, "plateau": 0.01, "alignment": Alignment.SAME}
    assert replace(config, **ours) == ReplayConfig()  # type: ignore[arg-type]
    assert ReplayConfig.paper(tau=0.5).tau == 0.5


def test_the_papers_smoothing_controls() -> None:
    local = ReplayConfig.paper(teacher="local")
    assert (local.entry_layer, local.depth, local.side) == (15, 16, "all")
    whole = ReplayConfig.paper(teacher="global")
    assert (whole.entry_layer, whole.depth, whole.side) == (0, 16, "all")
    assert whole.steps == local.steps == 25


def test_plain_strings_are_converted() -> None:
    config = ReplayConfig(method="state", threshold="absolute")  # type: ignore[arg-type]
    assert config.method is Method.STATE and config.threshold is Threshold.ABSOLUTE
    assert config.depth == len(config.limits) == 7
    assert ReplayConfig(method=Method.NONE).depth == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "both"}, "method is 'both', but must be one of 'token', 'state', 'feature'"),
        ({"threshold": "top"}, "threshold is 'top'"),
        ({"replay_layers": 0}, "replay_layers is 0"),
        ({"memory_bytes": 0}, "memory_bytes is 0"),
        ({"steps": -1}, "steps is -1"),
        ({"plateau": 1.0}, "plateau is 1.0, but must lie in"),
        ({"plateau": float("nan")}, "plateau is nan"),
        ({"alignment": "base"}, "alignment is 'base', but must be one of 'same', 'reference'"),
        ({"teacher": "local"}, "'local' takes all visual tokens, but side is 'low'"),
        ({"teacher": "global", "side": "all", "method": "state"}, "one of token replay"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"tau": 0.0}, "tau is 0.0.*threshold='absolute'"),
        ({"tau": 1.5}, "tau is 1.5"),
        ({"side": "left"}, "side is 'left', but must be one of 'low', 'high', 'all', 'random'"),
        ({"teacher": "oracle"}, "teacher is 'oracle'"),
        ({"entry_layer": 16}, "entry_layer is 16, but must lie in 0 to 15"),
        ({"entry_layer": 2, "method": "state"}, "a setting of token replay"),
        ({"swap_roles": True, "teacher": "jitter"}, "swap_roles needs .* teacher is 'jitter'"),
        ({"optimizer": "lion"}, "optimizer is 'lion'"),
        ({"threshold": "absolute"}, "theta has 7 limits, but token replay looks at 16 layers"),
    ],
)
def test_settings_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ReplayConfig(**changes)
