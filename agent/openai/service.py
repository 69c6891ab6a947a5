"""The service behind the OpenAI-compatible server: from a request to the events of its answer."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from visreplay.agent.chat.chat_policy import ChatPolicy
from visreplay.agent.chat.reply_text import CALL_END, ReplyStream
from visreplay.agent.chat.turn_memory import TurnMemory
from visreplay.agent.messages import Message
from visreplay.agent.openai.completion import CompletionBuilder
from visreplay.agent.openai.messages import from_openai
from visreplay.agent.openai.replay_options import replay_config
from visreplay.agent.openai.request_schema import ChatRequest
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.policy.session_cache import SessionCache
from visreplay.agent.policy.writing import Writer
from visreplay.agent.protocols import Recipe
from visreplay.agent.serving.decoding import Event
from visreplay.agent.serving.engine import Engine, Slot
from visreplay.agent.serving.json_bounds import JsonBounds, JsonBoundsError, JsonCounter
from visreplay.agent.serving.limits import ServerLimits
from visreplay.agent.serving.metrics import Metrics
from visreplay.replay_core import ConfigError, Method, ModelPair, ReplayConfig, ReplaySession
from visreplay.tools import ImageStore, Media
from visreplay.tools.fetch import Fetcher
from visreplay.tools.media_budget import Budget, PixelAllowance
from visreplay.tools.media_pool import POOL

REPLAYED = "policy+replay"


@dataclass(frozen=True)
class ServiceConfig:
    """The configuration of a server.

    Attributes:
        pair: Policy and base.
        models: How each model that clients may name replays (`served_models`).
        protocol: How tools are called and their results shown (a key of `PROTOCOLS`); "auto" goes
            by the policy's name.
        sampling: How to decode, unless a request says otherwise; what neither sets is the
            protocol's recipe's, then the checkpoint's.
        limits: The limits of requests.
        roots: Folders whose files clients may name by `file:` URLs.
        fetch: Reads http and https URLs; None reads none.
        recipe: The texts and budgets of the policy's training: a recipe, the path of its file, or
            the name of one that ships. None chooses by the policy's name.
        writer: What writes the answers of the policy; None takes the pair's own models. The base,
            whose weights another engine does not have, is then not among the models.
    """

    pair: ModelPair
    models: Mapping[str, ReplayConfig]
    protocol: str = "auto"
    sampling: Sampling = Sampling()
    limits: ServerLimits = ServerLimits()
    roots: tuple[Path, ...] = ()
    fetch: Fetcher | None = None
    recipe: Recipe | str | Path | None = None
    writer: Writer | None = None


def served_models(pair: ModelPair, replay: ReplayConfig) -> dict[str, ReplayConfig]:
    """The models that a pair can be served as.

    Args:
        pair: Policy and base. The base answers as well if it has all of its layers.
        replay: How the policy is replayed.
    """
    models = {"policy": ReplayConfig(Method.NONE)}
    if replay.method is not Method.NONE:
        models[REPLAYED] = replay
    if pair.base is not None and pair.base.depth == pair.policy.depth:
        models["base"] = ReplayConfig(Method.NONE, swap_roles=True)
    return models


class ChatService:
    """Answers chat requests.

    Attributes:
        service: The configuration.
        engine: Reads conversations and writes answers.
        metrics: Counters and times so far.
        since: When the service was opened, in seconds since 1970.
        bounds: Bounds on the JSON of a request.

    Raises:
        ConfigError: A model cannot be replayed as it is configured.
    """

    def __init__(self, service: ServiceConfig) -> None:
        for config in service.models.values():
            ReplaySession(service.pair, config)  # which checks it
        limits = service.limits
        self.bounds = JsonBounds(limits.json_bytes, limits.json_values)
        self.service = service
        self.engine = Engine(limits.running, limits.waiting)
        self.since = int(time.time())
        self._pixels = PixelAllowance(limits.held_pixels)
        self._sessions = SessionCache(limits.cache_bytes)
        self._memory = TurnMemory()
        self.metrics = Metrics(self.engine, self._sessions)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Work while the server runs."""
        async with self.engine:
            yield
        POOL.close()  # Python would wait for the threads that decode in it
        self._sessions.clear()

    def budget(self) -> Budget:
        """Make the limits on the media of one request."""
        limits = self.service.limits
        return Budget(limits.pixels, limits.media, limits.media_seconds, self._pixels)

    async def begin(
        self, request: ChatRequest, slot: Slot, budget: Budget
    ) -> tuple[CompletionBuilder, AsyncIterator[Event]]:
        """Read a request's conversation.

        Args:
            request: The request. Its messages and tools are dropped as soon as they are converted.
            slot: Where it is read and answered.
            budget: What it may read, as `budget` makes it; it is left at the request's end.

        Returns:
            The completion, which is empty so far, and the events of what is written from then on.

        Raises:
            ReplayError: A setting is out of range, or the conversation is too long.
            MessageError: A message cannot be shown.
            ValueError: There is no such tool, or nothing to answer.
        """
        began = time.perf_counter()
        replay, limits = self._replay(request), self.service.limits
        if (request.new_tokens or 0) > limits.max_new_tokens:
            raise ConfigError(
                f"max_completion_tokens is {request.new_tokens}; at most "
                f"{limits.max_new_tokens} are allowed"
            )
        chat = self._chat_policy(replay, budget)
        signatures = request.signatures
        offer = chat.offer(signatures, request.choice)

        def prepare() -> tuple[bytes, list[Message]]:
            self._check_arguments(request)
            messages = from_openai(request.messages, chat.renderer)
            request.drop_conversation()
            digest = chat.memory.recall([request.model, request.replay, signatures], messages)
            return digest, chat.renderer.conversation(messages, offer.tools)

        digest, conversation = await slot.prepare(prepare)
        reading = await slot.prefill(chat.policy.read(conversation, offer.opening))
        self.metrics.prefilled(request.model, reading, time.perf_counter() - began)
        stops = [*request.stops]
        if offer.tools and request.parallel_tool_calls is False:
            stops.append(CALL_END)
        completion = CompletionBuilder(
            f"chatcmpl-{uuid4().hex}",
            int(time.time()),
            request.model,
            [
                ReplyStream(chat.renderer, request.stops, calls=bool(offer.tools))
                for _ in range(request.n)
            ],
            reading,
            bool(request.logprobs),
            chat.memory,
            digest,
        )
        decoding = chat.policy.decoding(self._sampling(request, chat), stops)
        events = slot.decode(
            chat.policy, reading, request.seeds, **decoding, logprobs=request.kept_logprobs
        )
        return completion, self.metrics.counted(request.model, began, events)

    def _check_arguments(self, request: ChatRequest) -> None:
        """Count the JSON that stands in strings of a request: the arguments of calls.

        What is no JSON passes: a policy may have written it.

        Raises:
            ConfigError: All of them together have too many values.
        """
        size, left = self.bounds.bytes, self.bounds.values
        for message in request.messages:
            for call in getattr(message, "tool_calls", None) or ():
                counter = JsonCounter(JsonBounds(size, left, depth=size, digits=size))
                try:
                    counter.push(call.function.arguments.encode("utf-8", "replace"))
                except JsonBoundsError as error:
                    if error.status == 413:
                        raise ConfigError(
                            f"the arguments of the calls have more than {self.bounds.values:,} "
                            "JSON values together: send fewer"
                        ) from error
                left -= counter.values

    def _replay(self, request: ChatRequest) -> ReplayConfig:
        """Return the replay settings of a request."""
        config = self.service.models[request.model]
        if not request.replay:
            return config
        if request.model != REPLAYED:
            raise ConfigError(f"replay has settings, but model {request.model!r} has no replay")
        return replay_config(config, request.replay)

    def _sampling(self, request: ChatRequest, chat: ChatPolicy) -> Sampling:
        """Return how a request is decoded: several answers are sampled unless it says otherwise."""
        own = request.sampling.filled(self.service.sampling)
        if request.n > 1 and request.temperature is None and chat.policy.resolved(own).greedy:
            own = replace(own, temperature=1.0)
        limit = self.service.limits.max_new_tokens
        tokens = own.max_new_tokens or chat.protocol.sampling.max_new_tokens or limit
        return replace(own, max_new_tokens=min(tokens, limit))

    def _chat_policy(self, replay: ReplayConfig, budget: Budget) -> ChatPolicy:
        """The policy for one request, whose images no other request pushes out of the store."""
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
        return ChatPolicy(
            service.pair,
            replay,
            service.protocol,
            store,
            recipe=service.recipe,
            media=media,
            sessions=self._sessions,
            memory=self._memory,
            max_context=limits.context,
            maps=False,
            writer=service.writer,
        )
