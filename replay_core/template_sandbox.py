"""Render chat templates of strangers within limits: of work, of memory, and of what they may call.

A chat template is a program that comes with a checkpoint. Jinja's sandbox keeps it from the rest of
Python, but not from running for ever or from asking for all memory. Here a meter counts what a
template does: the nodes that it runs, the items that it goes through, and the characters and items
that it makes. Methods and filters are those that keep to a multiple of their input; the others are
not there.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from visreplay.replay_core.template_filters import (
    check_numbers,
    filters_of,
    join_texts,
    names_in,
    replace_text,
    tests_of,
)
from visreplay.replay_core.template_formats import braces_length, percent_length
from visreplay.replay_core.template_meter import (
    ITEM,
    METER,
    Counting,
    Meter,
    TemplateLimitError,
    check_nesting,
)

MAX_SOURCE = 100_000
"""Characters of a template; those of the large families have about ten thousand."""

_BITS = 10_000
"""Bits of a number that a template computes."""

_METHODS: tuple[tuple[Any, frozenset[str]], ...] = (
    (
        str,
        names_in(
            "strip lstrip rstrip split rsplit splitlines startswith endswith lower upper title "
            "capitalize casefold swapcase find rfind index rindex count partition rpartition "
            "removeprefix removesuffix isalnum isalpha isascii isdecimal isdigit isidentifier "
            "islower isnumeric isprintable isspace istitle isupper join replace format center "
            "ljust rjust zfill"
        ),
    ),
    (Mapping, names_in("get items keys values copy")),
    (list, names_in("index count copy")),
    (tuple, names_in("index count")),
    (LoopContext, names_in("cycle changed")),
)
"""The methods that a template may call."""

_WIDENING = names_in("center ljust rjust zfill")
"""Methods that make a text as long as they are told to."""

_VIEWING = names_in("get items keys values cycle changed")
"""Methods that make nothing."""


def _refuse(reason: str) -> NoReturn:
    raise TemplateLimitError(reason)


def _cut(value: Any) -> Any:
    METER.get().make(len(value) * (1 if isinstance(value, str) else ITEM))
    return value


def _raise(message: Any) -> NoReturn:
    raise TemplateError(str(message)[:1000])


def _now(form: str) -> str:
    return datetime.now().strftime(form[:100])


class _Namespace(Namespace):
    """A namespace whose text says nothing of what is in it."""

    def __repr__(self) -> str:
        return "<namespace>"


class _Generation(Extension):
    """Render what stands between `generation` tags, which mark words for training."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Parse the tag: its body is rendered as it is, and what it sets ends with it."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return [nodes.Scope(body, lineno=line)]


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """Jinja as transformers sets it up for chat templates, with a meter."""

    intercepted_binops = frozenset({"+", "-", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            finalize=lambda value: value if type(value) is str else METER.get().text_of(value),
        )
        plain = ImmutableSandboxedEnvironment()
        self.filters = filters_of(plain) | {
            "_joined": pass_context(lambda _, parts: join_texts(parts)),
            "_cut": pass_context(lambda _, value: _cut(value)),
            "_made": pass_context(lambda _, value: METER.get().made(value)),
            "_searched": pass_context(lambda _, value: METER.get().searched(value)),
            "_run": pass_context(lambda _, count: METER.get().run(count)),
        }
        self.tests |= tests_of(plain)
        functions: dict[str, Any] = {
            "range": self.globals["range"],
            "dict": _dict,
            "namespace": _Namespace,
            "raise_exception": _raise,
            "strftime_now": _now,
        }
        self.globals = functions
        self._functions = tuple(functions.values())

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        parsed = super()._parse(source, name, filename)
        check_nesting(parsed)
        tree: nodes.Template = Counting().visit(parsed)
        tree.set_environment(self)
        return tree

    def concat(self, parts: Iterable[str]) -> str:
        """Join the parts of an output."""
        return join_texts(parts)

    def is_safe_callable(self, obj: Any) -> bool:
        """Tell whether a template may call something."""
        if isinstance(obj, Macro | LoopContext):
            return True
        name, owner = getattr(obj, "__name__", ""), _owner(obj)
        if owner is None or isinstance(owner, type):
            return any(obj is function for function in self._functions)
        return any(isinstance(owner, kind) and name in names for kind, names in _METHODS)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call something."""
        meter = METER.get()
        name, owner = getattr(__obj, "__name__", ""), _owner(__obj)
        meter.called(owner, *args, *kwargs.values())
        if isinstance(owner, str) and name in ("join", "replace"):
            if name == "join":
                return join_texts(args[0], owner)
            return replace_text(owner, *args)
        if isinstance(owner, str) and name == "format":
            meter.make(braces_length(owner, [*args, *kwargs.values()]))
        if name in _WIDENING:
            check_numbers(name, args)
        value = super().call(__context, __obj, *args, **kwargs)
        return value if name in _VIEWING else meter.made(value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute with two values."""
        meter = METER.get()
        if operator == "+" and type(left) is type(right) is str:
            meter.make(len(left) + len(right))
            return left + right
        if operator == "%" and isinstance(left, str):
            meter.make(percent_length(left, right))
        if operator in ("*", "**") and not isinstance(left, float) and not isinstance(right, float):
            _check_product(meter, operator, left, right)
        value = super().call_binop(context, operator, left, right)
        if isinstance(value, int) and value.bit_length() > 2 * _BITS:
            _refuse("it makes too large a number")
        return value if isinstance(value, int | float) else meter.made(value)


def _check_product(meter: Meter, operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length()
        if max(bits, right.bit_length()) > _BITS:
            _refuse("it makes too large a number")
    for text, count in ((left, right), (right, left)):
        if isinstance(text, str | list | tuple) and isinstance(count, int):
            meter.make(len(text) * max(count, 0) * (1 if isinstance(text, str) else ITEM))


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _owner(method: Any) -> Any:
    """Find the value that a method is one of; Jinja has wrapped `str.format`."""
    return getattr(getattr(method, "__wrapped__", method), "__self__", None)


@lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    return _sandbox().from_string(source)


@lru_cache(maxsize=1)
def _sandbox() -> TemplateSandbox:
    return TemplateSandbox()


def render_template(source: str, variables: Mapping[str, Any]) -> str:
    """Render a chat template.

    Args:
        source: The template.
        variables: What it may use, as JSON values: `messages`, `add_generation_prompt`, the special
            tokens by their names.

    Raises:
        TemplateError: The template is wrong, raises an exception, or goes beyond a limit.
        SecurityError: It calls what it may not call; a `TemplateError` too.
    """
    if len(source) > MAX_SOURCE:
        raise TemplateLimitError(f"it has {len(source)} characters; the limit is {MAX_SOURCE}")
    token = METER.set(Meter(variables))
    try:
        return str(_compiled(source).render(variables))
    finally:
        METER.reset(token)
