"""Whatever list a program prints is read as it was."""

import json

import numpy as np
import pytest
from fuzzing import fuzzing
from hypothesis import given
from hypothesis import strategies as st

from visreplay.tasks.scoring.printed_lists import printed_list

TEXTS = st.text(max_size=6) | st.text("ab'\"\\ ,[]()\n\tu0", max_size=8)


@fuzzing(200, 20_000)
@given(st.lists(TEXTS, max_size=5))
def test_json_python_and_numpy(texts: list[str]) -> None:
    for printed in (
        json.dumps(texts),
        json.dumps(texts, ensure_ascii=False),
        repr(texts),
        repr(tuple(texts)),
        str(np.array(texts, dtype=object)),
    ):
        assert printed_list(printed) == texts


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("[24, 24.0, -1.5e-3, True]", ["24", "24.0", "-1.5e-3", "True"]),
        ("[24.  24.5]", ["24", "24.5"]),
        ("[ True False]", ["True", "False"]),
        ("['a', 3]", ["a", "3"]),
        ("[u'a', u'b',]", ["a", "b"]),
        (" [ ] ", []),
    ],
)
def test_numbers_stay_as_they_are_written(text: str, items: list[str]) -> None:
    assert printed_list(text) == items


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "a",
            "[1",
            "[1)",
            "[,]",
            "['a',,'b']",
            "[a]",
            "[None]",
            "[['a']]",
            "[1.2.3]",
            "[48/2]",
        ),
        "('a')",  # no tuple
        "['a', 'b' 'c']",  # a comma is missing: nothing prints that
        *("['a''b']", "[1'a']", "['a", "[nan]", "array(['a'])"),
    ],
)
def test_other_texts_are_no_lists(text: str) -> None:
    assert printed_list(text) is None
