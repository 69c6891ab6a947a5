"""The policy under replay as a model of Inspect: `visreplay/embedded`, `visreplay/ORG/CHECKPOINT`.

It needs `pip install 'visreplay[export]'`.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from anyio import from_thread, to_thread
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    StopReason,
    TopLogprob,
)
from inspect_ai.tool import ToolChoice, ToolInfo
from inspect_ai.util import concurrency

from visreplay.agent.chat.chat_policy import STORE_BYTES, ChatPolicy, ChatReply
from visreplay.agent.chat.renderer import MAX_URI
from visreplay.agent.chat.reply_text import CALL_END
from visreplay.agent.chat.tool_choice import ToolOffer
from visreplay.agent.episode.embedded_agent import prepare_process
from visreplay.agent.episode.visual_agent import VisualAgent
from visreplay.agent.inspect.messages import choice_of, from_inspect, reply_message, signature_of
from visreplay.agent.inspect.options import (
    CACHE,
    LOADING,
    PENALTY,
    REPLAY,
    TURN_OPTIONS,
    check_names,
    checked,
    replay_config,
    sampling_of,
)
from visreplay.agent.policy.replay_policy import PolicyTurn
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.policy.session_cache import CACHE_BYTES, SessionCache
from visreplay.replay_core.embedded_pair import EMBEDDED_PAIRS
from visreplay.tools import ImageStore, Media

T = TypeVar("T")

_LOADED = count()


class ReplayAPI(ModelAPI):
    """A model of Inspect: the policy of a pair writes its turns under replay.

    The pair answers one request at a time, in a thread beside Inspect's event loop. A conversation
    that goes on costs its new tokens alone. What replay did (`telemetry.replay_record`) is in the
    `metadata` of an output.

    Examples:
        >>> import asyncio
        >>> from inspect_ai.model import ChatMessageUser, get_model
        >>> api = get_model("visreplay/embedded", method="state", device="cpu").api
        >>> hello = ChatMessageUser(content="Hello")
        >>> output = asyncio.run(api.generate([hello], [], "auto", GenerateConfig(max_tokens=8)))
        >>> output.usage.output_tokens <= 8
        True

    Args:
        model_name: Folder or hub id of the policy, or "embedded" for the pair that ships with the
            package.
        base_url: None; nothing is asked over a network.
        api_key: None, as well.
        config: Options that Inspect merges into those of every call.
        **arguments: Model arguments: the fields of `ReplayConfig` (`theta` may be the path of a
            file that `visreplay calibrate` wrote), the arguments of `VisualAgent.from_pretrained`
            that load the pair (`base`, `protocol`, `recipe`, `device`, ...), `repetition_penalty`,
            and `cache_bytes`, the limit of the memory of what was read.

    Attributes:
        agent: Has the pair, its protocol and its replay.
        chat: Answers conversations.

    Raises:
        ConfigError: There is no such argument, or its value is out of range.
        ReplayError: The pair cannot be loaded.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        **arguments: Any,
    ) -> None:
        config = config or GenerateConfig()
        super().__init__(model_name, base_url, api_key, [], config)
        if base_url is not None:
            raise ValueError(
                f"the base URL is {base_url!r}, but {model_name!r} is loaded here: for a server, "
                "use openai-api/visreplay/policy+replay"
            )
        check_names(arguments, (*REPLAY, *LOADING, PENALTY, CACHE), "model argument")
        self.own_sampling = checked(Sampling, _chosen(arguments, (PENALTY,)))
        sampling_of(config, TURN_OPTIONS)  # refuse now what no call could have
        replay = replay_config(model_name, _chosen(arguments, REPLAY))
        if model_name in EMBEDDED_PAIRS:
            prepare_process()
        store = ImageStore(memory_bytes=STORE_BYTES, forgetful=True)
        self.agent = VisualAgent.from_pretrained(
            model_name, replay=replay, store=store, **_chosen(arguments, LOADING)
        )
        self.chat = ChatPolicy(
            self.agent.pair,
            self.agent.replay,
            store=store,
            recipe=self.agent.protocol.recipe,
            media=Media(store, (Path("/"),), max_uri=MAX_URI),
            sessions=SessionCache(arguments.get(CACHE, CACHE_BYTES)),
            maps=False,
        )
        self._number = next(_LOADED)

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Write the next turn of a conversation, or several ones.

        Args:
            input: The whole conversation.
            tools: The tools that the policy may call.
            tool_choice: The call that the turn has to begin with, if any.
            config: How to decode.

        Raises:
            ConfigError: There is no such option.
            MessageError: A message cannot be shown.
            ValueError: The protocol calls no tools by name.
        """
        sampling = self.sampling(config, TURN_OPTIONS)
        choices = config.num_choices or 1
        if choices > 1 and sampling.temperature is None and self._greedy(sampling):
            # As the server does: several answers are sampled unless the temperature says otherwise.
            sampling = replace(sampling, temperature=1.0)
        signatures = [signature_of(tool) for tool in tools]
        offer = self.chat.offer(signatures, choice_of(tool_choice) if tools else None)

        def answer() -> list[ChatReply]:
            messages = from_inspect(input, self.chat.renderer)
            digest = self.chat.memory.recall(signatures, messages)
            replies = run_unless_cancelled(
                self.chat.replying(
                    messages,
                    offer,
                    seeds=_seeds(config.seed, choices),
                    sampling=sampling,
                    stop=config.stop_seqs or (),
                    ends=[CALL_END] if _one_call(offer, config) else (),
                    logprobs=(config.top_logprobs or 0) if config.logprobs else None,
                )
            )
            for reply in replies:
                self.chat.memory.keep(digest, reply.parsed.message(), reply.token_ids)
            return replies

        replies = await self.in_turn(answer)
        return self._output(replies, bool(config.logprobs))

    async def in_turn(self, work: Callable[[], T]) -> T:
        """Call something in a thread, when the pair has nothing else to do.

        Args:
            work: The call; it may use `run_unless_cancelled`.
        """
        async with self._pair():
            return await to_thread.run_sync(work)

    def sampling(self, config: GenerateConfig, known: frozenset[str]) -> Sampling:
        """Read how to decode: Inspect's options, then the model arguments.

        Args:
            config: Inspect's options.
            known: Those of them that are carried out.

        Raises:
            ConfigError: Another option is set, or a value is out of range.
        """
        return sampling_of(config, known).filled(self.own_sampling)

    def max_connections(self) -> int:
        """One: the pair answers one request at a time."""
        return 1

    def connection_key(self) -> str:
        """The model's own: no other model waits for it."""
        return f"{self.model_name} {self._number}"

    def tool_result_images(self) -> bool:
        """True: a policy sees the images that its tools return."""
        return True

    def close(self) -> None:
        """Free the caches."""
        self.chat.close()
        self.agent.policy.close()

    def _pair(self) -> AbstractAsyncContextManager[Any]:
        return concurrency(f"visreplay {self.connection_key()}", 1, visible=False)

    def _greedy(self, sampling: Sampling) -> bool:
        return self.chat.policy.resolved(sampling).greedy

    def _output(self, replies: list[ChatReply], logprobs: bool) -> ModelOutput:
        return ModelOutput(
            model=self.model_name,
            choices=[
                ChatCompletionChoice(
                    message=reply_message(reply.parsed, self.model_name),
                    stop_reason=_stop_reason(reply),
                    logprobs=self._logprobs(reply) if logprobs else None,
                )
                for reply in replies
            ],
            usage=usage_of([reply.turn for reply in replies]),
            metadata={"replay": replies[0].turn.replay},
        )

    def _logprobs(self, reply: ChatReply) -> Logprobs:
        return Logprobs(
            content=[
                Logprob(
                    **self._token(entry.token_id, entry.logprob),
                    top_logprobs=[TopLogprob(**self._token(*top)) for top in entry.top] or None,
                )
                for entry in reply.turn.logprobs
            ]
        )

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        token = self.chat.renderer.tokenizer.decode([token_id])
        whole = "\ufffd" not in token
        return {
            "token": token,
            "logprob": logprob,
            "bytes": list(token.encode()) if whole else None,
        }


def run_unless_cancelled(pieces: Generator[Any, None, T]) -> T:
    """Run a generator to its end, in a thread, unless the task that waits for it is cancelled.

    Args:
        pieces: The generator; after each of its steps it may be stopped.

    Returns:
        The value of the generator.
    """
    while True:
        from_thread.check_cancelled()
        try:
            next(pieces)
        except StopIteration as end:
            result: T = end.value
            return result


def usage_of(turns: Sequence[PolicyTurn]) -> ModelUsage:
    """Count the tokens of turns that answer one conversation, which was read once."""
    read, known = turns[0].context_tokens, turns[0].known_tokens
    written = sum(len(turn.message["token_ids"]) for turn in turns)
    return ModelUsage(
        input_tokens=read - known,
        input_tokens_cache_read=known,
        output_tokens=written,
        total_tokens=read + written,
    )


def _chosen(arguments: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: arguments[name] for name in names if name in arguments}


def _seeds(seed: int | None, choices: int) -> list[int | None]:
    return [None if seed is None else (seed + choice) % 2**63 for choice in range(choices)]


def _one_call(offer: ToolOffer, config: GenerateConfig) -> bool:
    return bool(offer.tools) and config.parallel_tool_calls is False


def _stop_reason(reply: ChatReply) -> StopReason:
    if reply.parsed.tool_calls:
        return "tool_calls"
    if reply.turn.finish_reason == "length":
        return "max_tokens"
    return "tool_calls" if reply.parsed.unparsed_call else "stop"
