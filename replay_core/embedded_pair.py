"""The pair that ships with the package: where it is, and how to replay it.

Two tiny checkpoints of the real class, trained by `recipes/`; see `weights/README.md`. They carry
the demo, the tests and the measurements, and are of no use for anything else.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from visreplay.replay_core.config import Method, ReplayConfig, Threshold

EMBEDDED = Path(__file__).parent / "weights"
"""Folder of the checkpoints `policy` and `base`."""

EMBEDDED_NAMES = ("embedded policy", "embedded base")
"""What records call them, wherever the package is installed."""

# With a vocabulary of a few hundred entries hardly any entropy lies below 0.4 of the maximum, and
# with 4 layers the paper's 16 do not exist: the pair has settings of its own. On the tuning split
# (`benchmarks/tune.py`) 27 settings of token replay and 9 of state replay are alike in accuracy;
# these cut the divergence five times (token) and two times (state), in about a tenth of a second.
_TOKEN = ReplayConfig(
    Method.TOKEN,
    replay_layers=2,
    threshold=Threshold.QUANTILE,
    tau=0.5,
)
_STATE = ReplayConfig(Method.STATE, state_layers=2, threshold=Threshold.QUANTILE, tau=0.5)


def embedded_config(method: Method, **changes: Any) -> ReplayConfig:
    """The embedded pair's settings for a method.

    Args:
        method: The method.
        **changes: Fields of `ReplayConfig` to set otherwise.
    """
    settings = {
        Method.TOKEN: _TOKEN,
        Method.STATE: _STATE,
        Method.NONE: ReplayConfig(Method.NONE),
    }
    return replace(settings[Method(method)], **changes)
