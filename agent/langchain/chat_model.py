"""The policy under replay as a chat model for LangChain and LangGraph."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, Self

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import AliasChoices, ConfigDict, Field, InstanceOf, PrivateAttr, SkipValidation

from visreplay.agent.chat.chat_policy import STORE_BYTES, ChatPolicy
from visreplay.agent.chat.renderer import ChatRenderer
from visreplay.agent.copying import refuse_pickling
from visreplay.agent.langchain.messages import from_langchain, image_block, reply_fields
from visreplay.agent.policy.sampling import SAMPLING_FIELDS, Sampling
from visreplay.agent.policy.session_cache import CACHE_BYTES, SessionCache
from visreplay.agent.policy.writing import Writer
from visreplay.agent.protocols import Recipe
from visreplay.replay_core import ModelPair, ReplayConfig, load_pair
from visreplay.tools import ImageStore, load_image

_OPTIONS = {*SAMPLING_FIELDS, "generated", "max_tokens", "seed", "stream", "tools", "tool_choice"}
"""The options that one call may have."""

_RESOLVED = {"pair", "replay", "protocol", "recipe", "store", "cache_bytes"}
"""The attributes that the chat policy is built from."""


class ReplayChatModel(BaseChatModel):
    """The policy of a pair as a chat model, replayed as the history grows.

    The model receives the whole history at each call, and continues from the longest beginning
    that it has read before: a step of an agent costs its new tokens alone. A history that was
    edited, branched or resumed elsewhere is answered as well, only slower. Calls may come from
    several threads at once.

    A message that it returns has the generated tokens in `additional_kwargs["token_ids"]`, which
    go back into the context as they are if the message still says the same and none of them is
    special. (The call option `generated`, a list of tokens or None for each assistant message,
    replaces them by tokens that the caller trusts, special ones too.) What replay did
    (`telemetry.replay_record`) is in `response_metadata["replay"]`, and in a run of LangGraph goes
    out on the `custom` stream before the first token (`telemetry.report`).

    Examples:
        >>> from visreplay.agent import ReplayChatModel
        >>> model = ReplayChatModel.from_pretrained("embedded", max_new_tokens=8)
        >>> reply = model.invoke("Hello")
        >>> reply.usage_metadata["output_tokens"] <= 8
        True
        >>> reply.response_metadata["replay"]["method"]
        'token'

    Attributes:
        pair: Policy and base.
        replay: How to replay: a configuration, or "token", "state" or "none" for the pair's own.
        protocol: How tools are called and their results shown (a key of `PROTOCOLS`); "auto" goes
            by the policy's name.
        recipe: The texts, budgets and limits of the policy's training: a recipe, the path of its
            file, or the name of one that ships. None chooses by the policy's name.
        store: Where the images of messages are put, and found by `visreplay:` URLs; by default a
            gigabyte of memory, from which the least recently used ones go first.
        model_name: The model's name in `response_metadata`.
        temperature: Temperature of the sampler; 0 decodes greedily. Where it is None, as for the
            next four, the protocol's recipe decides, then the checkpoint (`Sampling`).
        top_p: Probability mass of nucleus sampling.
        top_k: Number of most probable tokens to draw from; 0 draws from all.
        repetition_penalty: Penalty of every token that the history holds; 1 is none.
        max_new_tokens: Limit of one turn in tokens. `max_tokens` is another name for it.
        stop: Texts that end a turn, and are left out of it.
        seed: Seed of the sampler; None takes torch's global generator.
        cache_bytes: Limit of the memory of what was read; the least recently used goes first.
        writer: What writes the turns, such as vLLM (`VllmSettings.opened`); None takes the pair's
            own model.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    pair: InstanceOf[ModelPair] = Field(exclude=True, repr=False)
    replay: InstanceOf[ReplayConfig] | str = "token"
    protocol: str = "auto"
    recipe: InstanceOf[Recipe] | str | Path | None = None
    store: InstanceOf[ImageStore] = Field(
        default_factory=lambda: ImageStore(memory_bytes=STORE_BYTES, forgetful=True),
        exclude=True,
        repr=False,
    )
    model_name: str = "policy"
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = Field(
        default=None, validation_alias=AliasChoices("max_new_tokens", "max_tokens")
    )
    stop: list[str] | None = None
    seed: int | None = None
    cache_bytes: int = CACHE_BYTES
    writer: SkipValidation[Writer | None] = Field(default=None, exclude=True, repr=False)

    _chat: ChatPolicy = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Resolve the names of replay and protocol, and start without any session."""
        self._chat = ChatPolicy(
            self.pair,
            self.replay,
            self.protocol,
            self.store,
            recipe=self.recipe,
            sessions=SessionCache(self.cache_bytes),
            writer=self.writer,
        )
        self.replay = self._chat.replay
        self.protocol = self._chat.protocol.name
        self.recipe = self._chat.protocol.recipe

    @classmethod
    def from_pretrained(
        cls,
        policy: str,
        base: str | None = None,
        *,
        replay: ReplayConfig | str = "token",
        load_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Load a pair and build the model.

        Args:
            policy: Folder or hub id of the RLVR-trained model, or "embedded" for the pair that
                ships with the package.
            base: Folder or hub id of the model that it was trained from.
            replay: How to replay; see the attribute.
            load_options: Options of `load_pair`: `device`, `dtype`, `attn_implementation`, ...
            **options: The other attributes.

        Raises:
            ValueError: There is no such option.
        """
        known = {*cls.model_fields, "max_tokens"}
        if unknown := sorted(set(options) - known):
            raise ValueError(
                f"the model has no option {unknown[0]!r}; there are {', '.join(sorted(known))}, "
                "and options of load_pair go into load_options"
            )
        pair = load_pair(policy, base, replay=replay, **(load_options or {}))
        return cls(pair=pair, replay=replay, **{"model_name": pair.names[0], **options})

    @property
    def renderer(self) -> ChatRenderer:
        """Renders messages in the model's protocol; it has the model's image store."""
        return self._chat.renderer

    def image(self, picture: Any) -> dict[str, str]:
        """The content block of an image, which is put into the store.

        Args:
            picture: A path, the bytes of a file, or a PIL image.

        Raises:
            ToolError: The image cannot be read.
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
        """Offer tools to the policy, in its protocol.

        Args:
            tools: Anything that `convert_to_openai_tool` takes.
            tool_choice: "auto" or None leaves it to the policy, "none" offers nothing. "any" (or
                "required", True) makes it begin its turn with a call, and a tool's name with a
                call of this tool; the arguments are as good as the policy writes them.
            strict: Ignored; arguments are not forced into the schema.
            **kwargs: Further options of a call.

        Raises:
            ValueError: The protocol cannot call tools by name, or there is no such tool.
        """
        signatures = [convert_to_openai_tool(tool) for tool in tools]
        self._chat.offer(signatures, tool_choice)  # refuse now what could not be called
        return self.bind(tools=signatures, tool_choice=tool_choice, **kwargs)

    def close(self) -> None:
        """Free the caches."""
        self._chat.close()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy the model; weights and the image store are shared.

        The caches are shared as well, unless the pair, its replay or its protocol is another one.

        Args:
            update: The attributes that the copy has instead.
            deep: Whether lists of settings are copied too.
        """
        changes = dict(update or {})
        if "protocol" in changes:
            changes.setdefault("recipe", None)  # the protocol's own
        copied = BaseChatModel.model_copy(deepcopy(self) if deep else self, update=changes)
        if changes.keys() & _RESOLVED:
            copied.model_post_init(None)
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Copy the model and its lists of settings; weights, images and caches are shared."""
        copied = self.__copy__()
        for name in ("stop", "tags", "metadata"):
            copied.__dict__[name] = deepcopy(getattr(self, name), memo)
        return copied

    def __getstate__(self) -> NoReturn:
        """Refuse to be pickled."""
        refuse_pickling(self)

    @property
    def _llm_type(self) -> str:
        return "visreplay"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("model_name", "protocol", "stop", "seed")},
            **asdict(self._chat.policy.resolved(self._sampling({}))),
            "replay": asdict(self._chat.replay),
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "visreplay"
        resolved = self._chat.policy.resolved(self._sampling(kwargs))
        params["ls_temperature"] = resolved.temperature
        params["ls_max_tokens"] = resolved.max_new_tokens
        return params

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        reply = self._chat.reply(**self._request(messages, stop, kwargs))
        message = AIMessage(**reply_fields(reply, self.model_name))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for event in self._chat.stream(**self._request(messages, stop, kwargs)):
            if isinstance(event, str):
                message = AIMessageChunk(content=event)
            else:
                fields = reply_fields(event, self.model_name)
                message = AIMessageChunk(**{**fields, "content": ""}, chunk_position="last")
            chunk = ChatGenerationChunk(message=message)
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _request(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        """The arguments of `ChatPolicy.reply` for a call."""
        unknown = sorted(set(options) - _OPTIONS)
        if unknown:
            raise ValueError(
                f"a call has no option {unknown[0]!r}; there are {', '.join(sorted(_OPTIONS))}"
            )
        return {
            "messages": from_langchain(messages, self.renderer, options.get("generated")),
            "offer": self._chat.offer(options.get("tools") or (), options.get("tool_choice")),
            "seed": options.get("seed", self.seed),
            "sampling": self._sampling(options),
            "stop": (self.stop or ()) if stop is None else stop,
        }

    def _sampling(self, options: dict[str, Any]) -> Sampling:
        own = {name: getattr(self, name) for name in SAMPLING_FIELDS}
        call = {"max_new_tokens": options.get("max_tokens"), **options}
        set_here = {name: call[name] for name in own if call.get(name) is not None}
        return Sampling(**{**own, **set_here})
