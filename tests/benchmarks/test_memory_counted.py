"""The arithmetic of token replay's memory against what autograd keeps."""

from dataclasses import replace
from pathlib import Path

import pytest
from memory_counted import GIB, count, decoder, estimate, estimated_table, model
from sizes import SEVEN_B

from visreplay.replay_core import ModelAdapter
from visreplay.replay_core.memory import kept_bytes

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "memory.md"
SMALL = replace(SEVEN_B, hidden=256, inner=704, heads=4, kv_heads=2, side=2)


@pytest.fixture(scope="module")
def seven_b() -> ModelAdapter:
    return decoder(1)


def slope(adapter: ModelAdapter, *, recompute: bool) -> float:
    """Bytes that one more token keeps."""
    few, many = (count(adapter, tokens, recompute=recompute).bytes for tokens in (64, 128))
    return (many - few) / 64


@pytest.mark.parametrize("recompute", [False, True])
def test_the_arithmetic_is_what_is_kept_at_7b_width(seven_b: ModelAdapter, recompute: bool) -> None:
    expected = kept_bytes(seven_b, recompute=recompute)
    assert slope(seven_b, recompute=recompute) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("recompute", [False, True])
def test_every_layer_keeps_as_much(layers: int, recompute: bool) -> None:
    adapter = decoder(layers, SMALL)
    expected = layers * kept_bytes(adapter, recompute=recompute)
    assert slope(adapter, recompute=recompute) == pytest.approx(expected, rel=0.04)


def test_recomputation_keeps_at_most_40_kib_and_no_mask(seven_b: ModelAdapter) -> None:
    found = count(seven_b, 128, recompute=True)
    assert found.bytes / 128 < 40 * 1024
    assert found.masks == 0


def test_the_largest_image_of_a_7b_pair_takes_less_than_45_gib() -> None:
    found = estimate(16_384)
    assert found.total < 45 * GIB
    assert found.kept == 16_384 * 16 * kept_bytes(model(SEVEN_B), recompute=True)
    # Two models of 7B in bfloat16: the policy whole, of the base 16 of 28 layers.
    assert 25 < found.weights / GIB < 27
    assert estimate(16_384, recompute=False).total > 70 * GIB
    assert estimate(16_384, shared=True).total < found.total - 3 * GIB


def test_the_guide_has_the_table() -> None:
    assert "\n".join(estimated_table()) in GUIDE.read_text("utf-8")
