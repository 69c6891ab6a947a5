"""Read recipes: those that ship, by name, and the user's, from TOML files.

A file may begin with `extends = "NAME"`, and then says only what differs from that recipe.
"""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from visreplay.agent.protocols.recipe import Recipe
from visreplay.replay_core.errors import ConfigError

FOLDER = Path(__file__).parent / "recipes"

RECIPES = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
"""Names of the recipes that ship."""


def load_recipe(source: str | Path) -> Recipe:
    """Load a recipe.

    Args:
        source: The name of one that ships, or the path of a TOML file.

    Raises:
        ConfigError: There is no such recipe, or something in it cannot be; the error names the key,
            its value and the rule.
    """
    if isinstance(source, str) and source in RECIPES:
        return _shipped(source)
    path = Path(source).expanduser()
    return recipe_of(_table(path), path.stem)


def recipe_of(table: Mapping[str, Any], name: str) -> Recipe:
    """Build a recipe of plain values, as `Recipe.to_table` gives them.

    Args:
        table: The values by key.
        name: Name of the recipe.

    Raises:
        ConfigError: As `load_recipe`.
    """
    import json

    from pydantic import TypeAdapter, ValidationError

    if "protocol" not in table:
        raise ConfigError(
            f"the recipe {name} names no protocol: begin it with protocol = ..., or with "
            "extends = ... and the name of a recipe"
        )
    # As JSON: a list of TOML is a tuple here, and nothing else is converted. A date fits no key.
    values = json.dumps({**table, "name": name}, default=lambda date: {"date": str(date)})
    try:
        return TypeAdapter(Recipe).validate_json(values, strict=True)
    except ValidationError as error:
        raise ConfigError(f"the recipe {name}: {_first_mistake(error)}") from error


@cache
def _shipped(name: str) -> Recipe:
    return recipe_of(_table(FOLDER / f"{name}.toml"), name)


def checkpoints() -> dict[str, tuple[str, ...]]:
    """List the recipes that ship with the parts of the names of their checkpoints."""
    return {name: _shipped(name).checkpoints for name in RECIPES}


def _table(path: Path) -> dict[str, Any]:
    """Read a file, and what it extends."""
    try:
        table = tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no recipe {str(path)!r}: give a TOML file, or one of {', '.join(RECIPES)}"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"the recipe {str(path)!r} cannot be read: {error}") from error
    if "name" in table:
        raise ConfigError(f"the recipe {str(path)!r}: there is no key name; the file's name is it")
    if "tools" in table:
        raise ConfigError(
            f"the recipe {str(path)!r}: there is no key tools; [tool_free] has the texts without "
            "tools, and `visreplay eval --tools` chooses"
        )
    if "extends" not in table:
        return table
    parent = table.pop("extends")
    if parent not in RECIPES:
        raise ConfigError(
            f"the recipe {str(path)!r} extends {parent!r}, but may extend {', '.join(RECIPES)}"
        )
    return _extended(_table(FOLDER / f"{parent}.toml"), table)


def _extended(parent: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """Put the values of a recipe over those of another one."""
    texts = table.get("texts", {})
    words = {"observation" if key in ("crop", "frames") else key for key in (*table, *texts)}
    # A text that the recipe has is not missing any more, and checkpoints lead to the parent.
    expects = [name for name in parent.get("expects", ()) if name not in words]
    return _merged({**parent, "expects": expects, "checkpoints": []}, table)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(below[key], value)
        for key, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    return {**below, **above, **both}


def _first_mistake(error: Any) -> str:
    """Put the first mistake that pydantic found into a line."""
    mistake = error.errors()[0]
    key = ".".join(map(str, mistake["loc"]))
    if mistake["type"] == "unexpected_keyword_argument":
        return f"there is no key {key}"
    value, reason = repr(mistake["input"]), mistake["msg"]
    value = value if len(value) <= 60 else f"{value[:57]}..."
    if mistake["type"] == "value_error":
        return f"{key}: {mistake['ctx']['error']}"
    return f"{key} is {value}, but {re.sub(r'^[A-Z][a-z]+ should', 'it should', reason)}"
