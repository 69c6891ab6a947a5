import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visreplay.tasks.scoring import mathematics
from visreplay.tasks.scoring.mathematics import expression, require_math_verify, same_mathematics


@pytest.mark.parametrize(
    ("expected", "written"),
    [
        ("1/2", "\\boxed{\\frac12}"),
        ("0.5", "so the answer is \\boxed{\\frac{1}{2}}."),
        ("\\frac{1}{2}", "0.50"),
        ("2√3", "$2\\sqrt 3$"),
        ("2\\sqrt{3}", "\\boxed{\\sqrt{12}}"),
        ("60°", "The answer is $60^\\circ$."),
        ("14", "The number is 14."),
        ("14", "The answer is 14 cm, as 3 + 11 = 14"),
        ("14", "\\boxed{13}? No: \\boxed{14}"),
        ("x=3", "\\boxed{3}"),
        ("1,000", "1000"),
        ("x^2+2x+1", "\\boxed{(x+1)^2}"),
        ("(-2, 1)", "(-2,1)"),
        ("4π", "4π cm"),
        ("no solution", "No solution."),
    ],
)
def test_equal(expected: str, written: str) -> None:
    assert same_mathematics(expected, written)


@pytest.mark.parametrize(
    ("expected", "written"),
    [
        ("14", None),
        ("14", ""),
        ("14", "none"),
        ("14", "\\boxed{14}? No: \\boxed{13}"),
        ("14", "The answer is 13 or 14"),
        ("14", "It is 13, not 14"),
        ("14", "$13$ or $14$"),
        ("(-2, 1)", "The answer is (-2, 1]"),
        ("1/2", "\\boxed{\\frac12"),
        ("14", "\\boxed{__import__('os').system('true')}"),
        ("14", "\\boxed{" + "{" * 100 + "}" * 100 + "}"),
        ("14", "\\boxed{" + "1+" * 5000 + "1}"),
    ],
)
def test_not_equal(expected: str, written: str | None) -> None:
    assert not same_mathematics(expected, written)


@pytest.mark.parametrize(
    ("written", "stated"),
    [
        ("The answer is $\\frac{3}{4}$ of $x$.", "\\frac{3}{4}"),
        ("It is \\(x = 2\\).", "x = 2"),
        ("First $x = 2$, then $y = 3$", None),
        ("1/2 because of symmetry", "1/2"),
        ("2 + \\sin(x)", "2 + \\sin(x)"),
        ("There are 3 circles and 4 squares", None),
        ("nothing", None),
        ("(x-1)(x-2) = 0, so x = 1 or x = 2", "1, 2"),
        ("2x = 4, so x = 2", "2"),
        ("It is not $\\boxed{2}$", None),
    ],
)
def test_the_expression_that_a_text_states(written: str, stated: str | None) -> None:
    assert expression(written) == stated


def test_an_answer_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert same_mathematics("9", "\\boxed{18/2}")  # the child has started
    monkeypatch.setattr(mathematics, "SECONDS", 1.0)
    began = perf_counter()
    assert not same_mathematics("9", "\\boxed{9^{9^{9^{9}}}}")
    assert perf_counter() - began < 5
    assert same_mathematics("9", "\\boxed{18/2}")


def test_it_works_in_threads() -> None:
    answers = [f"\\boxed{{\\frac{{{2 * n}}}{{2}}}}" for n in range(20)]
    with ThreadPoolExecutor(8) as pool:
        right = pool.map(lambda n: same_mathematics(str(n), answers[n]), range(20))
    assert all(right)


def test_without_math_verify_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mathematics, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'visreplay\[eval\]'"):
        require_math_verify()


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("raise ImportError('SymPy is torn')", "ImportError: SymPy is torn"),
        ("", "it printed nothing"),
        ("print('hello')", "it printed nothing"),
    ],
)
def test_a_child_that_cannot_start_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, error: str
) -> None:
    child = mathematics._Child()
    monkeypatch.setattr(mathematics, "_CHILD", child)
    (tmp_path / "program.py").write_text(program)
    monkeypatch.setattr(mathematics, "PROGRAM", tmp_path / "program.py")
    for attempt in (require_math_verify, lambda: same_mathematics("9", "\\boxed{18/2}")):
        with pytest.raises(
            ImportError, match=rf"(?s)cannot be started: .*{error}\nInstall it anew"
        ):
            attempt()
    monkeypatch.undo()
    assert same_mathematics("9", "\\boxed{18/2}")


def test_the_child_starts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    child = mathematics._Child()
    monkeypatch.setattr(mathematics, "_CHILD", child)
    require_math_verify()
    monkeypatch.setattr(mathematics, "PROGRAM", "nowhere")
    require_math_verify()
    assert same_mathematics("9", "\\boxed{18/2}")
    child.stop()


def test_the_child_imports_no_more_than_it_needs() -> None:
    program = mathematics.__file__
    child = subprocess.run(
        [sys.executable, "-P", program],
        input=json.dumps(["1", "1"]) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert child.stdout == "ready\ntrue\n"


@settings(deadline=None, max_examples=60)
@given(
    st.text(max_size=30)
    | st.lists(
        st.sampled_from([*"\\{}$^_()=+-x12", "\\frac", "\\boxed{", "\\sqrt", "answer is "]),
        max_size=10,
    ).map("".join)
)
def test_it_never_raises(written: str) -> None:
    assert same_mathematics("14", written) in (True, False)
