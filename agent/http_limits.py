"""What a server takes of a request's body, and for how long it waits for it."""

import asyncio
from typing import Any

from visreplay.agent.access import App, Receive, Scope, Send

Message = Any


class BodyLimit:
    """An ASGI application that reads the whole body first, within bounds.

    Args:
        app: What gets it.
        max_bytes: Of a body; more is answered with 413.
        seconds: For which a client may take to send it; then it is answered with 408.
        refuse: Answers with a status and a reason.
    """

    def __init__(self, app: App, max_bytes: int, seconds: float, refuse: Any) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            async with asyncio.timeout(self._seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self._max_bytes:
                        reason = f"the body has more than {self._max_bytes:,} bytes"
                        await self._refuse(413, reason)(scope, receive, send)
                        return
        except TimeoutError:
            reason = f"the body did not come within {self._seconds:g} seconds"
            await self._refuse(408, reason)(scope, receive, send)
            return
        unread = [{"type": "http.request", "body": bytes(body), "more_body": False}]
        del body

        async def receive_again() -> Message:
            return unread.pop() if unread else await receive()

        await self._app(scope, receive_again, send)
