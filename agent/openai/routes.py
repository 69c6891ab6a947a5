"""An OpenAI-compatible server: chat completions by a policy under replay, and without it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from visreplay.agent.openai.completion import Json
from visreplay.agent.openai.errors import CALLERS_MISTAKES, EXCEPTION_HANDLERS, refusal
from visreplay.agent.openai.request_schema import ChatRequest
from visreplay.agent.openai.response_schema import (
    Completion,
    Health,
    Served,
    ServedModels,
    described,
)
from visreplay.agent.openai.service import ChatService, ServiceConfig, served_models
from visreplay.agent.openai.streaming import EventStream, sent_events, while_connected
from visreplay.agent.serving.admission import BusyError
from visreplay.agent.serving.auth import App, KeyRequired, SameMachine
from visreplay.agent.serving.engine import EndEvent
from visreplay.agent.serving.http import BodyLimit
from visreplay.agent.serving.limits import ServerLimits
from visreplay.tools.types import preview

__all__ = ["ServerLimits", "ServiceConfig", "openai_app", "served_models"]


def openai_app(service: ServiceConfig, api_key: str | None = None) -> App:
    """The server as an ASGI application.

    Args:
        service: What is served.
        api_key: What clients must send; None lets every program of this machine in.
    """
    limits = service.limits
    app: App = BodyLimit(_api(service), limits.body_bytes, limits.body_seconds, refusal)
    if api_key is None:
        return SameMachine(app, refusal(403, SameMachine.REASON))
    return KeyRequired(app, api_key, refusal(401, KeyRequired.REASON), open_to_all=("/health",))


def _api(service: ServiceConfig) -> FastAPI:
    desk = ChatService(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with desk.open():
            yield

    api = FastAPI(
        title="visreplay",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        exception_handlers=EXCEPTION_HANDLERS,
    )

    @api.post(
        "/v1/chat/completions",
        response_model=None,
        responses=described(Completion, 400, 401, 403, 404, 408, 413, 422, 429, 500, streams=True),
    )
    async def complete(asked: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        if asked.model not in service.models:
            return _no_model(asked.model, service)
        status = 500
        try:
            response = await while_connected(request, _answered(desk, asked))
            status = response.status_code
        finally:
            desk.metrics.answered(asked.model, status)
        return response

    @api.get("/v1/models", response_model=None, responses=described(ServedModels, 401, 403))
    async def models() -> Json:
        """The models that can be named."""
        return {"object": "list", "data": [_model(name, desk) for name in service.models]}

    @api.get(
        "/v1/models/{name}", response_model=None, responses=described(Served, 401, 403, 404, 422)
    )
    async def model(name: str) -> Json | Response:
        """One of them."""
        return _model(name, desk) if name in service.models else _no_model(name, service)

    @api.get("/health", response_model=None, responses=described(Health, 403, 503))
    async def health() -> Json | Response:
        """Whether the server works."""
        engine = desk.engine
        if not engine.works:
            return refusal(503, "nothing is read and written any more; the server's log tells why")
        return {"status": "ok", "running": engine.places.running, "waiting": engine.places.waiting}

    @api.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters and times for Prometheus."""
        return Response(generate_latest(desk.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return api


async def _answered(desk: ChatService, asked: ChatRequest) -> Response:
    """The response to a request: of a stream the beginning, with the rest to follow."""
    try:
        async with AsyncExitStack() as stack:
            place = await stack.enter_async_context(desk.engine.place(asked.n))
            answer, events = await desk.begin(asked, place)
            if asked.stream:
                usage = asked.stream_options is not None and asked.stream_options.include_usage
                return EventStream(sent_events(answer, events, usage), stack.pop_all())
            await stack.enter_async_context(aclosing(events))  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, EndEvent):
                    answer.end(event.choice, event.turn)
    except BusyError as error:
        return refusal(429, str(error))
    except CALLERS_MISTAKES as error:
        return refusal(422, str(error) or type(error).__name__)
    return JSONResponse(answer.whole())


def _model(name: str, desk: ChatService) -> Json:
    return {"id": name, "object": "model", "created": desk.since, "owned_by": "visreplay"}


def _no_model(name: str, service: ServiceConfig) -> Response:
    names = ", ".join(service.models)
    return refusal(404, f"there is no model {preview(name)}; there are {names}", "model")
