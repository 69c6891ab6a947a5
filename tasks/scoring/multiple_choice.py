"""Which option an answer chooses."""

import re
from collections.abc import Iterator, Mapping

from visreplay.agent.protocols.parsing import boxed
from visreplay.tasks.scoring.answer_extraction import (
    EDGES,
    PHRASE,
    SENTENCE_END,
    bare,
    final,
    plain,
    stated,
)

_STATEMENT = 400
"""Characters after a phrase that are looked at, and the number of statements."""
_NO_LETTER = r"(?![A-Za-z0-9'])"
_LETTER = rf"(?:(?:option|choice|letter)\s+)?[(\[\"]{{0,2}}([A-Z]){_NO_LETTER}"
_PLACE = (
    r"\s+(?:of|next|to|in|on|at|by|above|below|under|over|beside|behind|near|between|before|after"
    r"|there|here|where|hand|side|half|edge|corner)\b|-"
)
"""What follows "right" where it says where something is, and not that an option is right."""
_JUDGED = re.compile(
    r"(?<![A-Za-z0-9'])[(\[]?([A-Z])[)\]]?\s+(?:is|must be|seems)\s+(?:the\s+)?"
    rf"(?:correct|right(?!{_PLACE})|best|answer)\b|(?<![A-Za-z0-9'])([A-Z])\s*(?:是)?(?:正确|对的)"
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
"""Words that follow the letter A, but hardly the article."""


def option_letter(answer: str, options: Mapping[str, str]) -> str | None:
    r"""The letter of the option that an answer chooses, or None if it chooses none or several.

    In this order, after `final`:

    1. The last ``\boxed{..}``, and
    2. statements, the last first: "the answer is (C) because A..", a line that holds only a
       letter, and, where no "the answer is" chooses any, "B is correct". In each: an option's text
       that is all of it; the letter in front, or else the only one in it; the only option's text.
       "A or B" chooses nothing.
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
    text = plain(final(answer))
    box = boxed(text)
    if box is not None and (found := _chosen(box, options)) is not None:
        return found or None
    without = _NEGATED.sub(" ", text)
    said = [(m.start(), without[m.end() : m.end() + _STATEMENT]) for m in PHRASE.finditer(without)]
    judged = [(m.start(), m[1] or m[2]) for m in _JUDGED.finditer(without)]
    lone = [(m.start(1), m[1]) for m in _LONE.finditer(without)]
    # What is judged after "the answer is" is the other options, or a reason.
    for statements in ([*said, *lone] if said else [], [*judged, *lone]):
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


def option_letters(answer: str, options: Mapping[str, str]) -> set[str]:
    """The letters of all options that an answer chooses: "A and C", "AC"."""
    text = plain(final(answer))
    said = stated(text)
    sentence = SENTENCE_END.split(text if said is None else said)[0].strip(EDGES)
    if re.fullmatch("[A-Z]{2,}", sentence):
        return set(sentence)
    without = _NEGATED.sub(" ", sentence)
    if said is not None:
        return {letter for _, letter, _ in _MENTION.findall(without)}
    return set(_mentions(without, options))


def _chosen(text: str, options: Mapping[str, str], *, marked: bool = False) -> str | None:
    """The letter that a statement chooses; "" if it chooses several, None if none.

    Args:
        text: The statement.
        options: Texts by letter.
        marked: The letter needs a mark, or its own option's text, behind it.
    """
    written = bare(text)
    same = [letter for letter, option in options.items() if bare(option) == written]
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
        own = bool(options[letter]) and bare(rest) == bare(options[letter])
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
    """The letters that a text mentions, outside of the options' own texts."""
    for option in sorted(options.values(), key=len, reverse=True):
        if len(option := plain(option)) > 1:
            text = re.sub(rf"(?<!\w){re.escape(option)}(?!\w)", " ", text, flags=re.IGNORECASE)
    for bracket, letter, word in _MENTION.findall(text):
        is_word = (letter == "I" and word) or (letter == "A" and word not in {"", *_AFTER_A_LETTER})
        if letter in options and (bracket or not is_word):
            yield letter


def _by_text(text: str, options: Mapping[str, str]) -> str | None:
    """The only option whose text stands in a text as whole words and is not denied."""
    written = bare(text)
    found: dict[str, str] = {}
    for letter, option in options.items():
        wanted = bare(option)
        denied = (
            r"(?:\b(?:not|cannot|neither|nor|instead of|rather than)|n't|不是)"
            r"\s*(?:be )?(?:the |an? )?"
        )
        if wanted and re.search(
            rf"(?<!\w){re.escape(wanted)}(?!\w)", re.sub(denied + re.escape(wanted), " ", written)
        ):
            found[letter] = wanted
    longest = {
        letter: option
        for letter, option in found.items()
        if not any(option != other and option in other for other in found.values())
    }
    return next(iter(longest)) if len(longest) == 1 else None
