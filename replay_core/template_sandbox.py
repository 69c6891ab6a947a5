"""Render chat templates of strangers within limits: of work, of memory, and of what they may call.

A chat template is a program that comes with a checkpoint. Jinja's sandbox keeps it from the rest of
Python, but not from running for ever or from asking for all memory. Here a meter counts what a
template does: the nodes that it runs, and the characters and items that it makes. Methods and
filters are those that keep to a multiple of their input; the others are not there.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from visreplay.replay_core.template_formats import (
    braces_length,
    format_percent,
    percent_length,
    to_json,
)
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


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_FILTERS = _names(
    "abs batch capitalize center count d default dictsort e escape first float groupby indent int "
    "items last length list lower map max min reject rejectattr reverse round safe select "
    "selectattr slice sort string striptags title trim truncate unique upper wordcount"
)
"""Jinja's filters whose result is at most a few times as large as their input."""

_LOOKING = _names("count d default first last length max min")
"""Filters that make nothing."""

_OF_TEXT = _names(
    "capitalize center e escape indent lower safe string striptags title trim truncate upper "
    "wordcount"
)
"""Filters that convert their input to text."""

_OF_ANYTHING = _names("d default map reject rejectattr select selectattr")
"""Filters whose arguments may be large numbers."""

_METHODS: tuple[tuple[Any, frozenset[str]], ...] = (
    (
        str,
        _names(
            "strip lstrip rstrip split rsplit splitlines startswith endswith lower upper title "
            "capitalize casefold swapcase find rfind index rindex count partition rpartition "
            "removeprefix removesuffix isalnum isalpha isascii isdecimal isdigit isidentifier "
            "islower isnumeric isprintable isspace istitle isupper join replace format center "
            "ljust rjust zfill"
        ),
    ),
    (Mapping, _names("get items keys values copy")),
    (list, _names("index count copy")),
    (tuple, _names("index count")),
    (LoopContext, _names("cycle changed")),
)
"""The methods that a template may call."""

_WIDENING = _names("center ljust rjust zfill")
"""Methods that make a text as long as they are told to."""

_VIEWING = _names("get items keys values cycle changed")
"""Methods that make nothing."""


def _refuse(reason: str) -> NoReturn:
    raise TemplateLimitError(reason)


def _join(parts: Iterable[Any], separator: Any = "") -> str:
    meter = METER.get()
    texts = [meter.text_of(part) for part in parts]
    between = str(separator)
    meter.make(sum(map(len, texts)) + len(between) * len(texts))
    return between.join(texts)


def _replace(value: Any, before: Any, after: Any, count: int | None = None) -> str:
    meter = METER.get()
    text, old, new = map(meter.text_of, (value, before, after))
    places = len(text) // len(old) if old else len(text) + 1
    if count is not None and count >= 0:
        places = min(places, count)
    meter.make(len(text) + places * len(new))
    return text.replace(old, new, places)


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

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            finalize=lambda value: value if type(value) is str else METER.get().text_of(value),
        )
        plain = ImmutableSandboxedEnvironment()
        # Each takes the context, so that none is run while a template is compiled.
        self.filters = {name: _limited(plain, name) for name in _FILTERS}
        self.filters |= {
            "join": pass_context(lambda _, *args, **kwargs: _join_filter(*args, **kwargs)),
            "format": pass_context(lambda _, *args, **kwargs: format_percent(*args, **kwargs)),
            "replace": pass_context(lambda _, *args, **kwargs: _replace(*args, **kwargs)),
            "tojson": pass_context(lambda _, *args, **kwargs: to_json(*args, **kwargs)),
            "_joined": pass_context(lambda _, parts: _join(parts)),
            "_cut": pass_context(lambda _, value: _cut(value)),
            "_made": pass_context(lambda _, value: METER.get().made(value)),
            "_searched": pass_context(lambda _, value: METER.get().searched(value)),
            "_run": pass_context(lambda _, count: METER.get().run(count)),
        }
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
        return _join(parts)

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
        meter.run(1)
        name, owner = getattr(__obj, "__name__", ""), _owner(__obj)
        meter.searched(owner)
        if isinstance(owner, str) and name in ("join", "replace"):
            if name == "join":
                return _join(args[0], owner)
            return _replace(owner, *args)
        if isinstance(owner, str) and name == "format":
            meter.make(braces_length(owner, [*args, *kwargs.values()]))
        if name in _WIDENING:
            _check_numbers(name, args)
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
        return value if isinstance(value, int | float) else meter.made(value)


def _check_product(meter: Meter, operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length()
        if max(bits, right.bit_length()) > _BITS:
            _refuse("it makes too large a number")
    for text, count in ((left, right), (right, left)):
        if isinstance(text, str | list | tuple) and isinstance(count, int):
            meter.make(len(text) * max(count, 0) * (1 if isinstance(text, str) else ITEM))


def _join_filter(value: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        value = [_part(each, attribute) for each in value]
    return _join(value, d)


def _part(value: Any, attribute: str | int) -> Any:
    for name in str(attribute).split("."):
        try:
            value = value[int(name) if name.isdecimal() else name]
        except (TypeError, LookupError):
            return ""
    return value


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _owner(method: Any) -> Any:
    """Find the value that a method is one of; Jinja has wrapped `str.format`."""
    return getattr(getattr(method, "__wrapped__", method), "__self__", None)


def _check_numbers(name: str, values: Iterable[Any]) -> None:
    if any(isinstance(value, int) and abs(value) > 10_000 for value in values):
        _refuse(f"it uses {name} with too large a number")


def _limited(plain: ImmutableSandboxedEnvironment, name: str) -> Callable[..., Any]:
    """Make a filter of Jinja that counts what it makes."""

    @pass_context
    def limited(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        meter = METER.get()
        meter.run(1)
        if name not in _OF_ANYTHING:
            _check_numbers(name, (*args, *kwargs.values()))
        if name in _OF_TEXT:
            value = meter.text_of(value)
        if name == "indent":
            width = args[0] if args else kwargs.get("width", 4)
            columns = len(width) if isinstance(width, str) else int(width)
            meter.make(len(value) + columns * (value.count("\n") + 1))
        made = plain.call_filter(name, value, args, kwargs, context)
        return made if name in _LOOKING or made is value else meter.made(made)

    return limited


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
