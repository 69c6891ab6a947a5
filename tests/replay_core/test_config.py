from dataclasses import replace
from typing import Any

import pytest

from visreplay.replay_core import ConfigError, Method, ReplayConfig, Threshold


def test_the_papers_settings() -> None:
    config = ReplayConfig.paper()
    assert (config.method, config.depth, config.tau, config.top_k) == (Method.TOKEN, 16, 0.4, 50)
    assert (config.steps, config.rate, config.optimizer) == (25, 10.0, "sgd")
    assert replace(config, optimizer="adam", steps=10) == ReplayConfig()
    assert ReplayConfig.paper(tau=0.5).tau == 0.5


def test_plain_strings_are_converted() -> None:
    config = ReplayConfig(method="state", threshold="absolute")  # type: ignore[arg-type]
    assert config.method is Method.STATE and config.threshold is Threshold.ABSOLUTE
    assert config.depth == len(config.limits) == 7
    assert ReplayConfig(method=Method.NONE).depth == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "both"}, "method is 'both', but must be one of 'token', 'state', 'none'"),
        ({"threshold": "top"}, "threshold is 'top'"),
        ({"replay_layers": 0}, "replay_layers is 0"),
        ({"memory_bytes": 0}, "memory_bytes is 0"),
        ({"steps": -1}, "steps is -1"),
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
