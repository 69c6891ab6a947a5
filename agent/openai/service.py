"""What the OpenAI-compatible server serves, and where requests become answers."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from visreplay.agent.chat.renderer import ChatRenderer
from visreplay.agent.chat.reply_text import CALL_END, ReplyStream
from visreplay.agent.chat.tool_choice import offered
from visreplay.agent.chat.turn_memory import TurnMemory
from visreplay.agent.messages import Message
from visreplay.agent.openai.completion import CompletionBuilder
from visreplay.agent.openai.messages import as_messages
from visreplay.agent.openai.replay_options import replay_config
from visreplay.agent.openai.request_schema import ChatRequest
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.policy.replay_policy import ReplayPolicy
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.policy.session_cache import SessionCache
from visreplay.agent.protocols import get_protocol
from visreplay.agent.serving.engine import Engine, Event, Slot
from visreplay.agent.serving.limits import ServerLimits
from visreplay.agent.serving.metrics import Metrics
from visreplay.replay_core import ConfigError, Method, ModelPair, ReplayConfig
from visreplay.tools import ImageStore, Media
from visreplay.tools.fetch import Fetcher
from visreplay.tools.media_budget import Budget

REPLAYED = "policy+replay"


@dataclass(frozen=True)
class ServiceConfig:
    """What is served.

    Attributes:
        pair: Policy and base.
        models: How each model that clients may name replays (`served_models`).
        dialect: In which tools are called (a key of `PROTOCOLS`).
        sampling: How to decode where a request says nothing.
        limits: Of requests.
        roots: Folders whose files clients may name by `file:` URLs.
        fetch: Reads http and https URLs; None reads none.
    """

    pair: ModelPair
    models: Mapping[str, ReplayConfig]
    dialect: str = "hermes"
    sampling: Sampling = Sampling()
    limits: ServerLimits = ServerLimits()
    roots: tuple[Path, ...] = ()
    fetch: Fetcher | None = None


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


class ChatService:
    """Where requests become answers.

    Attributes:
        service: What is served.
        engine: Reads and writes.
        metrics: What was done so far.
        since: When it was opened, in seconds since 1970.
    """

    def __init__(self, service: ServiceConfig) -> None:
        limits = service.limits
        self.service = service
        self.engine = Engine(limits.running, limits.waiting)
        self.since = int(time.time())
        self._sessions = SessionCache(limits.cache_bytes)
        self._memory = TurnMemory()
        self.metrics = Metrics(self.engine, self._sessions)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Work while the server runs."""
        async with self.engine:
            yield
        self._sessions.clear()

    async def begin(
        self, asked: ChatRequest, place: Slot
    ) -> tuple[CompletionBuilder, AsyncIterator[Event]]:
        """Read a request's conversation.

        Args:
            asked: The request.
            place: Where it is read and answered.

        Returns:
            The answer, of which there is nothing yet, and what is written from then on.

        Raises:
            ReplayError: A setting is out of range, or the conversation too long.
            MessageError: A message cannot be shown.
            ValueError: There is no such tool, or no turn to answer.
        """
        began = time.perf_counter()
        config, limits = self._replay(asked), self.service.limits
        if (asked.new_tokens or 0) > limits.new_tokens:
            raise ConfigError(
                f"{asked.new_tokens} new tokens were asked for; at most {limits.new_tokens} can be"
            )
        budget = Budget(limits.pixels, limits.media, limits.media_seconds)
        interpreter = self._interpreter(budget)
        dialect = interpreter.dialect
        if asked.tools and not dialect.named_calls:
            raise ConfigError(f"the {self.service.dialect} protocol calls no tools but its own")
        tools, opening = offered(interpreter, asked.signatures, asked.choice)

        def prepared() -> tuple[bytes, list[Message]]:
            messages = as_messages(asked.messages)
            digest = self._memory.recall([asked.model, asked.replay, asked.signatures], messages)
            return digest, interpreter.conversation(messages, tools)

        try:
            digest, conversation = await place.prepare(prepared)
        except asyncio.CancelledError:
            budget.gone = True
            raise
        policy = ReplayPolicy(
            self.service.pair,
            config,
            dialect.store,
            stop_strings=dialect.stop_strings,
            sessions=self._sessions,
            max_context=limits.context,
            maps=False,
        )
        reading = await place.read(policy.read(conversation, opening))
        self.metrics.read(asked.model, reading, time.perf_counter() - began)
        stops = [*asked.stops]
        if asked.parallel_tool_calls is False and dialect.named_calls:
            stops.append(CALL_END)
        answer = CompletionBuilder(
            f"chatcmpl-{uuid4().hex}",
            int(time.time()),
            asked.model,
            ReplyStream(interpreter, asked.stops, calls=bool(tools)),
            reading,
            asked.n,
            bool(asked.logprobs),
            self._memory,
            digest,
        )
        decoding = policy.decoding(asked.sampling(self._default(asked.n)), stops)
        events = place.write(policy, reading, asked.seeds, **decoding, logprobs=asked.kept_logprobs)
        return answer, self.metrics.counted(asked.model, began, events)

    def _replay(self, asked: ChatRequest) -> ReplayConfig:
        """How to replay for a request."""
        config = self.service.models[asked.model]
        if not asked.replay:
            return config
        if asked.model != REPLAYED:
            raise ConfigError(f"replay has settings, but model {asked.model!r} has no replay")
        return replay_config(config, asked.replay)

    def _default(self, answers: int) -> Sampling:
        """How to decode where a request says nothing: several answers are drawn, one is not."""
        sampling = self.service.sampling
        return replace(
            sampling,
            temperature=sampling.temperature or float(answers > 1),
            max_new_tokens=min(sampling.max_new_tokens, self.service.limits.new_tokens),
        )

    def _interpreter(self, budget: Budget) -> ChatRenderer:
        """Reads the messages of one request, whose pictures nobody else's push out."""
        service, limits = self.service, self.service.limits
        store = ImageStore()
        media = Media(
            store,
            service.roots,
            max_pixels=limits.pixels,
            max_uri=limits.body_bytes,
            fetch=service.fetch,
            max_frames=limits.frames,
            max_seconds=limits.video_seconds,
            budget=budget,
        )
        dialect = get_protocol(service.dialect, token_grid(service.pair.processor), store)
        return ChatRenderer(dialect, service.pair.tokenizer, media)
