"""Extraction of the option, or of all options, that an answer chooses."""

import re
from collections.abc import Mapping

from visreplay.agent.protocols.parsing import boxed
from visreplay.tasks.scoring.answer_extraction import (
    BOX,
    EDGES,
    PHRASE,
    SENTENCE_END,
    Reading,
    final_answer,
    normalise,
    stated_answer,
    strip_markup,
    without_denied_boxes,
)
from visreplay.tasks.scoring.denials import SO, TAKES_BACK
from visreplay.tasks.scoring.letters import (
    AFTER_LETTER,
    BEFORE_LETTER,
    OPERATOR,
    is_word,
    mentions,
    stated_letters,
)
from visreplay.tasks.scoring.option_texts import named_options, option_by_text

_BY_TEXT = "an option's text"
_BY_LETTER = "the letter"
_MAX_STATEMENT = 400
"""The most characters that are read after a phrase."""
_MAX_STATEMENTS = 50
"""The most statements that are tried, from the last."""
_LETTER = rf"(?:(?:option|choice|letter)\s+)?[(\[\"']{{0,2}}([A-Z]){AFTER_LETTER}"
_POSITION = (
    r"\s+(?:of|next|to|in|on|at|by|above|below|under|over|beside|behind|near|between|before|after"
    r"|there|here|where|hand|side|half|edge|corner)\b|-"
)
"""The words after "right" where it means the right-hand side, and not a right option."""
_JUDGED = re.compile(
    rf"{BEFORE_LETTER}[(\[]?([A-Z])[)\]]?\s+(?:is|must be|seems)\s+(?:the\s+)?(?:most\s+|more\s+)?"
    rf"(?:correct|right(?!{_POSITION})|best|answer|likely|plausible|likelier)\b"
    r"|(?<![A-Za-z0-9'])([A-Z])\s*(?:是)?(?:正确|对的)"
)
_CLAUSE_END = (
    r"(?=[)\]\"']{0,2}\s*(?:[.,;:!?\n。]|$|\s(?:because|since|as|instead)\b|\s[-\u2013]\s))"
)
_CONCLUSION = re.compile(
    rf"(?:(?i:\b(?:{SO}|{TAKES_BACK}|no(?=[,.;:!])|meant|rather|leaves|leaving"
    r"|(?:right|correct|best)\s(?:one|match|letter|guess)\sis))|所以|因此)[\s,:;.]{0,4}"
    r"(?i:(?:(?:no|wait|that|it|it's|is|must|be|i|meant|option|choice|answer|the|letter|only)"
    r"[\s,:]{1,2}){0,5})"
    rf"{_LETTER}{_CLAUSE_END}"
    rf"|(?i:\b(?:it|that)(?:'s|\sis|\smust\sbe|\sshould\sbe|\shas\sto\sbe)\s(?:option\s)?){_LETTER}"
    rf"{_CLAUSE_END}"
)
"""A letter after "so", "no, wait" or "it is", at the end of a clause."""
_LONE = re.compile(rf"^\W{{0,4}}{_LETTER}\W{{0,4}}$", re.MULTILINE)
_MARKED = re.compile(r"(?<![A-Za-z0-9'])([A-Z])[).:]")
_LEADING = re.compile(
    r"\W{0,9}(?:(?:option|choice|letter|answer|figure|picture|panel)\s+)?\W{0,9}"
    rf"([A-Za-z]){AFTER_LETTER}(?=(?:\s+([a-z]+))?)(.*)",
    re.DOTALL | re.IGNORECASE,
)
_OTHER = re.compile(
    r"\W{0,9}(?:\s(?:or|and)\s|[/&]|或|和|与|,(?=\s*\W?[A-Z]\W{0,9}(?:$|[,.]|or\b|and\b)))"
    rf"\W{{0,9}}(?:option\s+)?\W{{0,9}}([A-Z]){AFTER_LETTER}"
)
_BOXES = re.compile(r"(?:\\boxed\s?\{[^{}]{1,40}\}\s?(?:,|and|&)?\s?){2,9}")
_BOX = re.compile(BOX)
_LOOKS = re.compile(
    r"\\(?:bf|rm|sf|it|tt|[lL]arge|LARGE|[hH]uge|q?quad|checkmark|displaystyle)(?![A-Za-z])|\\[{}]|~"
)
"""LaTeX that does not change a letter."""
_BOXED_TERM = re.compile(rf"{BOX}(?=\s?(?:[+^<≈]|=(?!>)|{OPERATOR}))")
"""A box that is a part of a formula: "``\\boxed{E}`` = mc^2"."""
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}|[\u3040-\u9fff\uac00-\ud7a3]")
_ITEM = re.compile(
    rf"^\W{{0,6}}(?:\d{{1,2}}[.)]\s*)?\W{{0,3}}([A-Z]){AFTER_LETTER}(?:[).:]|\W{{0,9}}$)(.*)$"
)
_ALTERNATIVES = re.compile(
    rf"{BEFORE_LETTER}[A-Z]\W{{0,3}}(?:\bor\b|或)\W{{0,3}}[A-Z]{AFTER_LETTER}"
)
_SO = re.compile(rf"(?i:\b{SO}\b)|所以|因此")
_REASON = re.compile(r",?\s(?:because|since)\b")
_LETTERS_ONLY = re.compile(r"[A-Z](?:[\s,;&、/]*[A-Z])+")


def option_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """Find the letter of the option that an answer chooses; see `read_option`.

    Examples:
        >>> option_letter("A is wrong, so the answer is (B).", {"A": "red", "B": "blue"})
        'B'
    """
    return read_option(answer, options).value


def read_option(answer: str, options: Mapping[str, str]) -> Reading[str | None]:
    r"""Find the letter of the option that an answer chooses; None if it chooses none or several.

    The first of these that chooses an option counts, after `final_answer`:

    1. The last ``\boxed{..}``, if in it is a letter, alone or with a mark behind it. A box with an
       option's text is a statement. Letters in a box with another formula choose nothing.
    2. Statements, the last first: "the answer is (C) because A..", a line with nothing but a
       letter, "so B." and "no, wait: B.", and, where no "the answer is" chooses an option, "B is
       correct". A statement chooses by an option's text that is all of it, by a leading letter, by
       its only letter, or by the text of its only option. "A or B" chooses nothing.
    3. A letter at the very beginning with a mark behind it: "B) red", "C: ..".
    4. The only letter in the text. "not A", "A is wrong", the article A, the pronoun I, "A = 12",
       "point A" and letters within an option's text do not count.
    5. The only option that the text names in words (`option_by_text`).

    An option's text alone is as good as its letter. If both are there and disagree, the letter
    counts, because the question requests a letter. A lower-case letter counts where it stands
    alone.

    Args:
        answer: The text that a model wrote.
        options: Texts by upper-case letter; the texts may be empty.
    """
    text = _without_list(strip_markup(final_answer(answer)), options)
    text = without_denied_boxes(_BOXED_TERM.sub(" ", text))
    box = boxed(text)
    in_box = None if box is None else _boxed_choice(box, options)
    if in_box is not None and in_box.rule == _BY_LETTER:
        return _single(in_box, "in the last box")
    without = stated_letters(_BOX.sub(lambda box: _without_formula(box[0], options), text))
    last_box = without.rfind("\\boxed")
    stated = [
        (m.start(), without[m.end() : m.end() + _MAX_STATEMENT]) for m in PHRASE.finditer(without)
    ]
    concluded = [(m.start(), m[1] or m[2]) for m in _CONCLUSION.finditer(without)]
    judged = [(m.start(), m[1] or m[2]) for m in _JUDGED.finditer(without)]
    lone = [(m.start(1), m[1]) for m in _LONE.finditer(without)]
    boxes = [] if in_box is None else [(last_box, "")]
    after = dict.fromkeys([last_box], "in the last box")
    after |= {start: 'after "the answer is"' for start, _ in stated}
    after |= {start: 'after "so", "no, wait" or "it is"' for start, _ in concluded}
    after |= {start: 'in "is correct"' for start, _ in judged}
    after |= {start: "alone in a line" for start, _ in lone}
    # After "the answer is", a judgement is about the other options, or is a reason.
    after_box = [each for each in judged if boxes and each[0] > last_box]
    for statements in (
        [*stated, *boxes, *after_box, *concluded, *lone] if stated else [],
        [*judged, *boxes, *concluded, *lone],
    ):
        for start, statement in sorted(statements, reverse=True)[:_MAX_STATEMENTS]:
            line = statement.partition("\n")[0]
            chosen = in_box if (start, statement) in boxes else _choice(line, options)
            if chosen is not None:
                return _single(chosen, after[start])
    if not _repeats_options(without, options):
        chosen = _choice(without, options, marked=True)
        if chosen is not None:
            return _single(chosen, "at the beginning of the text")
    mentioned = set(mentions(without, options))
    if mentioned:
        only = mentioned.pop() if len(mentioned) == 1 else None
        return Reading(only, "the only letter in the text" if only else "several letters")
    return option_by_text(text, options)


def _boxed_choice(box: str, options: Mapping[str, str]) -> Reading[str] | None:
    """Find the letter that a box chooses; only in words may it stand in the middle."""
    if (chosen := _boxed_letter(box, options)) is not None:
        return chosen
    without = stated_letters(box)
    if _WORDS.search(box) and (chosen := _choice(without, options)) is not None:
        return chosen
    letter = option_by_text(box, options).value
    return None if letter is None else Reading(letter, _BY_TEXT)


def _without_formula(box: str, options: Mapping[str, str]) -> str:
    """Empty a box if it holds no words and no letter of an option."""
    inside = boxed(box) or ""
    return box if _WORDS.search(inside) or _boxed_letter(inside, options) else "\\boxed"


def _boxed_letter(box: str, options: Mapping[str, str]) -> Reading[str] | None:
    chosen = _choice(stated_letters(_LOOKS.sub(" ", box)), options, marked=True)
    return None if chosen is None or chosen.rule == _BY_TEXT else chosen


def _without_list(text: str, options: Mapping[str, str]) -> str:
    """Remove the lines in which a text repeats all options, if there is more in it."""
    repeated = {normalise(f"{letter}. {option}"): letter for letter, option in options.items()}
    lines = text.splitlines()
    places = [repeated.get(normalise(re.sub(r"^(\W*\w)[):]", r"\1.", line))) for line in lines]
    rest = [line for line, letter in zip(lines, places, strict=True) if letter is None]
    if len(options) > 1 and {*options} <= set(places) and any(line.strip() for line in rest):
        return "\n".join(rest)
    return text


def _repeats_options(text: str, options: Mapping[str, str]) -> bool:
    """Tell whether several letters with a mark begin a line, or stand before their own texts."""
    repeated = set()
    for mark in _MARKED.finditer(text):
        first = not text[: mark.start()].rpartition("\n")[2].strip(EDGES)
        option = strip_markup(options.get(mark[1], "")).casefold()
        own = option and text[mark.end() :].lstrip().casefold().startswith(option)
        if mark[1] in options and (first or own):
            repeated.add(mark[1])
    return len(repeated) > 1


def read_options(answer: str, options: Mapping[str, str]) -> Reading[set[str]]:
    """Find the letters of all options that an answer chooses; none in "A or C".

    The first of these counts: a list with a letter at the beginning of each line; letters alone;
    the letters of the sentence after "the answer is", or, without one, of the part after the last
    "so", the first sentence or the text; the options whose texts are there.
    """
    text = strip_markup(final_answer(answer))
    if boxes := _BOXES.findall(text):
        text = ", ".join(re.findall(r"\{([^{}]+)\}", boxes[-1]))
    text = re.sub(r"(?<=\b[A-Z]) ?\+ ?(?=[A-Z]\b)", ", ", text)
    statement = stated_answer(text)
    body = text if statement is None else statement.strip()
    items = [_ITEM.match(line) for line in body.splitlines() if line.strip()]
    if len(items) > 1 and all(items):
        return Reading({item[1] for item in items if item}, "a letter at the start of each line")
    for letter, option in options.items():  # "A. red, C. blue" is one sentence
        if option := strip_markup(option):
            marked = rf"(?<![A-Za-z0-9]){letter}[).:]\s?{re.escape(option)}(?!\w)"
            body = re.sub(marked, letter, body, flags=re.IGNORECASE)
    sentence = SENTENCE_END.split(body)[0].strip(EDGES)
    parts = {
        "the first sentence"
        if statement is None
        else 'the sentence after "the answer is"': sentence
    }
    if statement is None:
        *_, concluded = _SO.split(body)
        parts = {'the text after "so"': concluded} | parts if concluded != body else parts
        parts["the text"] = body
    readings = [_named(part, where, options) for where, part in parts.items()]
    several = (reading for reading in readings if len(reading.value) > 1)
    some = (reading for reading in readings if reading.value)
    return next(several, next(some, readings[0]))


def _named(part: str, where: str, options: Mapping[str, str]) -> Reading[set[str]]:
    """Find the letters, or else the options' texts, in a part of an answer."""
    if _LETTERS_ONLY.fullmatch(part.strip(EDGES)):
        return Reading(set(re.findall("[A-Z]", part)), f"the letters that are {where}")
    without = stated_letters(part)
    if _ALTERNATIVES.search(without):
        return Reading(set(), f'"or" between the letters in {where}')
    if letters := set(mentions(without, options)):
        return Reading(letters, f"the letters in {where}")
    return Reading(named_options(part, options), f"the options whose texts are in {where}")


def _single(chosen: Reading[str], where: str) -> Reading[str | None]:
    return Reading(chosen.value or None, f"{chosen.rule} {where}")


def _choice(text: str, options: Mapping[str, str], *, marked: bool = False) -> Reading[str] | None:
    """Find the letter that a statement chooses; "" if it chooses several, None if none.

    Args:
        text: The statement.
        options: Texts by letter.
        marked: Whether the letter needs a mark, or its own option's text, behind it.
    """
    written = normalise(text)
    same = [letter for letter, option in options.items() if normalise(option) == written]
    if len(written) > 1 and len(same) == 1:
        return Reading(same[0], _BY_TEXT)
    match = _LEADING.match(text)
    if match and (letter := match[1].upper()) in options:
        rest = match[3]
        alone = not rest.strip(EDGES)
        is_marked = alone or re.match(r"\s*[)\].:,。、\n]|\s-\s(?!\d|\\)", rest) is not None
        own = bool(options[letter]) and normalise(rest.lstrip(" -")) == normalise(options[letter])
        article = is_word(match[1], match[2] or "") and match[2] and any(options.values())
        if is_marked or own or (match[1].isupper() and not marked and not article):
            other = _OTHER.match(rest)
            if other and other[1] in options and other[1] != letter:
                return Reading("", "several letters")
            return Reading(letter, _BY_LETTER)
    if marked:
        return None
    sentence = SENTENCE_END.split(text)[0]
    if len(mentioned := set(mentions(sentence, options))) == 1:
        return Reading(mentioned.pop(), "the only letter")
    for part in dict.fromkeys((_REASON.split(sentence)[0], sentence, text)):
        if (letter := option_by_text(part, options).value) is not None:
            return Reading(letter, _BY_TEXT)
    return None
