"""An OpenAI-compatible server: chat completions by a policy under replay, and without it."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from visreplay.agent.access import App, KeyRequired
from visreplay.agent.chat_messages import Interpreter
from visreplay.agent.chat_turns import CALL_END, TurnText, offered
from visreplay.agent.encoding import token_grid
from visreplay.agent.engine import BusyError, Ended, Engine, Place
from visreplay.agent.http_limits import BodyLimit
from visreplay.agent.openai_chat import Answer, Json, TurnMemory
from visreplay.agent.openai_messages import as_messages
from visreplay.agent.openai_replay import replay_config
from visreplay.agent.openai_responses import (
    CALLERS_MISTAKES,
    EXCEPTION_HANDLERS,
    EventStream,
    refusal,
    sent_events,
    while_connected,
)
from visreplay.agent.openai_schema import ChatRequest
from visreplay.agent.policy import ReplayPolicy, Sampling
from visreplay.agent.protocols import protocol_named
from visreplay.agent.server_metrics import Metrics
from visreplay.agent.sessions import CACHE_BYTES, SessionCache
from visreplay.replay_core import (
    ConfigError,
    Method,
    ModelPair,
    ReplayConfig,
)
from visreplay.tools import ImageStore
from visreplay.tools.media import Media
from visreplay.tools.types import shown

REPLAYED = "policy+replay"


@dataclass(frozen=True)
class ServerLimits:
    """What one request may take.

    Attributes:
        body_bytes: Of a request's body.
        body_seconds: For which a client may take to send it.
        pixels: Of all images and frames of a request together.
        frames: Of a clip.
        video_seconds: Of a clip.
        context: Tokens of a conversation.
        new_tokens: Of an answer, which are also those of an answer that says nothing of them.
        running: Answers that are written at once.
        waiting: Requests that may wait for that.
        cache_bytes: Of what was read and is kept.
    """

    body_bytes: int = 20 * 2**20
    body_seconds: float = 60
    pixels: int = 64_000_000
    frames: int = 64
    video_seconds: float = 600
    context: int = 32_768
    new_tokens: int = 2048
    running: int = 16
    waiting: int = 64
    cache_bytes: int = CACHE_BYTES


@dataclass(frozen=True)
class Service:
    """What is served.

    Attributes:
        pair: Policy and base.
        models: How each model that clients may name replays (`served_models`).
        dialect: In which tools are called (a key of `PROTOCOLS`).
        sampling: How to decode where a request says nothing.
        limits: Of a request.
        media: What images and clips may be besides data URIs: the folders and the fetcher of this
            are taken.
    """

    pair: ModelPair
    models: Mapping[str, ReplayConfig]
    dialect: str = "hermes"
    sampling: Sampling = Sampling()
    limits: ServerLimits = ServerLimits()
    media: Media = field(default_factory=lambda: Media(ImageStore()))


def served_models(pair: ModelPair, replay: ReplayConfig) -> dict[str, ReplayConfig]:
    """The models that a pair can be served as.

    Args:
        pair: The base answers as well if all of it was kept.
        replay: How the policy is replayed.
    """
    models = {"policy": ReplayConfig(Method.NONE)}
    if replay.method is not Method.NONE:
        models[REPLAYED] = replay
    if pair.base is not None and pair.base.depth == pair.policy.depth:
        models["base"] = ReplayConfig(Method.NONE, swap_roles=True)
    return models


def openai_app(service: Service, api_key: str | None = None) -> App:
    """The server as an ASGI application.

    Args:
        service: What is served.
        api_key: What clients must send; None lets everybody in.
    """
    limits = service.limits
    app: App = BodyLimit(_api(service), limits.body_bytes, limits.body_seconds, refusal)
    if api_key is None:
        return app
    return KeyRequired(app, api_key, refusal(401, KeyRequired.REASON), open_to_all=("/health",))


class _Desk:
    """Where requests become answers."""

    def __init__(self, service: Service) -> None:
        limits = service.limits
        self.service = service
        self.engine = Engine(limits.running, limits.waiting)
        self.sessions = SessionCache(limits.cache_bytes)
        self.memory = TurnMemory()
        self.metrics = Metrics(self.engine, self.sessions)
        self.since = int(time.time())

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Work while the server runs."""
        async with self.engine:
            yield
        self.sessions.clear()

    def policy(self, asked: ChatRequest) -> ReplayPolicy:
        """Who answers."""
        config = self.service.models[asked.model]
        if asked.replay:
            if asked.model != REPLAYED:
                raise ConfigError(f"replay has settings, but model {asked.model!r} has no replay")
            config = replay_config(config, asked.replay)
        return ReplayPolicy(
            self.service.pair,
            config,
            ImageStore(),
            stop_strings=self._interpreter(ImageStore()).dialect.stop_strings,
            sessions=self.sessions,
            max_context=self.service.limits.context,
        )

    async def begin(self, asked: ChatRequest, place: Place) -> tuple[Answer, AsyncIterator[Any]]:
        """Read a request's conversation; returns its answer, and what is written from then on."""
        began = time.perf_counter()
        policy, limits = self.policy(asked), self.service.limits
        if (asked.new_tokens or 0) > limits.new_tokens:
            raise ConfigError(
                f"{asked.new_tokens} new tokens were asked for; at most {limits.new_tokens} can be"
            )
        # A store for this request alone: nobody else's pictures push one of these out.
        store = ImageStore(max_bytes=3 * limits.pixels)
        interpreter = self._interpreter(store)
        tools, opening = offered(interpreter, asked.signatures, asked.choice)
        if asked.tools and not interpreter.dialect.named_calls:
            raise ConfigError(f"the {self.service.dialect} protocol calls no tools but its own")
        messages = as_messages(asked.messages)
        self.memory.recall(messages)
        conversation = await asyncio.to_thread(interpreter.conversation, messages, tools)
        reading = await place.read(policy.read(conversation, opening, store))
        self.metrics.read(asked.model, reading, time.perf_counter() - began)
        stops = [*asked.stops]
        if asked.parallel_tool_calls is False and interpreter.dialect.named_calls:
            stops.append(CALL_END)
        answer = Answer(
            f"chatcmpl-{uuid4().hex}",
            int(time.time()),
            asked.model,
            TurnText(interpreter, asked.stops, calls=bool(tools)),
            reading,
            asked.n,
            bool(asked.logprobs),
            self.memory,
        )
        decoding = policy.decoding(asked.sampling(self._default), stops)
        events = place.write(policy, reading, asked.seeds, **decoding, logprobs=asked.kept_logprobs)
        return answer, self.metrics.counted(asked.model, began, events)

    @property
    def _default(self) -> Sampling:
        sampling, most = self.service.sampling, self.service.limits.new_tokens
        return Sampling(sampling.temperature, sampling.top_p, min(sampling.max_new_tokens, most))

    def _interpreter(self, store: ImageStore) -> Interpreter:
        service, limits = self.service, self.service.limits
        grid = token_grid(service.pair.processor)
        media = Media(
            store,
            service.media.roots,
            max_pixels=limits.pixels,
            max_uri=limits.body_bytes,
            fetch=service.media.fetch,
            max_frames=limits.frames,
            max_seconds=limits.video_seconds,
        )
        dialect = protocol_named(service.dialect, grid, store)
        return Interpreter(dialect, service.pair.tokenizer, media)


def _api(service: Service) -> FastAPI:
    desk = _Desk(service)

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

    @api.post("/v1/chat/completions", response_model=None)
    async def complete(asked: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        if asked.model not in service.models:
            return _no_model(asked.model, service)
        response = await while_connected(request, _answered(desk, asked))
        desk.metrics.answered(asked.model, response.status_code)
        return response

    @api.get("/v1/models")
    async def models() -> Json:
        """The models that can be named."""
        return {"object": "list", "data": [_model(name, desk) for name in service.models]}

    @api.get("/v1/models/{name}", response_model=None)
    async def model(name: str) -> Json | Response:
        """One of them."""
        return _model(name, desk) if name in service.models else _no_model(name, service)

    @api.get("/health")
    async def health() -> Json:
        """Whether the server works."""
        engine = desk.engine
        return {"status": "ok", "running": engine.running, "waiting": engine.waiting}

    @api.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters and times for Prometheus."""
        return Response(generate_latest(desk.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return api


async def _answered(desk: _Desk, asked: ChatRequest) -> Response:
    """The response to a request: of a stream the beginning, with the rest to follow."""
    async with AsyncExitStack() as stack:
        try:
            place = await stack.enter_async_context(desk.engine.place(asked.n))
            answer, events = await desk.begin(asked, place)
            if asked.stream:
                usage = asked.stream_options is not None and asked.stream_options.include_usage
                return EventStream(sent_events(answer, events, usage), stack.pop_all())
            async for event in events:
                if isinstance(event, Ended):
                    answer.end(event.choice, event.turn)
        except BusyError as error:
            return refusal(429, str(error))
        except CALLERS_MISTAKES as error:
            return refusal(422, str(error) or type(error).__name__)
        return JSONResponse(answer.whole())
    raise AssertionError("unreachable: the stack swallows nothing")


def _model(name: str, desk: _Desk) -> Json:
    return {"id": name, "object": "model", "created": desk.since, "owned_by": "visreplay"}


def _no_model(name: str, service: Service) -> Response:
    names = ", ".join(service.models)
    return refusal(404, f"there is no model {shown(name)}; there are {names}", "model")
