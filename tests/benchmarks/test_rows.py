"""The measurements that a stopped benchmark leaves behind."""

from pathlib import Path

import pytest
from rows import Kept


def test_a_stopped_run_goes_on_with_what_it_has_measured(tmp_path: Path) -> None:
    path, values = tmp_path / "runs" / "kept.json", iter([[1.5], 2.5, 3.5])
    assert Kept(path, {"threads": 2}).get("first", lambda: next(values)) == [1.5]
    again = Kept(path, {"threads": 2})
    assert again.get("first", lambda: pytest.fail("measured twice")) == [1.5]
    assert again.get("second", lambda: next(values)) == 2.5
    # Other settings are other measurements.
    assert Kept(path, {"threads": 1}).get("first", lambda: next(values)) == 3.5
