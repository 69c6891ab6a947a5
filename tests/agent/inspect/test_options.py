"""Model arguments and generation options: each setting is declared once, and nothing is ignored."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.model import GenerateConfig

from visreplay.agent.inspect.options import (
    EPISODE_OPTIONS,
    LOADING,
    REPLAY,
    TURN_OPTIONS,
    replay_config,
    sampling_of,
)
from visreplay.agent.inspect.solver import episode_solver
from visreplay.agent.policy.sampling import Sampling
from visreplay.replay_core import ConfigError, Method, ReplayConfig, embedded_config


def test_every_setting_of_replay_is_a_model_argument() -> None:
    assert set(REPLAY) == {field.name for field in fields(ReplayConfig)}
    assert {"base", "protocol", "recipe", "device", "dtype", "load_options"} <= set(LOADING)
    assert not set(REPLAY) & set(LOADING)


def test_settings_complete_those_of_the_pair() -> None:
    assert replay_config("embedded", {"method": "state"}) == embedded_config(Method.STATE)
    assert replay_config("ORG/CHECKPOINT", {"tau": 0.3}) == ReplayConfig(tau=0.3)


def test_values_of_a_command_line_are_converted(tmp_path: Path) -> None:
    limits = tmp_path / "limits.json"
    limits.write_text(json.dumps({"theta": [1.0, 2.0, 3.0]}), "utf-8")
    given = {"method": "state", "threshold": "absolute", "state_layers": 3}
    expected = ReplayConfig(Method.STATE, 16, 3, threshold="absolute", theta=(1.0, 2.0, 3.0))  # type: ignore[arg-type]
    assert replay_config("x", {**given, "theta": str(limits)}) == expected
    assert replay_config("x", {**given, "theta": [1, 2, 3]}) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "tokens"}, "method is 'tokens', but must be one of 'token'"),
        ({"tau": 2.0}, r"tau is 2.0, but must lie in \(0, 1\]"),
        ({"steps": "many"}, "steps is 'many': Input should be a valid integer"),
        ({"theta": "missing.json"}, "theta cannot be read from missing.json"),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replay_config("embedded", settings)


def test_options_of_inspect_are_settings_of_sampling() -> None:
    config = GenerateConfig(temperature=0.5, top_p=0.9, top_k=40, max_tokens=64, seed=3)
    assert sampling_of(config, EPISODE_OPTIONS) == Sampling(0.5, 0.9, 40, max_new_tokens=64)


@pytest.mark.parametrize(
    "option",
    [
        {"frequency_penalty": 0.5},
        {"best_of": 2},
        {"logit_bias": {42: 10.0}},
        {"reasoning_effort": "high"},
        {"batch": True},
        {"extra_body": {"a": 1}},
    ],
)
def test_an_option_that_would_be_ignored_is_refused_by_name(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(ConfigError, match=f"{name} is .*leave it out"):
        sampling_of(GenerateConfig(**option), TURN_OPTIONS)


def test_options_that_inspect_carries_out_or_that_ask_for_nothing_pass() -> None:
    config = GenerateConfig(max_connections=4, timeout=60, frequency_penalty=0.0, cache=True)
    assert sampling_of(config, TURN_OPTIONS) == Sampling()


def test_an_episode_has_no_options_of_a_single_turn() -> None:
    with pytest.raises(ConfigError, match="num_choices is 2"):
        sampling_of(GenerateConfig(num_choices=2), EPISODE_OPTIONS)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_turns": 3}, "'max_turns'; there are max_steps, max_images, max_repeats$"),
        ({"method": "state"}, "replay is set on the model: -M method=state"),
        ({"max_steps": 0}, "max_steps is 0; it must be at least 1"),
    ],
)
def test_a_solver_has_the_limits_of_an_episode(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        episode_solver(limits)
