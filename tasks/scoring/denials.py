"""The words with which a text denies an answer, doubts it, asks for it, or takes it back.

Every scorer puts the pattern of its own kind of answer behind or before them.
"""

import re

NOT = (
    r"(?i:(?<!\bnot )\b(?:unlikely|improbable|doubtful)(?=\s(?:to|that|it|if|whether)\b)"
    r"|(?<!\bno )(?<!\bwithout )(?<!\bwithout a )(?<!\bany )(?<!n't )(?<!\bnot )\bdoubt(?:s|ed)?\b"
    r"|\b(?:no(?=\s)|not|cannot|neither|nor|never|hardly|scarcely|far\sfrom|instead\sof"
    r"|(?<!not )(?:hard|difficult|impossible)\sto|rather\sthan|none\sof|nothing(?=\s(?!but\b))"
    r"|lack(?:s|ing)?|anything\sbut|(?:wrong|incorrect|false)\s(?:to|answer|option|choice|letter))\b"
    r"|n't|nicht|不是|不选|而非|排除)"
)
"""What denies the answer behind it: "not A", "unlikely to be A", "the wrong answer is A"."""

DENIED_VERB = (
    r"(?:(?:is|are|was|were|do|does|did|has|have|had|could|would|should|must|might)(?:n't|\snot)"
    r"|ca(?:n't|nnot|n\snot)|won't|will\snot)\b"
)
"""An auxiliary verb with its "not": "isn't", "cannot", "will not"."""

LEAVES_OUT = (
    r"(?i:\b(?:except|other\sthan|unlike|apart\sfrom|aside\sfrom|besides"
    r"|(?:everything|everyone|(?:all|any|every|each)(?:\s\w{1,20}){0,3}?)\sbut"
    r"|rul(?:e|es|ed|ing)\sout|exclud(?:e|es|ed|ing)|eliminat(?:e|es|ed|ing)"
    r"|discard(?:s|ed|ing)?|reject(?:s|ed|ing)?)\b)"
)
"""What sets the answer behind it aside: "I ruled out A", "all but A". Numbers may be counted by
what is left: "All except 2 are red"."""

_BETWEEN = (
    r"(?i:[^\w,.;!?]{0,4}(?:(?:be|being|been|the|an?|any|that|it|it's|is|was|there|are|were|of|on|in|at|to|as|if"
    r"|possible|true|likely|plausible|way|option|choice|answer|letter|choose|pick|select|think"
    r"|believe|say|call|see|look|looks|appear|seem|like|single|shade|kind|sort|definitely|certainly"
    r"|necessarily|possibly|really|actually|exactly|just|simply|even|correct|right|figure|picture|panel)\s+){0,7})"
)
_SAME_CLAUSE = (
    r"(?:(?:\s(?!(?:but|so|and|or|because|since|as|while|is|are|was|were|leaves|leaving|only"
    r"|doubt|than|then|just|wrong|incorrect)\b)[a-z']{1,15}(?=\s)){1,3}?(?!\s(?:is|are|was|were)\b))?"
)
"""Words between "not" and what is denied: "won't find any A", but not "the one that does not fit is
A"."""
_IS = (
    r"(?:is|are|was|were|would\sbe|(?:can|could)\sbe|must\sbe|seems?|looks?)\s+"
    r"(?:(?:also|both|clearly|definitely|certainly|just|simply|very|highly|rather)\s+)?"
)
_RIGHT = r"\s+(?:(?:a|the)\s+)?(?:right|correct|true|answer|best)\b"

WRONG = (
    rf"(?i:\s+{_IS}(?:wrong|incorrect|false|out(?!\s+of)|ruled\sout|excluded|eliminated|impossible"
    rf"|unlikely|improbable|doubtful|discarded|rejected|not{_RIGHT})\b"
    rf"|\s{DENIED_VERB}(?:\sbe)?{_RIGHT}"
    r"|\s?\?[\s\"']{0,3}(?:nope\b|no\b(?!\s(?:doubt|question)\b)"
    r"|(?:\w{1,12}\s){0,2}not(?:\sat\sall)?(?=\s?[.,;:!\n]|\s?$)"
    r"|i\s(?:do\snot|don't)\s(?:think|believe)\sso\b|i\sdoubt\sit\b)"
    r"|,?\s(?:but\s)?it(?:'s\snot|\s(?:is|was|does|did)(?:\snot|n't))(?=\s?[.,;:!\n]|\s?$))"
)
"""What judges the answer before it: "A is wrong", "red can be ruled out", "5 is not right", "A?
No"."""

IS_NOT = rf"(?:{WRONG}|(?i:\s+(?:{_IS}not\b|{DENIED_VERB}(?:\sbe)?)(?:{_RIGHT})?))"
"""What judges or denies the answer before it: "A does not fit", too. Of numbers it says which are
counted: "3 are not red"."""

SO = r"(?:so|therefore|thus|hence)"
"""What stands before a conclusion."""

TAKES_BACK = (
    r"(?:wait|actually|correction|sorry|scratch\sthat|hold\son|on\sreflection"
    r"|on\ssecond\sthought|on\scloser\s(?:look|inspection)|i\smeant?|(?:let\sme\s)?correct\smyself)"
)
"""What stands between an answer and another that takes its place."""

_UNSURE = re.compile(
    r"(?i:\bwhether\b)(?:[^.;,\n!?]|,(?=\s*(?:or\b|[A-Z](?![A-Za-z])))){0,80}"
    r"|(?i:\bif\b)[^.;,\n!?]{0,80}"
)
_QUESTION = re.compile(
    r"(?:^|(?<=[.!?;:\n] )|(?<=\n))[\"'(]{0,2}"
    r"(?i:is|are|was|were|can|could|would|might|may|should|do|does|did|has|have|what|which|who"
    r"|how|why|where)\b[^.!?;\n]{0,200}\?"
)


def without_denied(
    text: str,
    answer: str,
    before: str = rf"(?:{NOT}{_SAME_CLAUSE}|{LEAVES_OUT})",
    after: str = IS_NOT,
) -> str:
    """Remove the answers that a text denies.

    Args:
        text: The text.
        answer: The pattern of an answer.
        before: The pattern of what denies the answer behind it.
        after: The pattern of what denies the answer before it.
    """
    return re.sub(rf"{before}{_BETWEEN}{answer}|{answer}{after}", " ", text)


def without_doubts(text: str) -> str:
    """Remove clauses that state nothing: questions, "whether it is A", "if B"."""
    return _UNSURE.sub(" ", _QUESTION.sub(" ", text))
