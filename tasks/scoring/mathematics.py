r"""The comparison of mathematical answers: ``\frac12`` is 0.5, ``2\sqrt3`` is ``\sqrt{12}``.

math-verify parses LaTeX with a grammar and compares with SymPy. Its input was written by a model:
``9^{9^{9^9}}`` would keep SymPy busy for ever, inside of one arithmetic operation that no signal
interrupts. So it runs in a child process, whose program is this module. The child has a limit on
memory, and is killed when a comparison takes too long. This works in any thread, unlike
math-verify's own time limits.

    tasks/scoring/mathematics.py (parent)  -> {"expected": .., "answer": ..}   one line of JSON
                         (child)   <- true or false
"""

import atexit
import json
import logging
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock, Timer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from visreplay.tasks.types import Verdict

SECONDS = 10.0
"""The most seconds of a comparison; after them, the answer is wrong."""
MEMORY_LIMIT = 4 << 30
"""Bytes of address space that the child may use, where the system can limit it."""
PROGRAM = Path(__file__).resolve()
"""The program of the child."""
MAX_CHARACTERS = 500
"""The most characters of an expression; a longer one is wrong."""

_LATEX = re.compile(
    r"\$\$(.{1,500}?)\$\$|\$(.{1,500}?)\$|\\\((.{1,500}?)\\\)|\\\[(.{1,500}?)\\\]", re.DOTALL
)
_DELIMITERS = re.compile(r"\$+|\\[()\[\]]")
_BETWEEN = re.compile(
    r"\s{0,3},?\s{0,3}(?:\b(?:or|and)\b|\\text\s?\{\s?(?:or|and)\s?\}|或|和)\s{0,3}|\s{0,3},\s{1,3}"
)
_UNIT_POWER = re.compile(r"(?<=\s[cmk]m)[²³]|(?<=\sm)[²³]")
_EQUATION = re.compile(r"(?<![A-Za-z\\])([A-Za-z])\s?=\s?([^=]{1,100})$")
_MAX_SOLUTIONS = 50
_SO = re.compile(
    r"(?<![\\A-Za-z])(?:so|therefore|thus|hence)\b[\s,]*|\\(?:Rightarrow|implies)\b|[\u21d2\u2234]",
    re.IGNORECASE,
)
_OR = re.compile(r"\b(?:or|and)\b|或|和")
_WORD = re.compile(
    r"(?<![\\A-Za-z])(?!(?:sin|cos|tan|cot|sec|csc|log|exp|sqrt)\b)"
    r"(?:[A-Za-z]{3,}|(?:or|is|as|to|of|in|cm|mm|km|kg|ml)\b)|[\u4e00-\u9fff]+"
)
_SYMBOLS = str.maketrans(
    {
        "\u2212": "-",
        "\u2013": "-",
        "π": r"\pi ",
        "\u00d7": r"\times ",
        "÷": r"\div ",
        "°": r"^\circ ",
    }
)


def require_math_verify() -> None:
    """Start math-verify, before a run that needs it begins.

    Raises:
        ImportError: It is missing or cannot be imported; the message says how to install it.
    """
    if find_spec("math_verify") is None:
        raise ImportError("answers in mathematics need math-verify: pip install 'visreplay[eval]'")
    _CHILD.start()


def same_mathematics(expected: str, answer: str | None) -> bool:
    """Tell whether an answer is right by `judge_mathematics`."""
    return answer is not None and judge_mathematics(expected, answer).right


def judge_mathematics(expected: str, answer: str) -> "Verdict":
    """Judge whether an answer states a value equal to the expected one, or the same text.

    Raises:
        ImportError: math-verify is not installed, or cannot be imported.
    """
    # Imported here: the child runs this file, and needs nothing else of the package.
    from visreplay.tasks.scoring.texts import judge_text
    from visreplay.tasks.types import Verdict

    same = judge_text(expected, answer)
    if same.right:
        return same
    written = expression(answer)
    if written is None:
        return Verdict(False, "no expression, or several")
    if len(written) > MAX_CHARACTERS:
        return Verdict(False, f"an expression of more than {MAX_CHARACTERS} characters")
    equal = _CHILD.compare(_latex(expected), _latex(written))
    return Verdict(equal, f"math-verify: {'equal' if equal else 'not equal'}", written)


def expression(answer: str) -> str | None:
    r"""Find the expression that an answer states; None if it states none or several.

    The first of these counts: the inside of the last ``\boxed{..}``; in the sentence after the last
    "the answer is", or in the text or the part of it after "so", all solutions of "x = 1 or x = 2";
    in that sentence, the first LaTeX or the part before the first word; the only LaTeX of the text;
    a text without words, or its part before a unit; the words after the verb before a unit; the
    only number.
    """
    from visreplay.tasks.scoring.answer_extraction import (
        SENTENCE_END,
        final_answer,
        last_box,
        stated_answer,
    )
    from visreplay.tasks.scoring.numerals import stated_number
    from visreplay.tasks.scoring.texts import claim_of

    text = _UNIT_POWER.sub("", final_answer(answer)).strip()
    if (box := last_box(text)) is not None:
        return box
    if "\\boxed" in text:
        return None  # denied, or not closed: more digits could have followed
    statement = stated_answer(text)
    sentence = text if statement is None else SENTENCE_END.split(statement.strip())[0]
    # Behind "the answer is", what follows "so" is another matter.
    *reasons, conclusion = [sentence] if statement is not None else _SO.split(sentence)
    if (solutions := _solutions(conclusion)) is not None:
        return solutions
    if reasons and (equation := _EQUATION.fullmatch(_DELIMITERS.sub("", conclusion).strip(" ."))):
        return equation[2]
    spans = [next(filter(None, groups)).strip() for groups in _LATEX.findall(sentence)]
    words = _WORD.search(sentence)
    if spans:
        alternatives = len(set(spans)) > 1 and (statement is None or _OR.search(sentence))
        return None if alternatives else spans[0]
    if not words:
        return sentence.rstrip(".,;:。") or None
    start, rest = sentence[: words.start()].strip(" ,;:"), sentence[words.start() :]
    # The rest is a unit or a reason.
    if start and (statement is not None or not re.search(r"\d", rest)):
        return None if _OR.match(rest) else start
    claim = claim_of(text) if statement is None else None
    if claim and (unit := _WORD.search(claim)) and not re.search(r"\d", claim[unit.start() :]):
        return claim[: unit.start()].strip(" ,;:") or None
    value = stated_number(text)
    return None if value is None else repr(value)


def _solutions(sentence: str) -> str | None:
    """List the values of "x = 1 or x = 2" with commas between; None if there are not several."""
    plain = _DELIMITERS.sub(" ", sentence).strip(" .。")
    first, *others = _BETWEEN.split(plain)[:_MAX_SOLUTIONS]
    equation = _EQUATION.search(first)
    if not others or (equation is None and (_WORD.search(first) or not _OR.search(plain))):
        return None
    values = [first if equation is None else equation[2]]
    for other in others:
        same = _EQUATION.fullmatch(other)
        value = same[2] if same and equation and same[1] == equation[1] else other
        if "=" in value or _WORD.search(value):
            return None
        values.append(value)
    return ", ".join(value.strip() for value in values)


def _latex(text: str) -> str:
    """Replace the Unicode symbols that people write for LaTeX."""
    text = text.translate(_SYMBOLS)
    return text.replace("√{", r"\sqrt{").replace("√(", r"\sqrt(").replace("√", r"\sqrt ")


class _Child:
    """The child process; a comparison starts it where it does not run, or was killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = Lock()

    def start(self) -> None:
        with self._lock:
            self._started()

    def compare(self, expected: str, answer: str) -> bool:
        with self._lock:
            process = self._started()
            assert process.stdin is not None and process.stdout is not None
            timer = Timer(SECONDS, process.kill)
            timer.start()
            try:
                print(json.dumps([expected, answer]), file=process.stdin, flush=True)
                line = process.stdout.readline()
            except BrokenPipeError:
                line = ""
            finally:
                timer.cancel()
            if not line:  # the child was killed, or ran out of memory
                self.stop()
            return line == "true\n"

    def _started(self) -> "subprocess.Popen[str]":
        if self._process is not None:
            return self._process
        with TemporaryFile() as errors:
            # -P: this folder's types.py would hide the standard library's.
            process = subprocess.Popen(
                [sys.executable, "-P", str(PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
            )
            assert process.stdout is not None
            # After "ready" it has imported SymPy; the time limit starts now.
            if process.stdout.readline() != "ready\n":
                process.kill()
                process.communicate()
                errors.seek(0)
                why = errors.read().decode("utf-8", "replace").strip() or "it printed nothing"
                raise ImportError(
                    "answers in mathematics need math-verify, which cannot be started: "
                    f"{why[-1000:]}\n"
                    "Install it anew: pip install --force-reinstall 'visreplay[eval]'"
                )
        self._process = process
        return process

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


_CHILD = _Child()
atexit.register(_CHILD.stop)


def _serve() -> None:
    """Compare the pairs of expressions on standard input until it ends."""
    from math_verify import parse, verify

    logging.disable()
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    except (ImportError, ValueError, OSError):
        pass  # this system cannot limit memory; the time limit holds

    def parsed(text: str) -> list[object]:
        return list(parse(rf"\boxed{{{text}}}", parsing_timeout=None))

    print("ready", flush=True)
    for line in sys.stdin:
        expected, answer = json.loads(line)
        try:
            right = verify(parsed(expected), parsed(answer), timeout_seconds=None)
        except (Exception, RecursionError, MemoryError):
            right = False
        print(json.dumps(bool(right)), flush=True)


if __name__ == "__main__":
    _serve()
