"""How tools are described to a model: JSON signatures between <tools> tags."""

import json
from typing import Any

Signature = dict[str, Any]
Schema = dict[str, Any]


def signature(
    name: str, description: str, parameters: dict[str, Schema], *, optional: tuple[str, ...] = ()
) -> Signature:
    """Describe a tool as a JSON schema.

    Args:
        name: Name of the tool.
        description: What it does, for the model.
        parameters: The schema of each argument.
        optional: Names of the arguments that may be left out.
    """
    required = [parameter for parameter in parameters if parameter not in optional]
    schema = {"type": "object", "properties": parameters, "required": required}
    function = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": function}


def box(description: str) -> Schema:
    """Build the schema of a box; the description says in which coordinates."""
    return {
        "type": "array",
        "items": {"type": "number"},
        "minItems": 4,
        "maxItems": 4,
        "description": description,
    }


def describe_tools(introduction: str, *tools: Signature) -> str:
    """Write a system prompt that introduces tools."""
    lines = "\n".join(json.dumps(tool) for tool in tools)
    return (
        f"{introduction}\n\n# Tools\nThe function signatures are given in JSON between "
        f"<tools></tools> tags:\n<tools>\n{lines}\n</tools>\n\nTo call one, write one JSON object "
        'between tags:\n<tool_call>\n{"name": "...", "arguments": {...}}\n</tool_call>'
    )
