"""The body of a request: parsed, checked, and described for clients."""

import json
from typing import Any

from fastapi import FastAPI, Request
from pydantic import ValidationError

from visreplay.agent.openai.errors import BodyError
from visreplay.agent.openai.request_schema import ChatRequest

_SCHEMAS = "#/components/schemas/"

DESCRIPTION = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": f"{_SCHEMAS}ChatRequest"}}},
    }
}
"""The body of a request for a chat completion, for `openapi_extra` of its route."""


async def chat_request(request: Request) -> ChatRequest:
    """Parse the body of a request; nothing else keeps it.

    FastAPI would keep the bytes, and what they were parsed into, until the request is answered.

    Raises:
        BodyError: It is not JSON, or not of `ChatRequest`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind[:12] == "application/" and kind[-5:] == "+json"):
        raise BodyError(422, "the body: its Content-Type must be application/json")
    try:
        value = json.loads(b"".join([piece async for piece in request.stream()]))
    except json.JSONDecodeError as error:
        message = f"the body: no JSON: {error.msg} at character {error.pos}"
        raise BodyError(422, message) from None  # the error holds the body
    except (ValueError, RecursionError):  # no UTF-8, for example
        raise BodyError(400, "there was an error parsing the body") from None
    try:
        return ChatRequest.model_validate(value)
    except ValidationError as error:
        field, problem = _mistake(error)
    raise BodyError(422, f"{field or 'the body'}: {problem}", field or None)


def describe(api: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI description of an application, with the schema of the body."""
    described = FastAPI.openapi(api)
    schema = ChatRequest.model_json_schema(ref_template=_SCHEMAS + "{model}")
    parts = schema.pop("$defs")
    described["components"]["schemas"] |= {**parts, "ChatRequest": schema}
    return described


def _mistake(error: ValidationError) -> tuple[str, str]:
    """Return the field that is wrong ("" for the body), and what is wrong with it."""
    # A field may be one of several types: the one that was meant is right down to some depth.
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    deepest = max(errors, key=lambda each: len(each["loc"]))
    # Without the names of types, which pydantic puts between those of the fields.
    names = [str(part) for part in deepest["loc"] if not str(part).endswith(("]", "str"))]
    return ".".join(names), deepest["msg"]
