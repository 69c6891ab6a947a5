"""An OpenAI-compatible server: chat completions by a policy under replay, and without it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from visreplay.agent.openai.errors import (
    CALLERS_MISTAKES,
    EXCEPTION_HANDLERS,
    error_response,
    is_callers_mistake,
)
from visreplay.agent.openai.request_body import DESCRIPTION, chat_request, describe
from visreplay.agent.openai.request_schema import ChatRequest
from visreplay.agent.openai.response_schema import (
    Completion,
    Health,
    Model,
    Models,
    responses_of,
)
from visreplay.agent.openai.service import ChatService, ServiceConfig, served_models
from visreplay.agent.openai.streaming import (
    STOPPED,
    CountedResponse,
    EventStream,
    sent_events,
    while_connected,
)
from visreplay.agent.serving.admission import BusyError, ClosedError
from visreplay.agent.serving.auth import App, KeyRequired, Receive, SameMachine, Scope, Send
from visreplay.agent.serving.byte_budget import ByteBudget
from visreplay.agent.serving.decoding import EndEvent
from visreplay.agent.serving.http import BodyLimit
from visreplay.agent.serving.limits import ServerLimits
from visreplay.tools.media_budget import BusyMediaError
from visreplay.tools.types import preview

__all__ = ["OpenAIApp", "ServerLimits", "ServiceConfig", "openai_app", "served_models"]


class OpenAIApp:
    """The server as an ASGI application.

    Args:
        config: What is served.
        api_key: The key that clients must send; without one, every program of this machine, and no
            other, is answered.

    Raises:
        ConfigError: A model cannot be replayed as it is configured.
        ValueError: The key cannot be sent by any client.
    """

    def __init__(self, config: ServiceConfig, api_key: str | None = None) -> None:
        limits = config.limits
        held = ByteBudget(limits.held_bytes)
        self._service = ChatService(config)
        self._bodies = BodyLimit(
            _api(self._service, held),
            limits.body_bytes,
            limits.body_seconds,
            error_response,
            held,
            self._service.bounds,
        )
        self._app: App
        if api_key is None:
            self._app = SameMachine(self._bodies, error_response(403, SameMachine.REASON))
        else:
            unauthorised = error_response(401, KeyRequired.REASON)
            self._app = KeyRequired(self._bodies, api_key, unauthorised, open_paths=("/health",))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._app(scope, receive, send)

    def end_requests(self) -> None:
        """Answer every request that is not answered yet, or comes later, with an error."""
        self._bodies.close()
        self._service.engine.close()


def openai_app(config: ServiceConfig, api_key: str | None = None) -> OpenAIApp:
    """Build the server as an ASGI application; see `OpenAIApp`."""
    return OpenAIApp(config, api_key)


def _api(service: ChatService, held: ByteBudget) -> FastAPI:
    config = service.service

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.open():
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
        responses=responses_of(
            Completion, 400, 401, 403, 404, 408, 413, 422, 429, 500, 503, streams=True
        ),
        openapi_extra=DESCRIPTION,
    )
    async def complete(request: Request) -> Response:
        """Answer a conversation."""
        body = await chat_request(request)
        if body.model not in config.models:
            return _no_model(body.model, config)
        status = 500
        try:
            response = await while_connected(request, _completion(service, held, body))
            status = response.status_code
        finally:
            service.metrics.answered(body.model, status)
        return response

    @api.get("/v1/models", response_model=None, responses=responses_of(Models, 401, 403))
    async def models() -> Models:
        """List the models that a request can name."""
        return Models(object="list", data=[_model(name, service) for name in config.models])

    @api.get(
        "/v1/models/{name}", response_model=None, responses=responses_of(Model, 401, 403, 404, 422)
    )
    async def model(name: str) -> Model | Response:
        """Describe one of the models."""
        return _model(name, service) if name in config.models else _no_model(name, config)

    @api.get("/health", response_model=None, responses=responses_of(Health, 403, 503))
    async def health() -> Health | Response:
        """Say whether the server works."""
        engine = service.engine
        if not engine.works:
            return error_response(503, "the engine has stopped; the server's log tells why")
        queue = engine.admission
        return Health(status="ok", running=queue.running, waiting=queue.waiting)

    @api.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Give counters and times to Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    api.openapi = lambda: describe(api)  # type: ignore[method-assign]
    return api


async def _completion(service: ChatService, held: ByteBudget, body: ChatRequest) -> Response:
    """Respond to a request: with the completion, or with a stream once its first token is due."""
    try:
        async with AsyncExitStack() as stack:
            slot = await stack.enter_async_context(service.engine.slot(body.n))
            budget = service.budget()
            stack.callback(budget.leave)
            builder, events = await service.begin(body, slot, budget)
            if body.stream:
                usage = body.stream_options is not None and body.stream_options.include_usage
                lines = sent_events(builder, events, usage)
                return EventStream(lines, stack.pop_all(), held.share())
            await stack.enter_async_context(aclosing(events))  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, EndEvent):
                    builder.end(event.choice, event.turn)
            # In a thread: with log-probabilities, a completion has up to a million values.
            content = await slot.prepare(lambda: "".join(builder.pieces()).encode())
        share = held.share()
        if not share.take(len(content)):
            return error_response(429, "too many bytes of answers are not read: try again later")
        return CountedResponse(content, share)
    except ClosedError:
        return error_response(503, STOPPED)
    except (BusyError, BusyMediaError) as error:
        return error_response(429, str(error))
    except CALLERS_MISTAKES as error:
        if not is_callers_mistake(error):
            raise
        return error_response(422, str(error) or type(error).__name__)


def _model(name: str, service: ChatService) -> Model:
    return Model(id=name, object="model", created=service.since, owned_by="visreplay")


def _no_model(name: str, config: ServiceConfig) -> Response:
    names = ", ".join(config.models)
    return error_response(404, f"there is no model {preview(name)}; there are {names}", "model")
