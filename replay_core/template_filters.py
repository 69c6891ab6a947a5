"""The filters and tests of chat templates, which count what they go through and what they make."""

from collections.abc import Callable, Iterable
from typing import Any

from jinja2 import pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from visreplay.replay_core.template_formats import format_percent, to_json
from visreplay.replay_core.template_meter import CALL, METER, TemplateLimitError


def names_in(words: str) -> frozenset[str]:
    """Make a set of the names in a text."""
    return frozenset(words.split())


_FILTERS = names_in(
    "abs batch capitalize center count d default dictsort e escape first float groupby indent int "
    "items last length list lower map max min reject rejectattr reverse round safe select "
    "selectattr slice sort string title trim truncate unique upper wordcount"
)
"""Jinja's filters whose result is at most a few times as large as their input."""

_LOOKING = names_in("count d default first last length max min")
"""Filters that make nothing."""

_WALKING = names_in(
    "batch dictsort groupby items list map max min reject rejectattr reverse select selectattr "
    "slice sort title unique wordcount"
)
"""Filters that go through their input item by item, or word by word."""

_OF_TEXT = names_in(
    "capitalize center e escape indent lower safe string title trim truncate upper wordcount"
)
"""Filters that convert their input to text."""

_NAMING = names_in("filter test")
"""Tests that ask the environment for a name."""

_OF_ANYTHING = names_in("d default map reject rejectattr select selectattr")
"""Filters whose arguments may be large numbers."""


def join_texts(parts: Iterable[Any], separator: Any = "") -> str:
    """Join values as texts."""
    meter = METER.get()
    texts = [meter.text_of(part) for part in meter.walked(parts)]
    between = str(separator)
    meter.make(sum(map(len, texts)) + len(between) * len(texts))
    return between.join(texts)


def replace_text(value: Any, before: Any, after: Any, count: int | None = None) -> str:
    """Replace a text in a value, everywhere or so many times."""
    meter = METER.get()
    text, old, new = map(meter.text_of, (value, before, after))
    places = len(text) // len(old) if old else len(text) + 1
    if count is not None and count >= 0:
        places = min(places, count)
    meter.make(len(text) + places * len(new))
    return text.replace(old, new, places)


def _join_filter(value: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        names = str(attribute).split(".")
        value = [_part(each, names) for each in METER.get().walked(value, len(names))]
    return join_texts(value, d)


def _part(value: Any, names: Iterable[str]) -> Any:
    for name in names:
        try:
            value = value[int(name) if name.isdecimal() else name]
        except (TypeError, LookupError):
            return ""
    return value


def check_numbers(name: str, values: Iterable[Any]) -> None:
    """Refuse large numbers, which would make large texts.

    Raises:
        TemplateLimitError: There is one.
    """
    if any(isinstance(value, int) and abs(value) > 10_000 for value in values):
        raise TemplateLimitError(f"it uses {name} with too large a number")


def _counted(made: Callable[..., Any]) -> Callable[..., Any]:
    """Make a filter of a function that counts what it makes."""

    @pass_context
    def counted(_: Context, *args: Any, **kwargs: Any) -> Any:
        METER.get().called()
        return made(*args, **kwargs)

    return counted


def _limited(plain: ImmutableSandboxedEnvironment, name: str) -> Callable[..., Any]:
    """Make a filter of Jinja that counts what it goes through and what it makes."""

    @pass_context
    def limited(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        meter = METER.get()
        options = (*args, *kwargs.values())
        meter.called(*options)
        if name not in _OF_ANYTHING:
            check_numbers(name, options)
        if name in _OF_TEXT:
            value = meter.text_of(value)
        if name in _WALKING:
            # An attribute may be a path, which is followed for each item.
            dots = sum(each.count(".") for each in options if isinstance(each, str))
            value = meter.walked(value, CALL * (1 + dots) if options else 1)
        elif name not in _LOOKING:
            meter.searched(value)
        if name == "indent":
            width = args[0] if args else kwargs.get("width", 4)
            columns = len(width) if isinstance(width, str) else int(width)
            meter.make(len(value) + columns * (value.count("\n") + 1))
        made = plain.call_filter(name, value, args, kwargs, context)
        return made if name in _LOOKING or made is value else meter.made(made)

    return limited


def _limited_test(plain: ImmutableSandboxedEnvironment, name: str) -> Callable[..., Any]:
    """Make a test of Jinja that counts what it looks through."""

    @pass_context
    def limited(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        meter = METER.get()
        meter.called(*args, *kwargs.values())
        if name in ("lower", "upper"):
            value = meter.searched(meter.text_of(value))
        return plain.call_test(name, value, args, kwargs, context)

    return limited


def filters_of(plain: ImmutableSandboxedEnvironment) -> dict[str, Callable[..., Any]]:
    """Make the filters that a template may use, by their names.

    Each takes the context, so that none is run while a template is compiled.

    Args:
        plain: An environment with Jinja's filters.
    """
    return {name: _limited(plain, name) for name in _FILTERS} | {
        "join": _counted(_join_filter),
        "format": _counted(format_percent),
        "replace": _counted(replace_text),
        "tojson": _counted(to_json),
    }


def tests_of(plain: ImmutableSandboxedEnvironment) -> dict[str, Callable[..., Any]]:
    """Make the tests that a template may use, but those that ask for the name of a filter or test.

    Args:
        plain: An environment with Jinja's tests.
    """
    return {name: _limited_test(plain, name) for name in plain.tests.keys() - _NAMING}
