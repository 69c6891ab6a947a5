r"""Whether an answer is right: pure rules over text, and never a model that judges.

A model rarely writes the bare answer. What a text *states* as its answer is looked for in this
order, and the first that is there counts:

1. the inside of the last ``<answer>``, or else what follows the last ``</think>``; within that
2. the last ``\boxed{..}``: a later one revises an earlier one;
3. what follows the last phrase like "the answer is", "Answer:", "I choose", "答案是";
4. the whole text.

Options have further rules of their own (`option_letter`). A text that states nothing, or two
things at once ("A or B"), is wrong. No rule raises, whatever the text. Answers in mathematics are
compared by `visreplay.tasks.mathematics`.
"""

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from string import ascii_uppercase

MAX_CHARACTERS = 20_000
"""Only the end of a longer text is looked at."""

LETTERS: Mapping[str, str] = dict.fromkeys(ascii_uppercase[:10], "")
"""Options whose texts are not known: they are in the picture."""

_STATEMENT = 400
"""Characters after a phrase that are looked at, and the number of statements."""

# What repeats in these patterns is bounded: they run over whatever a model wrote.
_TAGGED = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL | re.IGNORECASE)
_WRAPPERS = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|operatorname|emph)\s*\{([^{}]*)\}"
)
_MARKUP = re.compile(r"[`$]|\*{2,}|(?<!\w)\*|\*(?!\w)|\\[()\[\],;!]|(?<!\w)_+|_+(?!\w)")
_PHRASE = re.compile(
    r"\b(?:answers?|option|choice|solution|result)\b(?:\s+(?:to|for)\b[^.:\n]{1,60}?)?"
    r"(?:\s+(?:is|are|would be|should be|must be)\b(?!\s+not\b)|\s*[:=])\s*[:=]?\s*"
    r"|\bI(?:'d| would|'ll| will)?\s+(?:choose|pick|select|go with|answer)\b\s*[:=]?\s*"
    r"|(?:答案|选项)\s*(?:应该|应当|应)?\s*(?:是|为|选|:)\s*:?\s*"
    r"|(?<!不)(?:应选|故选|选择|选)\s*:?\s*(?=\W*[A-Z](?![A-Za-z0-9]))",
    re.IGNORECASE,
)
_NO_LETTER = r"(?![A-Za-z0-9'])"
_LETTER = rf"(?:(?:option|choice|letter)\s+)?[(\[\"]{{0,2}}([A-Z]){_NO_LETTER}"
_JUDGED = re.compile(
    r"(?<![A-Za-z0-9'])[(\[]?([A-Z])[)\]]?\s+(?:is|would be|must be|seems)\s+(?:the\s+)?"
    r"(?:correct|right|best|answer)\b|(?<![A-Za-z0-9'])([A-Z])\s*(?:是)?(?:正确|对的)"
)
_LONE = re.compile(rf"^\W{{0,4}}{_LETTER}\W{{0,4}}$", re.MULTILINE)
_NEGATED = re.compile(
    rf"(?:\b(?:not|n't|neither|nor|never|instead of|rather than|except)|n't|不是|不选|而非|排除)"
    rf"\W{{0,4}}(?:(?:be|the|an?|option|choice)\s+){{0,3}}[(\[]?[A-Z]{_NO_LETTER}[)\]]?"
    rf"|(?<![A-Za-z0-9'])[(\[]?[A-Z]{_NO_LETTER}[)\]]?\s+(?:is|are|was)(?:n't|\s+(?:not|wrong|incorrect|false))"
    r"(?:\s+(?:right|correct|true))?|(?<![A-Za-z0-9'])[A-Z]\s*(?:不对|错误|是错)"
)
_MARKED = re.compile(r"(?<![A-Za-z0-9'])([A-Z])[).:]")
_MENTION = re.compile(rf"(?<![A-Za-z0-9'\\])([(\[]?)([A-Z]){_NO_LETTER}(?=(\s+[a-z])?)")
_SENTENCE_END = re.compile(r"[.;。;](?:\s|$)|\n")
_EDGES = " \t\r\n.,;:!?\"'()[]{}<>。、,·「」『』\u201c\u201d\u2018\u2019"
_OUTER = re.sub(r"[()\[\]{}<>]", "", _EDGES)
_ARTICLE = re.compile(r"^(?:the|an?)\s+(?=\S)")


def same_text(expected: str, answer: str | None) -> bool:
    """Whether an answer is the expected text.

    Letter case, white space, Markdown, punctuation at the ends and an article in front do not
    count. The whole answer is compared, what it states, and the first sentence of that.
    """
    if answer is None:
        return False
    wanted, text = _bare(expected), _plain(final(answer))
    if not wanted:
        return text == _plain(expected)
    candidates = [text]
    if (said := stated(text)) is not None:
        sentence = _SENTENCE_END.split(said)[0]
        candidates += [said, sentence, re.split(r",\s+(?:because|since|as)\b", sentence)[0]]
    return any(_bare(candidate) == wanted for candidate in candidates)


def same_number(expected: str, answer: str | None, tolerance: float = 1e-9) -> bool:
    """Whether an answer states a number within `tolerance` (absolute) of the expected one.

    Units and percent signs are not looked at.
    """
    if answer is None:
        return False
    wanted, found = number(expected), number(answer)
    return wanted is not None and found is not None and abs(wanted - found) <= tolerance


def same_value(expected: str, answer: str | None) -> bool:
    """Whether an answer is the expected text or, if that is a bare number, equal to two decimals.

    The rule of MMMU's own evaluation for open questions.
    """
    is_number = re.fullmatch(r"[-+\u2212]?[\d.,/]*\d", expected.strip()) is not None
    return same_text(expected, answer) or (is_number and same_number(expected, answer, 0.005))


def same_option(expected: str, answer: str | None, options: Mapping[str, str] = LETTERS) -> bool:
    """Whether an answer chooses the expected option, by `option_letter`."""
    return answer is not None and option_letter(answer, options) == expected.strip().upper()


def same_options(expected: str, answer: str | None, options: Mapping[str, str] = LETTERS) -> bool:
    """Whether an answer chooses all of several options ("A, C") and no other."""
    wanted = set(re.findall("[A-Z]", expected.upper()))
    if answer is None or len(wanted) < 2:
        return same_option(expected, answer, options)
    text = _plain(final(answer))
    said = stated(text)
    sentence = _SENTENCE_END.split(text if said is None else said)[0].strip(_EDGES)
    if re.fullmatch("[A-Z]{2,}", sentence):
        return set(sentence) == wanted
    without = _NEGATED.sub(" ", sentence)
    if said is not None:
        return {letter for _, letter, _ in _MENTION.findall(without)} == wanted
    return set(_mentions(without, options)) == wanted


def option_letter(answer: str, options: Mapping[str, str]) -> str | None:
    r"""The letter of the option that an answer chooses, or None if it chooses none or several.

    In this order, after `final`:

    1. The last ``\boxed{..}``, if a letter stands first in it, or an option's text is in it.
    2. Statements, the last first: "the answer is (C) because A..", "B is correct", a line that
       holds only a letter. Two letters in one statement ("A or B") choose nothing.
    3. A letter at the very beginning with a mark behind it: "B) red", "C: ..".
    4. The only letter that is mentioned; "not A", "A is wrong", the article A, the pronoun I and
       letters inside of an option's text are no mentions.
    5. The only option whose text is there.

    An option's text alone is as good as its letter, but where both are there and disagree, the
    letter counts: it was asked for. A lower-case letter counts where it stands alone.

    Args:
        answer: What a model wrote.
        options: Texts by upper-case letter; the texts may be empty.
    """
    text = _plain(final(answer))
    box = last_box(text)
    if box is not None and (found := _chosen(box, options)) is not None:
        return found or None
    without = _NEGATED.sub(" ", text)
    statements = [
        (m.start(), without[m.end() : m.end() + _STATEMENT]) for m in _PHRASE.finditer(without)
    ]
    statements += [(m.start(), m[1] or m[2]) for m in _JUDGED.finditer(without)]
    statements += [(m.start(1), m[1]) for m in _LONE.finditer(without)]
    for _, statement in sorted(statements, reverse=True)[:_STATEMENT]:
        found = _chosen(statement.partition("\n")[0], options)
        if found is not None:
            return found or None
    if len(set(_MARKED.findall(without)) & set(options)) < 2:  # or else the options are repeated
        found = _chosen(text, options, marked=True)
        if found is not None:
            return found or None
    mentioned = set(_mentions(without, options))
    if mentioned:
        return mentioned.pop() if len(mentioned) == 1 else None
    return _by_text(text, options)


def number(text: str) -> float | None:
    r"""The number that a text states, or None if it states none or several.

    Signs, thousands ("1,234.5"), fractions (3/4, ``\\frac34``), exponents and the words from zero
    to twelve are read. Of an equation the right-hand side counts.
    """
    # The exponents of units would become digits.
    plain = _plain(re.sub("[⁰¹²³⁴-⁹]", "^", final(text))).translate(_SIGNS)
    if "\\boxed" in plain and last_box(plain) is None:
        return None  # it breaks off: more digits may have been to come
    said = stated(plain)
    sentence = plain if said is None else _SENTENCE_END.split(said)[0]
    sentence = _FRACTION.sub(lambda m: f"{m[1] or m[2]}/{m[3] or m[4]}", sentence)
    if (word := _bare(sentence)) in _WORDS:
        return float(_WORDS.index(word))
    found = _numbers(sentence.rpartition("=")[2]) or _numbers(sentence)
    if said is not None and len(found) > 1 and not _ALTERNATIVE.search(sentence):
        found = found[:1]  # "14, since 3 + 11": what follows is a reason
    return found[0] if len(set(found)) == 1 else None


def final(text: str) -> str:
    """A text without the thinking before its answer, and without the tags around that."""
    text = text[-MAX_CHARACTERS:]
    tagged = _TAGGED.findall(text)
    return str(tagged[-1]) if tagged else text.rpartition("</think>")[2]


_SIGNS = str.maketrans("\u2212\u2044", "-/")  # the minus sign, and the bar of a fraction
_WORDS = tuple(
    "zero one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
)
_NUMBER = re.compile(
    r"(?<![\w.])([-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?)"
    r"(?:\s*/\s*(\d+(?:\.\d+)?))?"
)
_FRACTION = re.compile(r"(?<!\d)\\[dt]?frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")
_ALTERNATIVE = re.compile(r"\d\s*\S{0,8}\s*(?:\bor\b|\band\b|\bto\b|或|和|~)\s*[-+]?\d")


def _numbers(text: str) -> list[float]:
    values = []
    for top, bottom in _NUMBER.findall(text):
        value = float(top.replace(",", ""))
        if bottom:
            value = value / float(bottom) if float(bottom) else math.inf
        if math.isfinite(value):
            values.append(value)
    return values


def _plain(text: str) -> str:
    """Full-width characters made narrow; Markdown and LaTeX around words taken away."""
    text = unicodedata.normalize("NFKC", text).replace("\u2019", "'")
    return _MARKUP.sub("", _WRAPPERS.sub(r"\1", text)).strip()


def _bare(text: str) -> str:
    """A text as it is compared."""
    text = " ".join(_plain(text).casefold().split()).strip(_OUTER)
    # Brackets around one word are decoration; around more they can mean an interval.
    text = re.sub(r"^[(\[{<](\w+)[)\]}>]$", r"\1", text)
    return _ARTICLE.sub("", text)


def last_box(text: str) -> str | None:
    r"""The inside of the last closed ``\boxed{..}``."""
    opened: list[int | None] = []
    start = end = -1
    for brace in re.finditer(r"\\boxed\s?\{|\\[{}]|[{}]", text):
        if brace[0] == "}" and opened:
            begin = opened.pop()
            if begin is not None and begin > start:
                start, end = begin, brace.start()
        elif brace[0][-1] == "{" and brace[0] != "\\{":
            opened.append(brace.end() if len(brace[0]) > 1 else None)
    return text[start:end] if start >= 0 else None


def stated(text: str) -> str | None:
    """The inside of the last box, or what follows the last phrase."""
    box = last_box(text)
    if box is not None:
        return box
    *_, last = (None, *_PHRASE.finditer(text))
    return None if last is None else text[last.end() :]


def _chosen(text: str, options: Mapping[str, str], *, marked: bool = False) -> str | None:
    """The letter that a statement chooses; "" if it chooses several, None if none.

    Args:
        text: The statement.
        options: Texts by letter.
        marked: The letter needs a mark, or its own option's text, behind it.
    """
    bare = _bare(text)
    if len(bare) > 1 and len(same := [k for k, v in options.items() if _bare(v) == bare]) == 1:
        return same[0]
    match = re.match(
        rf"\W{{0,9}}(?:(?:option|choice|letter)\s+)?\W{{0,9}}([A-Za-z]){_NO_LETTER}(.*)",
        text,
        re.DOTALL | re.IGNORECASE,
    )
    if match and (letter := match[1].upper()) in options:
        rest = match[2]
        alone = not rest.strip(_EDGES)
        is_marked = alone or re.match(r"\s*[)\].:,。、\n]|\s+[-\u2013]\s", rest) is not None
        own = bool(options[letter]) and _bare(rest) == _bare(options[letter])
        if is_marked or own or (match[1].isupper() and not marked):
            other = re.match(
                rf"\W{{0,9}}(?:\s(?:or|and)\s|[/&]|或|和|与|,(?=\s*\W?[A-Z]\W*(?:$|[,.]|or\b|and\b)))"
                rf"\W{{0,9}}(?:option\s+)?\W{{0,9}}([A-Z]){_NO_LETTER}",
                rest,
            )
            return "" if other and other[1] in options and other[1] != letter else letter
    if marked:
        return None
    return _by_text(_SENTENCE_END.split(text)[0], options) or _by_text(text, options)


def _mentions(text: str, options: Mapping[str, str]) -> Iterator[str]:
    """The letters that a text mentions, outside of the options' own texts."""
    for option in sorted(options.values(), key=len, reverse=True):
        if len(option := _plain(option)) > 1:
            text = re.sub(rf"(?<!\w){re.escape(option)}(?!\w)", " ", text, flags=re.IGNORECASE)
    for bracket, letter, word in _MENTION.findall(text):
        if letter in options and not (word and not bracket and letter in "AI"):
            yield letter


def _by_text(text: str, options: Mapping[str, str]) -> str | None:
    """The only option whose text stands in a text as whole words and is not denied."""
    bare = _bare(text)
    found: dict[str, str] = {}
    for letter, option in options.items():
        wanted = _bare(option)
        denied = r"(?:\b(?:not|neither|nor|instead of|rather than)|n't|不是)\s*(?:the |an? )?"
        if wanted and re.search(
            rf"(?<!\w){re.escape(wanted)}(?!\w)", re.sub(denied + re.escape(wanted), " ", bare)
        ):
            found[letter] = wanted
    longest = {
        letter: option
        for letter, option in found.items()
        if not any(option != other and option in other for other in found.values())
    }
    return next(iter(longest)) if len(longest) == 1 else None
