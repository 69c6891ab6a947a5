"""Commands that take groups of options: dataclasses, and overrides of settings."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_args, get_origin, get_type_hints

from visreplay.tasks.commands.settings import Overrides, options_of, overrides_of


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups of options.

    A parameter of a dataclass becomes an option for each field, and a parameter of
    `Overrides[X]` an option for each field of the settings class X. Groups nest. An option that
    stands in two groups fills both; one that is a parameter of the command too is the command's.

    Typer reads the signature that this builds; the command is called with the groups.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if _is_group(hint)}
    own: dict[str, Parameter] = {}
    spread: dict[str, Parameter] = {}
    for name, parameter in signature(command).parameters.items():
        if name in groups:
            for option in _spread(groups[name]):
                spread.setdefault(option.name, option)
        else:
            own[name] = parameter.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY)

    @wraps(command)
    def gather(**arguments: Any) -> None:
        kept = {name: arguments[name] for name in own}
        offered = {name: value for name, value in arguments.items() if name not in own}
        command(**kept, **{name: _gather(hint, offered) for name, hint in groups.items()})

    gather.__signature__ = Signature([*({**spread, **own}.values())])  # type: ignore[attr-defined]
    return gather


def _is_group(hint: Any) -> bool:
    return get_origin(hint) is Overrides or (isinstance(hint, type) and is_dataclass(hint))


def _spread(group: Any) -> list[Parameter]:
    """List the options of a group."""
    if get_origin(group) is Overrides:
        return list(options_of(*get_args(group)))
    hints = get_type_hints(group, include_extras=True)
    options: list[Parameter] = []
    for field in fields(group):
        hint = hints[field.name]
        if _is_group(hint):
            options += _spread(hint)
        else:
            options.append(
                Parameter(
                    field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=hint
                )
            )
    return options


def _gather(group: Any, arguments: dict[str, Any]) -> Any:
    """Build a group from the values of its options."""
    if get_origin(group) is Overrides:
        return overrides_of(*get_args(group), arguments)
    hints = get_type_hints(group)
    return group(
        **{
            field.name: _gather(hints[field.name], arguments)
            if _is_group(hints[field.name])
            else arguments[field.name]
            for field in fields(group)
        }
    )
