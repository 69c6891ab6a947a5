"""The order in which settings of decoding count: the caller's, then the checkpoint's."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from visreplay.replay_core import ConfigError
from visreplay.replay_core.decoding import (
    NEUTRAL,
    check_decoding,
    checkpoint_decoding,
    is_greedy,
    resolved,
)
from visreplay.replay_core.embedded_pair import EMBEDDED
from visreplay.replay_core.loading import load_decoding

QWEN2_5 = {
    "do_sample": True,
    "repetition_penalty": 1.05,
    "temperature": 0.1,
    "top_p": 0.001,
    "top_k": 1,
}
"""The settings of Qwen2.5-VL-7B-Instruct's file."""


def read(**fields: Any) -> dict[str, Any]:
    return checkpoint_decoding(GenerationConfig(**fields))


def test_what_a_checkpoint_sets() -> None:
    assert read(**QWEN2_5) == {name: QWEN2_5[name] for name in QWEN2_5 if name != "do_sample"}
    assert read() == {}
    assert read(do_sample=True) == {"temperature": 1.0}  # and not transformers' top_k of 50
    assert read(repetition_penalty=1.1, temperature=0.7, top_p=0.9) == {"repetition_penalty": 1.1}
    assert read(do_sample=True, temperature=1e-6) == {"temperature": 1e-6}


def test_the_caller_decides_then_the_checkpoint() -> None:
    checkpoint = read(**QWEN2_5)
    assert resolved() == resolved({}, {}) == dict(NEUTRAL)
    assert resolved({"temperature": None}, checkpoint) == checkpoint
    assert resolved({"repetition_penalty": 1.0, "top_p": 0.5}, checkpoint) == {
        **checkpoint,
        "repetition_penalty": 1.0,
        "top_p": 0.5,
    }


def test_a_temperature_keeps_out_what_was_chosen_for_another() -> None:
    """Otherwise a caller who samples from Qwen2.5-VL would get the same text every time."""
    checkpoint = read(**QWEN2_5)
    assert is_greedy(checkpoint["temperature"], checkpoint["top_k"])
    warm = resolved({"temperature": 1.0}, checkpoint)
    assert warm == {**NEUTRAL, "temperature": 1.0, "repetition_penalty": 1.05}
    recipe = {"temperature": 0.5, "top_p": 0.9}
    assert resolved({}, recipe, checkpoint) == {**recipe, "top_k": 0, "repetition_penalty": 1.05}
    assert resolved({}, {"top_p": 0.9}, checkpoint) == {**checkpoint, "top_p": 0.9}


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("temperature", [-1, math.nan, math.inf, "1", [1]]),
        ("top_p", [0, 1.1, math.nan, "1", [1]]),
        ("top_k", [-1, 0.5, math.nan, "1", [1]]),
        ("repetition_penalty", [0, -1, math.nan, math.inf, "1", [1]]),
    ],
)
def test_values_out_of_range(setting: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=re.escape(f"{setting} is {value!r}, but")):
            check_decoding(**{setting: value})


@pytest.mark.parametrize("value", [-1, 0.5, "many", [1]])
def test_what_a_checkpoint_sets_out_of_range_is_left_out(
    value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert read(do_sample=True, temperature=0.7, top_k=value) == {"temperature": 0.7}
    (record,) = caplog.records
    assert record.getMessage().startswith(f"generation_config.json: top_k is {value!r}, but")


def test_a_checkpoint_s_settings_without_its_weights(tmp_path: Path) -> None:
    assert load_decoding("embedded") == load_decoding(str(EMBEDDED / "base")) == {}
    GenerationConfig(**QWEN2_5).save_pretrained(tmp_path)
    assert load_decoding(str(tmp_path)) == read(**QWEN2_5)
