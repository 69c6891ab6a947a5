"""Rows and caches against plain lists of tensors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visreplay.replay_core.cache import GrowingTensor, KVCache

OPERATIONS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["append", "prefix", "fork"]), st.integers(0, 90))
)


@given(OPERATIONS)
def test_rows_behave_like_lists_that_share_nothing(
    operations: list[tuple[int, str, int]],
) -> None:
    many: list[tuple[GrowingTensor, list[int]]] = [(GrowingTensor(axis=1), [])]
    for step, (which, operation, size) in enumerate(operations):
        rows, expected = many[which % len(many)]
        if operation == "append" and size:
            values = [1000 * step + i for i in range(size)]
            rows.append(torch.tensor(values).view(1, -1, 1).expand(2, -1, 3))
            expected += values
        elif operation == "prefix":
            length = min(size, len(expected))
            many[which % len(many)] = (rows.prefix(length), expected[:length])
        elif operation == "fork":
            many.append((rows.prefix(len(rows)), list(expected)))
        for each, values in many:
            assert len(each) == len(values)
            if values:
                assert each.data[1, :, 2].tolist() == values


def test_appending_does_not_copy_the_past() -> None:
    rows = GrowingTensor(axis=0)
    rows.append(torch.zeros(10, 2))
    before = rows.data.data_ptr()
    rows.append(torch.ones(20, 2))
    fork = rows.prefix(30)
    assert rows.data.data_ptr() == fork.data.data_ptr() == before
    rows.append(torch.ones(1, 2))
    fork.append(torch.full((1, 2), 2.0))
    assert rows.data.data_ptr() == before != fork.data.data_ptr()


def test_rows_out_of_range() -> None:
    rows = GrowingTensor(axis=0)
    with pytest.raises(IndexError, match="no rows"):
        _ = rows.data
    rows.append(torch.zeros(3))
    with pytest.raises(IndexError, match="prefix of 4 rows is longer than the 3 rows there are"):
        rows.prefix(4)


def test_a_frozen_cache_is_read_only_and_passes_gradients_to_new_positions_alone() -> None:
    cache = KVCache(2)
    past, new = torch.randn(1, 1, 4, 2), torch.randn(1, 1, 3, 2, requires_grad=True)
    for layer in range(2):
        cache.update(past, past, layer)
    frozen = cache.frozen(1)
    assert frozen.depth == 1
    keys, values = frozen.update(new, new, 0)
    assert keys.shape == values.shape == (1, 1, 7, 2)
    keys.sum().backward()
    assert torch.equal(new.grad, torch.ones_like(new))  # type: ignore[arg-type]
    assert cache.length == frozen.length == 4
    assert frozen.get_mask_sizes(3, 0) == (7, 0)
    assert KVCache(1).frozen(1).update(new, new, 0)[0] is new


def test_a_cache_without_layers_is_empty() -> None:
    assert KVCache(0).prefix(0).length == 0
