"""Extraction of the option that an answer chooses."""

import re
from collections.abc import Iterator, Mapping

from visreplay.agent.protocols.parsing import boxed
from visreplay.tasks.scoring.answer_extraction import (
    EDGES,
    PHRASE,
    SENTENCE_END,
    final_answer,
    normalise,
    stated_answer,
    strip_markup,
)

_MAX_STATEMENT = 400
"""The most characters that are read after a phrase, and the most statements."""
_NO_LETTER = r"(?![A-Za-z0-9'])"
_LETTER = rf"(?:(?:option|choice|letter)\s+)?[(\[\"]{{0,2}}([A-Z]){_NO_LETTER}"
_POSITION = (
    r"\s+(?:of|next|to|in|on|at|by|above|below|under|over|beside|behind|near|between|before|after"
    r"|there|here|where|hand|side|half|edge|corner)\b|-"
)
"""The words after "right" where it means the right-hand side, and not a right option."""
_JUDGED = re.compile(
    r"(?<![A-Za-z0-9'])[(\[]?([A-Z])[)\]]?\s+(?:is|must be|seems)\s+(?:the\s+)?"
    rf"(?:correct|right(?!{_POSITION})|best|answer)\b|(?<![A-Za-z0-9'])([A-Z])\s*(?:是)?(?:正确|对的)"
)
_LONE = re.compile(rf"^\W{{0,4}}{_LETTER}\W{{0,4}}$", re.MULTILINE)
_NEGATED = re.compile(
    r"(?:\b(?:not|cannot|neither|nor|never|instead of|rather than|except)|n't"
    r"|不是|不选|而非|排除)"
    rf"\W{{0,4}}(?:(?:be|the|an?|option|choice)\s+){{0,3}}[(\[]?[A-Z]{_NO_LETTER}[)\]]?"
    rf"|(?<![A-Za-z0-9'])[(\[]?[A-Z]{_NO_LETTER}[)\]]?\s+"
    r"(?:is|are|was)(?:n't|\s+(?:not|wrong|incorrect|false))"
    r"(?:\s+(?:right|correct|true))?|(?<![A-Za-z0-9'])[A-Z]\s*(?:不对|错误|是错)"
)
_MARKED = re.compile(r"(?<![A-Za-z0-9'])([A-Z])[).:]")
_MENTION = re.compile(rf"(?<![A-Za-z0-9'\\])([(\[]?)([A-Z]){_NO_LETTER}(?=\s+([a-z]+)|)")
_AFTER_A_LETTER = {"is", "was", "it", "and", "or", "because", "as", "since", "for", "but"}
"""Words that follow the letter A, but rarely the article."""


def option_letter(answer: str, options: Mapping[str, str]) -> str | None:
    r"""Find the letter of the option that an answer chooses; None if it chooses none or several.

    The first of these that chooses an option counts, after `final_answer`:

    1. The last ``\boxed{..}``.
    2. Statements, the last first: "the answer is (C) because A..", a line with nothing but a
       letter, and, where no "the answer is" chooses an option, "B is correct". A statement chooses
       by an option's text that is all of it, by a leading letter, by its only letter, or by the
       text of its only option. "A or B" chooses nothing.
    3. A letter at the very beginning with a mark behind it: "B) red", "C: ..".
    4. The only letter in the text. "not A", "A is wrong", the article A, the pronoun I and letters
       within an option's text do not count.
    5. The only option whose text is in the answer.

    An option's text alone is as good as its letter. If both are there and disagree, the letter
    counts, because the question requests a letter. A lower-case letter counts where it stands
    alone.

    Examples:
        >>> option_letter("A is wrong, so the answer is (B).", {"A": "red", "B": "blue"})
        'B'

    Args:
        answer: The text that a model wrote.
        options: Texts by upper-case letter; the texts may be empty.
    """
    text = strip_markup(final_answer(answer))
    box = boxed(text)
    if box is not None and (letter := _choice(box, options)) is not None:
        return letter or None
    without = _NEGATED.sub(" ", text)
    stated = [
        (m.start(), without[m.end() : m.end() + _MAX_STATEMENT]) for m in PHRASE.finditer(without)
    ]
    judged = [(m.start(), m[1] or m[2]) for m in _JUDGED.finditer(without)]
    lone = [(m.start(1), m[1]) for m in _LONE.finditer(without)]
    # After "the answer is", a judgement is about the other options, or is a reason.
    for statements in ([*stated, *lone] if stated else [], [*judged, *lone]):
        for _, statement in sorted(statements, reverse=True)[:_MAX_STATEMENT]:
            letter = _choice(statement.partition("\n")[0], options)
            if letter is not None:
                return letter or None
    # With several marks, the text repeats the options.
    if len(set(_MARKED.findall(without)) & set(options)) < 2:
        letter = _choice(text, options, marked=True)
        if letter is not None:
            return letter or None
    mentioned = set(_mentions(without, options))
    if mentioned:
        return mentioned.pop() if len(mentioned) == 1 else None
    return _by_text(text, options)


def option_letters(answer: str, options: Mapping[str, str]) -> set[str]:
    """Find the letters of all options that an answer chooses: "A and C", "AC"."""
    text = strip_markup(final_answer(answer))
    statement = stated_answer(text)
    sentence = SENTENCE_END.split(text if statement is None else statement)[0].strip(EDGES)
    if re.fullmatch("[A-Z]{2,}", sentence):
        return set(sentence)
    without = _NEGATED.sub(" ", sentence)
    if statement is not None:
        return {letter for _, letter, _ in _MENTION.findall(without)}
    return set(_mentions(without, options))


def _choice(text: str, options: Mapping[str, str], *, marked: bool = False) -> str | None:
    """Find the letter that a statement chooses; "" if it chooses several, None if none.

    Args:
        text: The statement.
        options: Texts by letter.
        marked: Whether the letter needs a mark, or its own option's text, behind it.
    """
    written = normalise(text)
    same = [letter for letter, option in options.items() if normalise(option) == written]
    if len(written) > 1 and len(same) == 1:
        return same[0]
    match = re.match(
        rf"\W{{0,9}}(?:(?:option|choice|letter)\s+)?\W{{0,9}}([A-Za-z]){_NO_LETTER}(.*)",
        text,
        re.DOTALL | re.IGNORECASE,
    )
    if match and (letter := match[1].upper()) in options:
        rest = match[2]
        alone = not rest.strip(EDGES)
        is_marked = alone or re.match(r"\s*[)\].:,。、\n]|\s+[-\u2013]\s", rest) is not None
        own = bool(options[letter]) and normalise(rest) == normalise(options[letter])
        if is_marked or own or (match[1].isupper() and not marked):
            other = re.match(
                rf"\W{{0,9}}(?:\s(?:or|and)\s|[/&]|或|和|与|,(?=\s*\W?[A-Z]\W*(?:$|[,.]|or\b|and\b)))"
                rf"\W{{0,9}}(?:option\s+)?\W{{0,9}}([A-Z]){_NO_LETTER}",
                rest,
            )
            return "" if other and other[1] in options and other[1] != letter else letter
    if marked:
        return None
    sentence = SENTENCE_END.split(text)[0]
    if len(mentioned := set(_mentions(sentence, options))) == 1:
        return mentioned.pop()
    return _by_text(sentence, options) or _by_text(text, options)


def _mentions(text: str, options: Mapping[str, str]) -> Iterator[str]:
    """Find the letters that a text mentions, outside of the options' own texts."""
    for option in sorted(options.values(), key=len, reverse=True):
        if len(option := strip_markup(option)) > 1:
            text = re.sub(rf"(?<!\w){re.escape(option)}(?!\w)", " ", text, flags=re.IGNORECASE)
    for bracket, letter, word in _MENTION.findall(text):
        is_word = (letter == "I" and word) or (letter == "A" and word not in {"", *_AFTER_A_LETTER})
        if letter in options and (bracket or not is_word):
            yield letter


def _by_text(text: str, options: Mapping[str, str]) -> str | None:
    """Find the only option whose text occurs in a text as whole words without a negation."""
    written = normalise(text)
    matches: dict[str, str] = {}
    for letter, option in options.items():
        wanted = normalise(option)
        denied = (
            r"(?:\b(?:not|cannot|neither|nor|instead of|rather than)|n't|不是)"
            r"\s*(?:be )?(?:the |an? )?"
        )
        if wanted and re.search(
            rf"(?<!\w){re.escape(wanted)}(?!\w)", re.sub(denied + re.escape(wanted), " ", written)
        ):
            matches[letter] = wanted
    longest = {
        letter: option
        for letter, option in matches.items()
        if not any(option != other and option in other for other in matches.values())
    }
    return next(iter(longest)) if len(longest) == 1 else None
