"""The policy under replay as a chat model for LangChain and LangGraph."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Self

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, Field, InstanceOf, PrivateAttr

from visreplay.agent.chat.renderer import TOKEN_IDS, ChatRenderer, image_block
from visreplay.agent.chat.reply_text import ReplyStream
from visreplay.agent.chat.tool_choice import choice_of, offered
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.policy.replay_policy import PolicyTurn, ReplayPolicy
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.policy.session_cache import CACHE_BYTES, SessionCache
from visreplay.agent.protocols import get_protocol
from visreplay.agent.protocols.tool_schemas import Signature
from visreplay.replay_core import ModelPair, ReplayConfig
from visreplay.replay_core.generation import run_to_end
from visreplay.replay_core.loading import load_for
from visreplay.tools import ImageStore, load_image

_OPTIONS = {"tools", "tool_choice", "temperature", "top_p", "max_tokens", "seed", "stream"}
"""What a call may say for itself."""


class ReplayChatModel(BaseChatModel):
    """The policy of a pair, replayed as the history grows.

    It is handed the whole history at each call, and goes on from the longest beginning that it
    has read before: a step of an agent costs its new tokens alone. A history that was edited,
    branched or resumed elsewhere is answered as well, only slower. Calls may come from several
    threads at once.

    A message that it returns has in `additional_kwargs` the tokens that were generated, which go
    back into the context as they are if the message still says the same, and in
    `response_metadata["replay"]` what replay did (`telemetry.replay_record`). In a run of LangGraph
    that goes out on the `custom` stream as well, before the first token (`telemetry.tell`).

    Example:
        >>> model = ReplayChatModel.from_pretrained(
        ...     "ChenShawn/DeepEyes-7B", "Qwen/Qwen2.5-VL-7B-Instruct", dialect="deepeyes"
        ... )
        >>> agent = create_agent(model, tools=[zoom])

    Attributes:
        pair: Policy and base.
        replay: How to replay.
        dialect: The protocol (a key of `PROTOCOLS`) in which tools are called and answer.
        store: Where the images of messages are put, and found by `visreplay:` URLs; by default in
            a gigabyte of memory, from which those go first that were not used for longest.
        model_name: What the record calls the policy.
        temperature: 0 decodes greedily.
        top_p: Nucleus sampling's mass.
        max_tokens: Limit of one turn.
        stop: Texts that end a turn, and are left out of it.
        seed: Of sampling; None takes torch's global generator.
        cache_bytes: Of what was read and is kept; the least recently used goes first.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    pair: InstanceOf[ModelPair] = Field(exclude=True, repr=False)
    replay: InstanceOf[ReplayConfig] = Field(default_factory=ReplayConfig)
    dialect: str = "hermes"
    store: InstanceOf[ImageStore] = Field(
        default_factory=lambda: ImageStore(memory_bytes=2**30, forgetful=True),
        exclude=True,
        repr=False,
    )
    model_name: str = "policy"
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 2048
    stop: list[str] | None = None
    seed: int | None = None
    cache_bytes: int = CACHE_BYTES

    _policy: ReplayPolicy = PrivateAttr()
    _interpreter: ChatRenderer = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Start without any session."""
        protocol = get_protocol(self.dialect, token_grid(self.pair.processor), self.store)
        self._interpreter = ChatRenderer(protocol, self.pair.tokenizer)
        self._policy = ReplayPolicy(
            self.pair,
            self.replay,
            self.store,
            stop_strings=protocol.stop_strings,
            sessions=SessionCache(self.cache_bytes),
        )

    @classmethod
    def from_pretrained(
        cls,
        policy: str,
        base: str | None = None,
        *,
        replay: ReplayConfig = ReplayConfig(),
        load_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Load checkpoints (local paths or hub ids) and build the model.

        Args:
            policy: The RLVR-trained model.
            base: The model that it was trained from.
            replay: How to replay.
            load_options: For `load_pair`: `device`, `dtype`, `attn_implementation`, ...
            **options: The other attributes.
        """
        pair = load_for(replay, policy, base, **(load_options or {}))
        return cls(pair=pair, replay=replay, **{"model_name": policy, **options})

    @property
    def interpreter(self) -> ChatRenderer:
        """Reads messages and turns in the model's dialect; it has the model's image store."""
        return self._interpreter

    def image(self, picture: Any) -> dict[str, str]:
        """The content block of a picture, which is put in the store.

        Args:
            picture: A path, the bytes of a file, or a PIL image.

        Raises:
            ToolError: If it cannot be read.
        """
        return image_block(self.store.put(load_image(picture)))

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the policy, in its dialect.

        Args:
            tools: Whatever `convert_to_openai_tool` takes.
            tool_choice: "auto" or None leaves it to the policy, "none" offers nothing. "any" (or
                "required", True) makes it begin its turn with a call, and a tool's name with a
                call of this tool; the arguments are as good as the policy writes them.
            strict: Nothing; arguments are not forced into the schema.
            **kwargs: Further options of a call.

        Raises:
            ValueError: If the dialect cannot call tools by name, or there is no such tool.
        """
        if tools and not self._interpreter.dialect.named_calls:
            raise ValueError(
                f"the {self.dialect} protocol calls no tools but its own: choose another dialect"
            )
        signatures = [convert_to_openai_tool(tool) for tool in tools]
        choice = choice_of(tool_choice, signatures)
        return self.bind(tools=signatures, tool_choice=choice, **kwargs)

    def close(self) -> None:
        """Free the caches."""
        self._policy.close()

    @property
    def _llm_type(self) -> str:
        return "visreplay"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        names = ("model_name", "dialect", "temperature", "top_p", "max_tokens", "stop", "seed")
        return {**{name: getattr(self, name) for name in names}, "replay": asdict(self.replay)}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "visreplay"
        return params

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        shown = self._shown(stop)
        turn = run_to_end(self._writing(messages, shown.stops, kwargs))
        message = AIMessage(**self._told(turn, shown))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        shown = self._shown(stop)
        writing = self._writing(messages, shown.stops, kwargs)
        ids: list[int] = []
        sent = 0
        while True:
            try:
                ids.append(next(writing))
            except StopIteration as end:
                turn: PolicyTurn = end.value
                break
            ready = shown.sendable(ids)
            if len(ready) > sent:
                chunk = ChatGenerationChunk(message=AIMessageChunk(content=ready[sent:]))
                sent = len(ready)
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
        told = self._told(turn, shown)
        told["content"] = told["content"][sent:]
        last = ChatGenerationChunk(message=AIMessageChunk(**told, chunk_position="last"))
        if run_manager:
            run_manager.on_llm_new_token(last.text, chunk=last)
        yield last

    def _shown(self, stop: list[str] | None) -> ReplyStream:
        return ReplyStream(self._interpreter, (self.stop or []) if stop is None else stop)

    def _writing(
        self, messages: Sequence[BaseMessage], stops: Sequence[str], options: dict[str, Any]
    ) -> Generator[int, None, PolicyTurn]:
        """The tokens of the next turn."""
        unknown = sorted(set(options) - _OPTIONS)
        if unknown:
            raise ValueError(
                f"a call has no option {unknown[0]!r}; there are {', '.join(sorted(_OPTIONS))}"
            )
        tools: Sequence[Signature] = options.get("tools") or ()
        shown, opening = offered(self._interpreter, tools, options.get("tool_choice"))
        return self._policy.stream(
            self._interpreter.conversation(messages, shown),
            seed=options.get("seed", self.seed),
            sampling=Sampling(
                temperature=options.get("temperature", self.temperature),
                top_p=options.get("top_p", self.top_p),
                max_new_tokens=options.get("max_tokens", self.max_tokens),
            ),
            stop_strings=stops,
            opening=opening,
        )

    def _told(self, turn: PolicyTurn, shown: ReplyStream) -> dict[str, Any]:
        """The fields of a turn's message."""
        said = shown.said(turn.text)
        ids = turn.message["token_ids"]
        # What a stop string cut off is in the tokens, but not in the message: the message alone is
        # then read as text.
        return {
            "content": said.content,
            "tool_calls": list(said.tool_calls),
            "invalid_tool_calls": list(said.invalid_tool_calls),
            "additional_kwargs": {TOKEN_IDS: ids},
            "response_metadata": {
                "model_name": self.model_name,
                "finish_reason": "tool_calls" if said.tool_calls else turn.finish_reason,
                "replay": turn.replay,
            },
            "usage_metadata": {
                "input_tokens": turn.context_tokens,
                "output_tokens": len(ids),
                "total_tokens": turn.context_tokens + len(ids),
                "input_token_details": {"cache_read": turn.known_tokens},
            },
        }
