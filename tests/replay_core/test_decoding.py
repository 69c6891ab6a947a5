"""The order in which settings of decoding count: the caller's, then the checkpoint's."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import GenerationConfig

from visreplay.replay_core import ConfigError, decoding
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


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"min_p": 0.1, "typical_p": 0.9}, "min_p, typical_p"),
        ({"no_repeat_ngram_size": 3, "suppress_tokens": [7]}, "no_repeat_ngram_size, suppress_"),
        ({"bad_words_ids": [[7]]}, "bad_words_ids"),
        ({"min_new_tokens": 5, "num_beams": 4}, "num_beams, min_new_tokens"),
        ({"presence_penalty": 1.5}, "presence_penalty"),
    ],
)
def test_what_a_checkpoint_sets_and_is_not_used_is_named_once(
    fields: dict[str, Any], names: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    written = {"do_sample": True, "temperature": 0.6, **fields}
    (tmp_path / "generation_config.json").write_text(json.dumps(written), "utf-8")
    for _ in range(2):
        assert load_decoding(str(tmp_path)) == {"temperature": 0.6}
    (record,) = [each for each in caplog.records if each.name == decoding.__name__]
    assert record.getMessage().startswith(f"generation_config.json sets {names}")
    assert "only temperature, top_p, top_k, repetition_penalty are used" in record.getMessage()


def test_what_changes_nothing_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    read(**QWEN2_5)
    read(do_sample=True, **decoding._UNUSED_IN_SAMPLING)
    for name, neutral in decoding._UNUSED.items():
        checkpoint_decoding(SimpleNamespace(do_sample=False, **{name: neutral}))
    checkpoint_decoding(SimpleNamespace(do_sample=False, min_p=0.1))  # no token is drawn
    read(max_new_tokens=2048, max_length=4096, eos_token_id=[1, 2], bos_token_id=1)
    assert not [each for each in caplog.records if each.name == decoding.__name__]


def test_a_checkpoint_s_settings_without_its_weights(tmp_path: Path) -> None:
    assert load_decoding("embedded") == load_decoding(str(EMBEDDED / "base")) == {}
    GenerationConfig(**QWEN2_5).save_pretrained(tmp_path)
    assert load_decoding(str(tmp_path)) == read(**QWEN2_5)
