"""Entropy limits for state replay's absolute threshold, measured on sample inputs.

Only visual tokens are measured, as the other two threshold rules take their limits from them too.
State replay applies a limit to text as well, but the entropies of text depend on the wording of
prompts: with them, a longer system prompt would move the limit of the images.

Axes: L the measured layers, T positions, B bins.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visreplay.replay_core.config import ReplayConfig
from visreplay.replay_core.errors import ConfigError, ContextError
from visreplay.replay_core.model_run import SingleModelRun
from visreplay.replay_core.pair import ModelPair
from visreplay.replay_core.segment import Segment
from visreplay.replay_core.visitors import LensReader


def histogram(entropy_LT: Tensor, bins: int, vocabulary: int) -> Tensor:
    """Count entropies `(L, B)` in bins of equal width from 0 to the highest entropy, ln V."""
    scale = bins / math.log(vocabulary)
    bin_LT = (entropy_LT * scale).long().clamp(0, bins - 1)
    counts_LB = torch.zeros(len(entropy_LT), bins, dtype=torch.long)
    return counts_LB.scatter_add_(1, bin_LT, torch.ones_like(bin_LT))


class EntropyStatistics:
    """Entropies of several layers over any number of positions, in a fixed amount of memory.

    They are counted in bins of ln V / 65536 (0.0002 nats for 150,000 vocabulary entries), which
    bounds the error of a quantile. Count, mean and extremes are exact.

    Attributes:
        count: Positions so far.
    """

    BINS = 2**16

    def __init__(self, layers: int, vocabulary: int) -> None:
        """Start with no position."""
        self.count = 0
        self.min_L = torch.full((layers,), math.inf)
        self.max_L = torch.full((layers,), -math.inf)
        self._sum_L = torch.zeros(layers, dtype=torch.float64)
        self._counts_LB = torch.zeros(layers, self.BINS, dtype=torch.long)
        self._vocabulary = vocabulary

    def add(self, entropy_LT: Tensor) -> None:
        """Count further positions."""
        entropy_LT = entropy_LT.cpu()
        self.count += entropy_LT.shape[1]
        self.min_L = self.min_L.minimum(entropy_LT.amin(1))
        self.max_L = self.max_L.maximum(entropy_LT.amax(1))
        self._sum_L += entropy_LT.double().sum(1)
        self._counts_LB += histogram(entropy_LT, self.BINS, self._vocabulary)

    @property
    def mean_L(self) -> Tensor:
        """Mean of each layer in nats."""
        return (self._sum_L / self.count).float()

    def quantile(self, q: float) -> Tensor:
        """Compute the `q`-quantile of each layer `(L,)` in nats, linear between two positions."""
        place = q * (self.count - 1)
        below, share = int(place), place - int(place)
        ranks = torch.tensor([below + 1, min(below + 2, self.count)])
        ranks_L2 = ranks.expand(len(self._counts_LB), 2).contiguous()
        bin_L2 = torch.searchsorted(self._counts_LB.cumsum(1), ranks_L2)
        value_L2 = (bin_L2 + 0.5) * (math.log(self._vocabulary) / self.BINS)
        value_L = value_L2[:, 0].lerp(value_L2[:, 1], share)
        return value_L.clamp(self.min_L, self.max_L)


@dataclass(frozen=True)
class Calibration:
    """Limits for `ReplayConfig(threshold="absolute", theta=...)`, and the entropies behind them.

    Attributes:
        theta: Limit of each layer in nats.
        quantile: Share of the measured positions that lie below it.
        count: Number of visual tokens that were measured.
        statistics: For every layer minimum, quartiles, maximum and mean in nats, by name.
    """

    theta: tuple[float, ...]
    quantile: float
    count: int
    statistics: tuple[dict[str, float], ...]


def calibrate(
    pair: ModelPair,
    segments: Iterable[Segment],
    *,
    layers: int = 7,
    quantile: float = 0.4,
    config: ReplayConfig | None = None,
) -> Calibration:
    """Measure the base's entropies at visual tokens, and take a quantile of each layer.

    Args:
        pair: The pair whose base is measured; the policy of a pair without a base.
        segments: Whole contexts, each with an image or a video. They are taken one by one.
        layers: Number of first layers to measure.
        quantile: Share of the visual tokens that are to count as low in entropy, in (0, 1].
        config: Settings, of which the chunk sizes count here; `ReplayConfig()` by default.

    Raises:
        ConfigError: `layers` or `quantile` is out of range.
        ContextError: there is no visual token in any segment.
    """
    base = pair.base or pair.policy
    if not 1 <= layers <= base.depth:
        raise ConfigError(
            f"layers is {layers}, but the base has {base.depth} decoder layers: choose 1 to "
            f"{base.depth}"
        )
    if not 0 < quantile <= 1:
        raise ConfigError(f"quantile is {quantile}, but must lie in (0, 1]")
    statistics = EntropyStatistics(layers, base.head.out_features)
    for segment in segments:
        run = SingleModelRun(base, pair.base_features, layers, config or ReplayConfig())
        if segment.blocks:
            reader = LensReader(run.lens, layers)
            run.append(segment, reader)
            statistics.add(reader.entropy_LT)
    if not statistics.count:
        raise ContextError(
            "no segment holds a visual token: calibrate on inputs with an image or a video"
        )
    columns = {
        "min": statistics.min_L,
        "q25": statistics.quantile(0.25),
        "median": statistics.quantile(0.5),
        "q75": statistics.quantile(0.75),
        "max": statistics.max_L,
        "mean": statistics.mean_L,
    }
    return Calibration(
        theta=tuple(statistics.quantile(quantile).tolist()),
        quantile=quantile,
        count=statistics.count,
        statistics=tuple(
            {name: float(column_L[layer]) for name, column_L in columns.items()}
            for layer in range(layers)
        ),
    )


def load_theta(path: str | Path) -> tuple[float, ...]:
    """Load the limits of a file that `visreplay calibrate` wrote, in nats, layer by layer.

    Raises:
        ConfigError: there is no such file, or no limits are in it.
    """
    hint = "make one with `visreplay calibrate`"
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"theta cannot be read from {path} ({error.strerror}): {hint}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON ({error}): {hint}") from error
    theta = content.get("theta") if isinstance(content, dict) else None
    if not isinstance(theta, list) or not theta:
        raise ConfigError(f'{path} has no list "theta" of one limit in nats per layer: {hint}')
    return tuple(_limit(layer, limit, path) for layer, limit in enumerate(theta))


def _limit(layer: int, limit: Any, path: str | Path) -> float:
    """Check one limit of a file.

    Raises:
        ConfigError: it is no number of nats.
    """
    try:
        if isinstance(limit, int | float) and not isinstance(limit, bool) and 0 <= limit < math.inf:
            return float(limit)
    except OverflowError:  # a whole number of hundreds of digits
        pass
    raise ConfigError(
        f"theta[{layer}] in {path} is {limit!r:.80}, but must be a number of nats, 0 or more"
    )
