"""Errors of messages that cannot be read, in the form of JSON-RPC."""

import json
import re

from mcp.types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError

from visreplay.agent.serving.auth import App, Message, Receive, Scope, Send

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def error_message(code: int, message: str) -> JSONRPCError:
    """Build an error about a message whose id is not known; the SDK writes such ids so.

    Args:
        code: The code of JSON-RPC.
        message: What is wrong.
    """
    return JSONRPCError(
        jsonrpc="2.0", id="server-error", error=ErrorData(code=code, message=message)
    )


def error_response(status: int, message: str) -> App:
    """Build the response of an error.

    Args:
        status: The HTTP status.
        message: What is wrong.
    """
    error = error_message(PARSE_ERROR if status == 400 else INVALID_REQUEST, message)
    body = error.model_dump_json(exclude_none=True).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return respond


class WholeCharacters:
    """ASGI middleware that refuses text that is no UTF-8, and half of a surrogate pair.

    The SDK answers the former with a failure of its own, and the latter not at all.

    Args:
        app: The application behind it.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on whose body, which comes as a whole, has whole characters alone."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        messages = [await receive()]
        if (problem := _problem(messages[0].get("body", b""))) is not None:
            await error_response(400, problem)(scope, receive, send)
            return

        async def receive_again() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, receive_again, send)


def _problem(body: bytes) -> str | None:
    """Say what is wrong with the characters of a body; None if nothing is, or it is no JSON."""
    try:
        body.decode()
        if _SURROGATE.search(body):
            json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeDecodeError:
        return "the body is no JSON in UTF-8"
    except UnicodeEncodeError:
        return "a text in the body has half of a surrogate pair"
    except ValueError:
        pass
    return None
