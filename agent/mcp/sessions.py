"""A bound on the sessions of clients over HTTP that shuts out no new client."""

from collections import OrderedDict

from mcp.server.streamable_http import MCP_SESSION_ID_HEADER

from visreplay.agent.serving.auth import App, Message, Receive, Scope, Send

_HEADER = MCP_SESSION_ID_HEADER.encode()


class SessionLimit:
    """ASGI middleware that ends the session that is idle for longest, to make room for a new one.

    Clients that restart leave their sessions behind, which the SDK keeps for half an hour, and
    beyond its limit it refuses new ones. A client whose session was ended is answered with 404 and
    begins a new one, as the protocol says. A session with an open stream or a call is not idle.

    Args:
        app: The SDK's application.
        limit: The number of sessions from which on idle ones are ended.
    """

    def __init__(self, app: App, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._opening = 0
        # The requests that each session has at work; the session used last is at the end.
        self._sessions: OrderedDict[str, int] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; one without a session may open one."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        session = dict(scope["headers"]).get(_HEADER, b"").decode("latin-1")
        if session:
            await self._use(session, scope, receive, send)
        elif scope["method"] == "POST":
            await self._open(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _use(self, session: str, scope: Scope, receive: Receive, send: Send) -> None:
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        self._count(session, 1)
        try:
            await self._app(scope, receive, watch)
        finally:
            self._count(session, -1)
            ended = scope["method"] == "DELETE" and status < 300
            if ended or status == 404:
                self._sessions.pop(session, None)

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = ""

        async def watch(message: Message) -> None:
            nonlocal session
            if message["type"] == "http.response.start" and message["status"] < 400:
                session = dict(message["headers"]).get(_HEADER, b"").decode("latin-1")
                if session:
                    self._sessions[session] = 1
            await send(message)

        self._opening += 1
        try:
            await self._make_room(scope)
            await self._app(scope, receive, watch)
        finally:
            self._opening -= 1
            self._count(session, -1)

    def _count(self, session: str, change: int) -> None:
        """Count a request of a session that is known, and note that it was used."""
        if session in self._sessions:
            self._sessions[session] += change
            self._sessions.move_to_end(session)

    async def _make_room(self, scope: Scope) -> None:
        """End idle sessions until there is room for those that are being opened."""
        while len(self._sessions) + self._opening > self._limit:
            idle = next((session for session, busy in self._sessions.items() if not busy), None)
            if idle is None or not await self._end(idle, scope):
                return
            self._sessions.pop(idle, None)

    async def _end(self, session: str, scope: Scope) -> bool:
        """End a session as its client would, with the headers of another request."""
        status = 0

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def note(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)

        headers = [*scope["headers"], (_HEADER, session.encode("latin-1"))]
        await self._app({**scope, "method": "DELETE", "headers": headers}, receive, note)
        return status < 300 or status == 404
