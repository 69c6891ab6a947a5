"""Whatever a model writes, scorers judge it; `make fuzz` tries far more answers."""

import json
from pathlib import Path

from fuzzing import fuzzing
from hypothesis import example, given
from hypothesis import strategies as st

from visreplay.tasks.questions import options_by_letter
from visreplay.tasks.scoring.answer_extraction import MAX_CHARACTERS
from visreplay.tasks.scoring.mathematics import expression
from visreplay.tasks.scoring.multiple_choice import option_letter
from visreplay.tasks.scoring.scorers import SCORER_KINDS, Scorer

FUZZING = fuzzing(60, 5000)
ANSWERS = [
    json.loads(line)["answer"]
    for file in sorted((Path(__file__).parents[2] / "data" / "answers").glob("*.jsonl"))
    for line in file.read_text("utf-8").splitlines()
]
ODD = [
    *("\\boxed{", "}", "{", "<answer>", "</answer>", "</think>", "the answer is ", "answer:"),
    *("A", "(B)", "'C'", " or ", "not ", "neither ", "\n", "\\frac", "12", "/0", "=", "答案是"),
    *("**", "$", "1e999", ",", ".", "²", "½", "\ud800", "\0", "isn't ", "red", "İ", "\ufdfa", "["),
    *('{"answer": ', '"', "twenty", " thousand", "no ", "if ", "whether ", "wait, ", "so "),
]
PIECES = st.sampled_from(ODD) | st.sampled_from(ANSWERS).map(lambda answer: answer[:40])
WRITTEN = (
    st.sampled_from(ANSWERS)
    | st.lists(PIECES, max_size=12).map("".join)
    | st.text(max_size=60)
    | st.builds(
        lambda piece, end: piece * (MAX_CHARACTERS // max(1, len(piece))) + end, PIECES, PIECES
    )
)
OPTIONS = st.lists(
    st.sampled_from(
        ["red", "Yes", "No", "5", "12 cm", "(", "", "The kite is left.", "none of them"]
    )
    | st.text(max_size=12),
    min_size=2,
    max_size=8,
).map(options_by_letter)
SPACE = st.text(alphabet=" \t\n", max_size=4)
ONES = (  # noqa: SIM905
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905


@FUZZING
@given(st.sampled_from(SCORER_KINDS), WRITTEN, st.text(max_size=6) | PIECES, OPTIONS)
@example("letters", "\\boxed{A} \\boxed{" * 2000, "A, B", {"A": "", "B": ""})
@example("option", "not A or " * 2000, "A", {"A": "not", "B": "or"})
def test_every_answer_has_a_verdict(
    kind: str, written: str, expected: str, options: dict[str, str]
) -> None:
    if kind == "mathematics":  # without its child process
        stated = expression(written)
        assert stated is None or isinstance(stated, str)
        return
    verdict = Scorer(kind, options).judge(expected, written)  # type: ignore[arg-type]
    assert verdict.right in (True, False)
    assert verdict.rule
    assert verdict == Scorer(kind, options).judge(expected, written)  # type: ignore[arg-type]


@FUZZING
@given(WRITTEN, OPTIONS)
def test_at_most_one_option_is_right(written: str, options: dict[str, str]) -> None:
    right = [letter for letter in options if Scorer("option", options).judge(letter, written).right]
    assert len(right) <= 1
    assert option_letter(written, options) == (right[0] if right else None)


@FUZZING
@given(st.sampled_from(SCORER_KINDS), WRITTEN, OPTIONS, SPACE, SPACE)
def test_space_around_an_answer_changes_nothing(
    kind: str, written: str, options: dict[str, str], before: str, after: str
) -> None:
    if kind == "mathematics" or len(written) > MAX_CHARACTERS - 20:
        return
    scorer = Scorer(kind, options)  # type: ignore[arg-type]
    for expected in ("A", "5", "yes", "red"):
        right = scorer.judge(expected, written).right
        assert scorer.judge(expected, f"{before}{written}{after}").right == right


@FUZZING
@given(OPTIONS, st.data())
def test_a_letter_alone_chooses_its_option(options: dict[str, str], data: st.DataObject) -> None:
    letter = data.draw(st.sampled_from(sorted(options)))
    for written in (letter, f"({letter})", f"The answer is {letter}.", f"\\boxed{{{letter}}}"):
        assert option_letter(written, options) == letter


@FUZZING
@given(st.integers(-(10**9), 10**9), st.integers(0, 99))
def test_a_number_is_read_as_it_is_written(whole: int, hundredths: int) -> None:
    for value in (f"{whole}", f"{whole}.{hundredths:02}", f"{whole:,}"):
        for written in (
            value,
            f"The answer is {value}.",
            f"\\boxed{{{value}}} cm",
            f"It is {value}",
        ):
            assert Scorer("number").judge(value, written).right, written


@FUZZING
@given(st.integers(0, 999_999))
def test_a_numeral_is_read_as_its_number(number: int) -> None:
    assert Scorer("number").judge(str(number), f"There are {spelled(number)} birds.").right


def spelled(number: int) -> str:
    if number >= 1000:
        rest = f" {spelled(number % 1000)}" if number % 1000 else ""
        return f"{spelled(number // 1000)} thousand{rest}"
    if number >= 100:
        rest = f" and {spelled(number % 100)}" if number % 100 else ""
        return f"{ONES[number // 100]} hundred{rest}"
    if number >= 20:
        return TENS[number // 10 - 2] + (f"-{ONES[number % 10]}" if number % 10 else "")
    return ONES[number]
