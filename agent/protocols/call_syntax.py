"""Find the calls in a model's turn, tidy or not.

Models forget a tag, fence a call as code, or mention the tag before they use it. Whatever looks
like a call is either read, or an error that the model reads; nothing is left out in silence.
Reading takes time in proportion to the length of the text.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from visreplay.agent.protocols.calls import FoundCall, FoundCalls, arguments_object
from visreplay.agent.protocols.tolerant_json import object_at, parse_json
from visreplay.agent.state import ToolCall
from visreplay.tools import ToolError

MAX_REREAD = 400_000
"""Characters of a turn that may be read in vain: of objects that break off, or are no calls."""

_KEY_WITHIN = 200
"""Characters of an object without tags in which a key must show that it is a call."""

BEGUN_OBJECT = re.compile(rf"\{{[^{{}}]{{0,{_KEY_WITHIN + 24}}}\Z")
"""The end of an unfinished text that may be the beginning of a call without tags."""

_LEAD = re.compile(r"\s*(?:```\w*\s*)?")
"""The text between a tag and its object: white space, and the fence of a code block."""
_WRITTEN = re.compile(r"[{\[(]|[\w.]+\s*[{\[(=]")
"""The beginning of a call after a tag that is not closed; anything else is prose."""
_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)
_ANSWER = re.compile(r"<answer>.*?(?:</answer>|\Z)", re.DOTALL)
_IN_PROSE = re.compile(r"[^\w{}\[\]()]*(?:(?:and|or|to)\b[^\w{}\[\]()]*)?")
"""The text between tags that are only mentioned: nothing, dots, or "and"."""


@dataclass(frozen=True)
class CallSyntax:
    """How a protocol writes calls: a JSON object between two tags.

    Attributes:
        tag: The name of the tag.
        form: The object, for errors.
        keys: Keys by which an object without tags is known as a call: one of each group.
        name: The name of the tool, where the object holds the arguments alone.
    """

    tag: str
    form: str
    keys: tuple[tuple[str, ...], ...]
    name: str | None = None

    @property
    def what(self) -> str:
        """The call's name in errors."""
        return self.tag.replace("_", " ")

    @cached_property
    def key_patterns(self) -> tuple[re.Pattern[str], ...]:
        """The keys, one of each group, as they stand in an object, damaged or not."""
        return tuple(
            re.compile(rf"[\"'](?:{names})\b|\b(?:{names})\s{{0,9}}:")
            for names in map("|".join, self.keys)
        )

    @cached_property
    def beginning(self) -> re.Pattern[str]:
        """The beginning of a call: its tag, or the object itself."""
        names = "|".join(key for group in self.keys for key in group)
        first = rf"\s{{0,9}}[\"'](?:{names})[\"']"
        later = rf"[^{{}}]{{0,{_KEY_WITHIN}}}?\b(?:{names})[\"']?\s{{0,9}}:"
        return re.compile(rf"<{self.tag}>|\{{(?={first}|{later})")

    @cached_property
    def end(self) -> re.Pattern[str]:
        """The end of a call after its object: its tag, perhaps after the fence of a code block."""
        return re.compile(rf"\s*+(?:```\s*+)?+</{self.tag}>")

    def may_begin(self, written: str) -> int:
        """Find where calls may begin in a turn that may be unfinished; its length if nowhere.

        A call in a thought counts as long as the thought is not closed.
        """
        thought = written.find("</think>") if written.lstrip().startswith("<think>") else 0
        mark = self.beginning.search(written, max(thought, 0))
        return mark.start() if mark else len(written)

    def find(self, text: str, *, tolerant: bool = False) -> FoundCalls:
        """Find all that looks like a call.

        Args:
            text: A turn, or a part of one.
            tolerant: Whether calls may be JSON5.
        """
        return FoundCalls(text, tuple(_Scan(self, text, tolerant).calls()))

    def call_of(self, value: Any, *, tolerant: bool = False) -> ToolCall:
        """Make the call of a parsed object.

        Args:
            value: What stood between the tags.
            tolerant: As in `find`.

        Raises:
            ToolError: It is no call.
        """
        if isinstance(value, dict) and self.name is not None:
            return ToolCall(name=self.name, arguments=value)
        if isinstance(value, dict) and set(value) == {"name", "arguments"}:
            name, arguments = value["name"], arguments_object(value["arguments"], tolerant=tolerant)
            if isinstance(name, str) and name.strip() and arguments is not None:
                return ToolCall(name=name.strip(), arguments=arguments)
        raise ToolError(f"A {self.what} is one JSON object {self.form} and nothing else.")

    def resembles(self, value: object) -> bool:
        """Tell whether an object without tags looks like a call."""
        return isinstance(value, dict) and all(
            any(key in value for key in group) for group in self.keys
        )


TOOL_CALL = CallSyntax(
    "tool_call",
    '{"name": string, "arguments": object}',
    (("name",), ("arguments", "parameters")),
)
"""The calls of Hermes and most others: the name of a tool, and its arguments."""


class _Scan:
    """One reading of a text, from its beginning to its end."""

    def __init__(self, syntax: CallSyntax, text: str, tolerant: bool) -> None:
        self.syntax, self.text, self.tolerant = syntax, text, tolerant
        self.in_vain = 0
        self.opens = _starts(f"<{syntax.tag}>", text)
        self.closes = _starts(f"</{syntax.tag}>", text)
        self.fences = [mark.start() for mark in _FENCE.finditer(text)]
        # Where an answer begins, where it ends, where the next one begins, and so on.
        self.answers = [at for answer in _ANSWER.finditer(text) for at in answer.span()]

    def calls(self) -> Iterator[FoundCall]:
        """Find the calls in their order."""
        at, none = 0, True
        while mark := self.syntax.beginning.search(self.text, at):
            start = mark.start()
            if self.in_vain > MAX_REREAD:
                error = "Too many braces of the turn are not closed. Write less."
                yield FoundCall(start, len(self.text), error=error)
                return
            found = self._bare(start) if mark[0] == "{" else self._tagged(start, mark.end())
            at = start + 1 if found is None else found.end
            if found is not None:
                none = False
                yield found
        if none and self.closes:
            tag = self.syntax.tag
            error = (
                f"There is a </{tag}>, but no {self.syntax.what} before it that can be read: write "
                f"<{tag}>, one JSON object {self.syntax.form}, and </{tag}>."
            )
            yield FoundCall(len(self.text), len(self.text), error=error, mention=True)

    def _tagged(self, start: int, begin: int) -> FoundCall:
        """Read the text after a tag."""
        text, tag, what = self.text, self.syntax.tag, self.syntax.what
        lead = _LEAD.match(text, begin)
        assert lead is not None  # it matches nothing too
        value, end = None, begin
        if text.startswith("{", lead.end()):
            with suppress(ValueError):
                value, end = self._object(lead.end())
        close, following = _next(self.closes, end), _next(self.opens, end)
        closed = self.syntax.end.match(text, end)
        if value is not None and (closed or close is None or (following or close) < close):
            return self._found(start, closed.end() if closed else end, value)
        quoted = self._quoted(start)
        unclosed = f"The {what} is not closed with </{tag}>."
        inside = (
            None if text.startswith("{", lead.end()) else self.syntax.beginning.search(text, begin)
        )
        if inside and inside[0] == "{" and inside.start() < (close or len(text)):
            # The object that comes later is the call.
            return FoundCall(start, begin, error=unclosed, mention=True, quoted=quoted)
        if close is None or (following or close) < close:
            if not _WRITTEN.match(text, lead.end()):
                return FoundCall(start, begin, error=unclosed, mention=True, quoted=quoted)
            end = following or len(text)
            return FoundCall(start, end, error=unclosed, closed=False, quoted=quoted)
        body, end = text[begin:close], close + len(f"</{tag}>")
        try:
            value = parse_json(body, what, tolerant=self.tolerant)
        except ToolError as error:
            mention = _IN_PROSE.fullmatch(body) is not None
            return FoundCall(start, end, error=str(error), mention=mention, quoted=quoted)
        return self._found(start, end, value)

    def _bare(self, start: int) -> FoundCall | None:
        """Read an object that has no tag before it; None if it is no call."""
        if bisect_right(self.answers, start) % 2:
            return None
        try:
            value, end = self._object(start)
        except ValueError as error:
            beginning = self.text[start : start + 2 * _KEY_WITHIN]
            if not all(key.search(beginning) for key in self.syntax.key_patterns):
                return None
            ends = (_next(self.opens, start), _next(self.closes, start), len(self.text))
            reason = f"The {self.syntax.what} is not valid JSON: {getattr(error, 'msg', error)}."
            end = min(end for end in ends if end is not None)
            return FoundCall(start, end, error=reason, closed=False, quoted=self._quoted(start))
        if not self.syntax.resembles(value):
            self.in_vain += end - start
            return None
        closed = self.syntax.end.match(self.text, end)
        return self._found(start, closed.end() if closed else end, value)

    def _object(self, start: int) -> tuple[Any, int]:
        """Parse an object, and count what is read in vain.

        Raises:
            ValueError: There is none.
        """
        try:
            return object_at(self.text, start, tolerant=self.tolerant)
        except ValueError as error:
            end = getattr(error, "pos", len(self.text))
            self.in_vain += (len(self.text) if self.tolerant else end) - start
            raise

    def _found(self, start: int, end: int, value: Any) -> FoundCall:
        """Make the record of a parsed value."""
        quoted = self._quoted(start)
        try:
            call = self.syntax.call_of(value, tolerant=self.tolerant)
        except ToolError as error:
            return FoundCall(start, end, error=str(error), quoted=quoted)
        return FoundCall(start, end, call, quoted=quoted)

    def _quoted(self, start: int) -> bool:
        """Tell whether a place is in a block of code, or right after a backquote."""
        return bisect_right(self.fences, start) % 2 == 1 or self.text[start - 1 : start] == "`"


def _starts(tag: str, text: str) -> list[int]:
    return [mark.start() for mark in re.finditer(re.escape(tag), text)]


def _next(starts: Sequence[int], position: int) -> int | None:
    """Find the first of some places that does not lie before a position."""
    at = bisect_left(starts, position)
    return starts[at] if at < len(starts) else None
