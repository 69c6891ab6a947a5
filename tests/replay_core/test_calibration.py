"""Limits against quantiles over all entropies at once."""

import json
from pathlib import Path
from typing import Any

import builders
import pytest
import torch

from visreplay.replay_core import (
    ConfigError,
    ContextError,
    ModelPair,
    ReplayConfig,
    ReplaySession,
    calibrate,
    load_theta,
)
from visreplay.replay_core.calibration import EntropyStatistics

SEGMENTS = [
    builders.segment(5, ("image", (1, 8, 8), 1), 4, ("video", (2, 8, 4), 2), 3),
    builders.segment(9),
    builders.segment(3, ("image", (1, 4, 12), 3)),
]
STATE = ReplayConfig("state", state_layers=3)


def entropies(pair: ModelPair) -> torch.Tensor:
    """What sessions record of the base, `(L, T)`."""
    found = []
    for segment in SEGMENTS:
        session = ReplaySession(pair, STATE)
        session.append(segment)
        found += [record.entropy_LT for record in session.blocks]
    return torch.cat(found, dim=1)


def test_limits_are_quantiles_of_the_base_at_visual_tokens(pair: ModelPair) -> None:
    entropy_LT = entropies(pair)
    measured = calibrate(pair, iter(SEGMENTS), layers=3, quantile=0.3)
    assert measured.count == entropy_LT.shape[1] == 16 + 16 + 12
    torch.testing.assert_close(
        torch.tensor(measured.theta), entropy_LT.quantile(0.3, dim=1), atol=1e-4, rtol=0
    )
    for name, q in (("min", 0.0), ("q25", 0.25), ("median", 0.5), ("q75", 0.75), ("max", 1.0)):
        got = torch.tensor([layer[name] for layer in measured.statistics])
        torch.testing.assert_close(got, entropy_LT.quantile(q, dim=1), atol=1e-4, rtol=0)
    mean = torch.tensor([layer["mean"] for layer in measured.statistics])
    torch.testing.assert_close(mean, entropy_LT.mean(1))


def test_the_base_alone_is_enough() -> None:
    both = builders.pair()
    base = ModelPair.of(builders.model(), None, builders.Processor())
    settings: dict[str, Any] = {"layers": 3, "quantile": 0.4}
    alone, paired = (calibrate(pair, SEGMENTS, **settings) for pair in (base, both))
    assert alone == paired


def test_chunks_change_nothing(pair: ModelPair) -> None:
    small = ReplayConfig(memory_bytes=1, query_chunk=3)
    for one, other in zip(
        calibrate(pair, SEGMENTS, layers=3).theta,
        calibrate(pair, SEGMENTS, layers=3, config=small).theta,
        strict=True,
    ):
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_quantiles_of_a_stream(count: int) -> None:
    entropy_LT = torch.rand(2, count, generator=torch.Generator().manual_seed(count)) * 5
    statistics = EntropyStatistics(2, vocabulary=200)
    for part_LT in entropy_LT.split(3, dim=1):
        statistics.add(part_LT)
    for q in (0.0, 0.1, 0.5, 0.77, 1.0):
        torch.testing.assert_close(
            statistics.quantile(q), entropy_LT.quantile(q, dim=1), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"layers": 9}, "choose 1 to 3"),
        ({"layers": 2, "quantile": 0.0}, "quantile is 0.0"),
        ({"layers": 2, "quantile": 1.5}, "quantile is 1.5"),
    ],
)
def test_settings_out_of_range(pair: ModelPair, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        calibrate(pair, SEGMENTS, **settings)


def test_text_alone_gives_no_limits(pair: ModelPair) -> None:
    with pytest.raises(ContextError, match="no segment holds a visual token"):
        calibrate(pair, [builders.segment(5)], layers=2)


def test_limits_from_a_file_are_used(pair: ModelPair, tmp_path: Path) -> None:
    path = tmp_path / "theta.json"
    measured = calibrate(pair, SEGMENTS, layers=3, quantile=0.5)
    path.write_text(json.dumps({"theta": measured.theta, "quantile": 0.5}))
    theta = load_theta(path)
    assert theta == measured.theta
    session = ReplaySession(
        pair, ReplayConfig("state", state_layers=3, threshold="absolute", theta=theta)
    )
    session.append(SEGMENTS[0])
    low = torch.cat([record.chosen_LT for record in session.blocks], dim=1)
    assert 0.2 < low.float().mean() < 0.8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[1, 2]", 'no list "theta"'),
        ('{"theta": []}', 'no list "theta"'),
        ('{"theta": {"0": 1}}', 'no list "theta"'),
        ('{"theta": [1, "x"]}', r"theta\[1\]"),
        ('{"theta": [true]}', r"theta\[0\]"),
        ('{"theta": [1, NaN]}', r"theta\[1\]"),
        ('{"theta": [-1]}', r"theta\[0\]"),
        ('{"theta": [1, 1e400]}', r"theta\[1\]"),
        ('{"theta": [1' + "0" * 400 + "]}", r"theta\[0\]"),
        ('{"theta": [1' + "0" * 5000 + "]}", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_the_error_of_a_wrong_file(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "theta.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_theta(path)


def test_the_error_of_a_binary_file(tmp_path: Path) -> None:
    (tmp_path / "theta.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not JSON"):
        load_theta(tmp_path / "theta.json")
