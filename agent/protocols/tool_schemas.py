"""How tools are described to a model: by JSON schemas."""

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
