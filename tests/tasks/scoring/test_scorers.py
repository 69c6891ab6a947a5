# ruff: noqa: RUF001 -- full-width characters are among what is tested.
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visreplay.tasks.scoring.answer_extraction import MAX_CHARACTERS, final_answer
from visreplay.tasks.scoring.mathematics import expression
from visreplay.tasks.scoring.multiple_choice import option_letter
from visreplay.tasks.scoring.numerals import stated_number
from visreplay.tasks.scoring.scorers import (
    same_number,
    same_option,
    same_options,
    same_text,
    same_value,
)

OPTIONS = {"A": "red", "B": "blue", "C": "dark red", "D": "a dog"}


@pytest.mark.parametrize(
    ("written", "letter"),
    [
        # The letter, and what models put around it.
        ("B", "B"),
        ("b", "B"),
        ("**B.**", "B"),
        ("(d)", "D"),
        ("B) red", "B"),
        ("b) blue", "B"),
        ("B: because it is blue", "B"),
        ("B red", "B"),  # the question requests a letter
        ("B blue", "B"),
        ("Option A", "A"),
        ("\\boxed{B}", "B"),
        ("\\boxed{\\text{D}}", "D"),
        ("$\\mathbf{B}$", "B"),
        ("<think>A or B? A.</think>\n<answer>B</answer>", "B"),
        # Statements.
        ("The answer is (C) because A.. is too bright", "C"),
        ("The answer is **(B)**.", "B"),
        ("The answer is B because it is blue", "B"),
        ("the answer is b", "B"),
        ("The correct option is B: blue", "B"),
        ("I would choose option C", "C"),
        ("A is wrong, B is correct", "B"),
        ("First I look at the sky...\n\n**C**", "C"),
        ("Final Answer: The final answer is $\\boxed{A}$.", "A"),
        ("Therefore, the answer is:\n\nB. blue", "B"),
        ("### Answer\nB", "B"),
        ("**Answer:** B\n\nExplanation: option A is red, which is not there.", "B"),
        ("The correct answer is **C. dark red**.", "C"),
        ("The answer is \\(\\text{B}\\).", "B"),
        ("Answer: the red one (C)", "C"),  # the question requests a letter
        ("Option (B) is correct.", "B"),
        # Words about other options, or about places, choose nothing.
        ("The answer is B. Option A would be correct if it were red.", "B"),
        ("The answer is B. If it were red, A is right.", "B"),
        ("The answer is (C), since B is right of A.", "C"),
        ("B is right next to A, so C is correct.", "C"),
        ("B is right above A.\n\nC", "C"),
        ("The solution is simple. B is right, A is too bright.", "B"),
        ("B is not correct. A is.", "A"),
        ("So A it is", "A"),
        ("I'm not sure, maybe A?", "A"),
        ("I cannot say whether it is A, B or C", None),
        # Two in one text: the last statement counts, two in one statement do not.
        ("The answer is A. Wait, the answer is B.", "B"),
        ("\\boxed{A} Hmm, no: \\boxed{B}", "B"),
        ("The answer is A or B", None),
        ("Answer: A, B", None),
        ("(A) and (C)", None),
        ("A/B", None),
        # A negated option is not chosen.
        ("I think it's not A but B", "B"),
        ("The answer is not A, it is C", "C"),
        ("It can't be A. So D", "D"),
        ("It cannot be A, so B.", "B"),
        ("It cannot be blue, it is red", "A"),
        ("neither A nor B, so C", "C"),
        ("not blue but red", "A"),
        ("B can't be right.", None),
        ("B won\u2019t do, so C.", "C"),
        ("All but B", None),
        ("B? No.", None),
        ("It doesn't look blue.", None),
        ("Neither red, blue nor a dog.", None),
        # A formula in a box chooses nothing, and a denied box does not count.
        ("\\boxed{A \\cap B} so D", "D"),
        ("\\boxed{P(A) = 0.3}", None),
        ("\\boxed{A} = 3, so the answer is D", "D"),
        ("The answer is \\boxed{B}, not \\boxed{A}", "B"),
        # The text of an option.
        ("blue", "B"),
        ("Dark red.", "C"),
        ("It is a dog", "D"),
        ("A dog", "D"),
        ("the answer is a dog", "D"),
        ("Which option is right? Probably the blue one.", "B"),
        ("It could be red or blue", None),
        # The options repeated.
        ("A. red is wrong.\nB. blue is it", None),
        ("(A) red (B) blue", None),
        ("Choices: A. red, B. blue.", None),
        ("A. red B. blue. The answer is B", "B"),
        # Chinese, and full-width letters.
        ("答案是（Ｂ）。", "B"),
        ("Answer：Ｂ", "B"),
        ("所以选择B", "B"),
        ("B，因为天空是蓝色的", "B"),
        ("不是A，选C", "C"),
        ("A或B", None),
        ("正确答案是 B 选项", "B"),
        ("应该选B而不是C", "B"),
        ("选项B正确", "B"),
        # None at all.
        ("", None),
        ("None of these", None),
        ("I see a boat", None),
        ("E", None),
        ("The answer is E", None),
    ],
)  # fmt: skip
def test_the_letter_that_a_text_chooses(written: str, letter: str | None) -> None:
    assert option_letter(written, OPTIONS) == letter
    for right in OPTIONS:
        assert same_option(right, written, OPTIONS) == (right == letter)


def test_letters_without_known_texts() -> None:
    assert option_letter("I see two cats, so C.", dict.fromkeys("ABCD", "")) == "C"
    assert not same_option("A", None)


def test_options_that_are_letters_themselves() -> None:
    options = {"A": "C", "B": "A", "C": "B"}
    assert option_letter("The answer is B", options) == "B"


def test_equal_options_differ_by_the_letter_alone() -> None:
    options = {"A": "left", "B": "left"}
    assert option_letter("B. left", options) == "B"
    assert option_letter("left", options) is None


@pytest.mark.parametrize(
    ("expected", "written", "right"),
    [
        ("A, C", "The answer is A and C.", True),
        ("AC", "CA", True),
        ("A, C", "\\boxed{C, A}", True),
        ("A, C", "I choose A, C and not D", True),
        ("A, C", "A", False),
        ("A, C", "ABC", False),
        ("A, C", None, False),
        ("B", "**B.**", True),
    ],
)
def test_several_letters(expected: str, written: str | None, right: bool) -> None:
    assert same_options(expected, written) == right


@pytest.mark.parametrize(
    ("expected", "written", "right"),
    [
        ("MIRA II", "mira  ii", True),
        ("MIRA II", "**MIRA II**.", True),
        ("MIRA II", 'The answer is "MIRA II", because it is painted on the side.', True),
        ("MIRA II", "<think>MIRA I?</think><answer>MIRA II</answer>", True),
        ("MIRA II", "\\boxed{\\text{MIRA II}}", True),
        ("MIRA II", "MIRA I", False),
        ("MIRA II", "MIRA II or MIRA I", False),
        ("MIRA II", "", False),
        ("MIRA II", None, False),
        ("MIRA II", "The text on the lifebelt is MIRA II.", True),
        ("MIRA II", "It says 'MIRA II'.", True),
        ("MIRA II", "What is written on the **belt** reads **MIRA II**", True),
        ("MIRA II", "The answer is that the lifebelt shows MIRA II.", True),
        ("red", "The color of the kite is red.", True),
        ("red", "It is not red.", False),
        ("not red", "It is not red.", True),
        ("red", "It isn't red.", False),
        ("red", "I do not think that it is red.", False),
        ("red", "I cannot say whether it is red.", False),
        ("red", "Is it a kite? It is red", False),
        ("red", "It is red or blue.", False),
        ("red", "It is red. No, it is blue.", False),
        ("blue", "It is red. No, it is blue.", False),
        ("blue", "The kite is red and the boat is blue.", False),
        ("on", "It is red because the light is on.", False),
        ("on", "The answer is red because the light is on.", False),
        ("on", "Answer: red because the light is on.", False),
        ("the lake", "A lake", True),
        ("A", "A", True),
        ("A", "a", True),
        ("-5", "5", False),
        ("(-2, 1)", "[-2, 1]", False),
        ("红色", "答案：红色。", True),
        ("ＡＢＣ", "abc", True),
    ],
)  # fmt: skip
def test_texts(expected: str, written: str | None, right: bool) -> None:
    assert same_text(expected, written) == right


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("14", 14),
        ("**14**", 14),
        ("The number is 14.", 14),
        ("The answer is 14, since 3 + 11 is that", 14),
        ("3 + 11 = 14", 14),
        ("$1,234.50", 1234.5),
        ("-\\frac{10}{4}", -2.5),
        ("\\boxed{\\frac12}", 0.5),
        ("½", 0.5),
        ("3/4 of it", 0.75),
        ("\u22123", -3),
        ("\u20133", -3),
        ("twenty\u2011one", 21),
        ("up to 7", None),
        ("7? No.", None),
        ("x = 1 or x = 2", None),
        ("Not a single one.", 0),
        ("None are visible.", 0),
        ("None of the above", None),
        ("1e3", 1000),
        ("about 14 m²", 14),
        ("Three.", 3),
        ("\\boxed{2.5 \\times 10^{3}}", 2500),
        ("\\boxed{2.5\\cdot10^{-3}\\text{ m}}", 0.0025),
        ("2.5×10³", 2500),
        ("2.5 × 10⁻³ m²", 0.0025),
        ("2.5 * 10^3", 2500),
        ("It is 2.5 x 10**3.", 2500),
        ("\\boxed{10^3}", 1000),
        ("1 * 10^9999", None),
        ("\\boxed{1{,}234}", 1234),
        ("\\boxed{1\\,234}", 1234),
        ("\\boxed{60^\\circ}", 60),
        ("\\boxed{60^{\\circ}}", 60),
        ("\\boxed{25\\%}", 25),
        ("\\boxed{x = \\left(14\\right)}", 14),
        ("\\boxed{14\\text{ cm}^2}", 14),
        ("\\boxed{\\sqrt{196} = 14}", 14),
        ("The answer is 14, since \\sqrt{9} + 11 is that", 14),
        ("\\boxed{2\\sqrt3}", None),
        ("\\boxed{2√3}", None),
        ("\\boxed{\\frac{\\sqrt{3}}{2}}", None),
        ("\\boxed{2\\pi}", None),
        ("\\boxed{2^{10}}", None),
        ("\\boxed{2 \\times 3}", None),
        ("The answer is $2\\sqrt{3}$.", None),
        ("\\boxed{13} no, \\boxed{14}", 14),
        ("\\boxed {13} or \\boxed  { 14 }", 14),
        ("The answer is:\n\n14", 14),
        ("3 dogs and 2 cats", None),
        ("14 or 15", None),
        ("The answer is 14 or 15", None),
        ("many", None),
        ("", None),
        ("\\boxed{1", None),
        ("1/0", None),
        ("9" * 5000, None),
    ],
)
def test_the_number_that_a_text_states(written: str, value: float | None) -> None:
    assert stated_number(written) == value


def test_numbers_within_a_tolerance() -> None:
    assert same_number("2.4", "2.43 m", 0.05)
    assert not same_number("2.4", "2.5", 0.05)
    assert not same_number("14", "14.4")
    assert not same_number("14", None)
    assert not same_number("no number", "14")


def test_a_value_is_a_number_only_if_nothing_else_is_expected() -> None:
    assert same_value("12.97", "The answer is 12.973 g")
    assert same_value("3 oars", "3 oars")
    assert not same_value("3 oars", "3 boats")


def test_only_the_end_of_a_long_text_is_read() -> None:
    assert len(final_answer("x" * 10 * MAX_CHARACTERS)) == MAX_CHARACTERS
    assert option_letter("Maybe A. " * 100_000 + "The answer is B.", OPTIONS) == "B"


@pytest.mark.parametrize(
    "piece",
    [
        *("\\boxed{", "answer ", "the answer is ", "(", '["', " ", "\n", "*", "1,", "1/", "A or "),
        *("not ", "答案", "选", "\\(", "$$a", "1 or", "A", "I choose", "<answer>", "\\frac1"),
        *("A-", "A:", "n't a ", "\\boxed{A}", "1 or x="),
    ],
)
def test_long_nonsense_takes_no_time(piece: str) -> None:
    """Patterns that go back over a text for each of its places would take minutes."""
    began = process_time()  # whatever else the machine does
    for written in (piece * (MAX_CHARACTERS // len(piece)), piece + " " * MAX_CHARACTERS + "x"):
        option_letter(written, OPTIONS)
        same_text("A", written)
        stated_number(written)
        same_options("A, C", written)
        expression(written)
    assert process_time() - began < 10


PIECES = st.sampled_from(
    [
        *("\\boxed{", "}", "{", "<answer>", "</answer>", "</think>", "the answer is ", "answer:"),
        *(
            "A",
            "(B)",
            " or ",
            "not ",
            "\n",
            "\\frac",
            "12",
            "/0",
            "=",
            "答案是",
            "**",
            "$",
            "1e999",
        ),
        *(",", ".", "²", "\ud800", "\0", "isn't ", "red", "İ", "\ufdfa"),
    ]
)


@settings(deadline=None, max_examples=400)
@given(st.text(max_size=40) | st.lists(PIECES, max_size=12).map("".join), st.text(max_size=6))
def test_no_scorer_ever_raises(written: str, expected: str) -> None:
    options = {**OPTIONS, "E": expected, "F": "("}
    assert option_letter(written, options) in {None, *options}
    assert not same_option("A", written, options) or not same_option("B", written, options)
    for scorer in (same_text, same_number, same_value, same_options):
        assert scorer(expected, written) in (True, False)
