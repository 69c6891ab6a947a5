"""The policy under replay as a model for the agents of smolagents.

It needs `pip install 'visreplay[smolagents]'`.
"""

import json
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

try:
    from smolagents import REMOVE_PARAMETER, ChatMessage, MessageRole, Model, TokenUsage
except ImportError as error:
    raise ImportError(
        "ReplayModel is a model for smolagents: pip install 'visreplay[smolagents]'"
    ) from error
from smolagents.models import (
    ChatMessageStreamDelta,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    ChatMessageToolCallStreamDelta,
    get_tool_call_from_text,
    get_tool_json_schema,
    parse_json_if_needed,
    remove_content_after_stop_sequences,
)

from visreplay.agent.chat.chat_policy import ChatPolicy, ChatReply
from visreplay.agent.copying import SharesWeights
from visreplay.agent.policy.sampling import SAMPLING_FIELDS, Sampling
from visreplay.agent.policy.session_cache import CACHE_BYTES, SessionCache
from visreplay.agent.policy.writing import Writer
from visreplay.agent.protocols import Recipe
from visreplay.agent.protocols.recipe_files import recipe_of
from visreplay.agent.smolagents.messages import FINAL_ANSWER, MemoryReader
from visreplay.replay_core import ReplayConfig, load_pair
from visreplay.tools import ImageStore

_OPTIONS = {*SAMPLING_FIELDS, "max_tokens", "seed", "stop", "tool_choice"}


class ReplayModel(SharesWeights, Model):
    """A model for the agents of smolagents: the policy of a pair writes its turns under replay.

    A step of an agent costs its new tokens alone: the tokens that the policy generated go back as
    they were, and images are in the store of `chat`. The results of tools stand in the protocol's
    frame. An answer in the protocol's own way (in its tags, say) counts as a call of the agent's
    tool `final_answer`.

    In the messages that it returns, `content` is all that the policy wrote, calls included, and
    `raw` is a `ChatReply`, whose `turn.replay` says what replay did.

    Examples:
        >>> from smolagents import ToolCallingAgent
        >>> from visreplay.agent.smolagents.model import ReplayModel
        >>> from visreplay.agent.smolagents.tools import PLAIN_PROMPTS, keep_images
        >>> model = ReplayModel.from_pretrained("embedded", max_new_tokens=8)
        >>> agent = ToolCallingAgent(
        ...     [], model, prompt_templates=PLAIN_PROMPTS, step_callbacks=[keep_images]
        ... )
        >>> reply = model.generate([{"role": "user", "content": "Hello"}])
        >>> reply.token_usage.output_tokens <= 8
        True

    Args:
        chat: The policy, its protocol and its image store.
        model_id: The model's name.
        **options: Options of every call, which win over those of the call itself, as with the
            other models of smolagents: the fields of `Sampling` (`max_tokens` is another name of
            `max_new_tokens`), `seed`, `stop` (texts that end a turn besides the agent's own), and
            `tool_choice`, which is "auto" by default, as policies think before they call.

    Raises:
        ValueError: There is no such option.
    """

    def __init__(self, chat: ChatPolicy, *, model_id: str = "policy", **options: Any) -> None:
        super().__init__(model_id=model_id, **_checked(options))
        self.chat = chat
        self._reader = MemoryReader(chat.renderer, chat.memory)
        self._checkpoints: dict[str, str | None] = {}

    @classmethod
    def from_pretrained(
        cls,
        policy: str,
        base: str | None = None,
        *,
        replay: ReplayConfig | str = "token",
        protocol: str = "auto",
        recipe: Recipe | str | Path | None = None,
        store: ImageStore | None = None,
        cache_bytes: int = CACHE_BYTES,
        load_options: dict[str, Any] | None = None,
        writer: Writer | None = None,
        **options: Any,
    ) -> Self:
        """Load a pair and build the model.

        Args:
            policy: Folder or hub id of the RLVR-trained model, or "embedded" for the pair that
                ships with the package.
            base: Folder or hub id of the model that it was trained from.
            replay: How to replay: a configuration, or "token", "state" or "none" for the pair's
                own.
            protocol: How tools are called and their results shown (a key of `PROTOCOLS`); "auto"
                goes by the policy's name.
            recipe: The texts, budgets and limits of the policy's training: a recipe, the path of
                its file, or the name of one that ships. None chooses by the policy's name.
            store: Where images are put; by default in memory.
            cache_bytes: Limit of the memory of what was read; the least recently used goes first.
            load_options: Options of `load_pair`: `device`, `dtype`, `attn_implementation`, ...
            writer: What writes the turns, such as vLLM (`VllmSettings.opened`); None takes the
                pair's own model.
            **options: As in the constructor.
        """
        _checked(options)
        pair = load_pair(policy, base, replay=replay, **(load_options or {}))
        sessions = SessionCache(cache_bytes)
        chat = ChatPolicy(
            pair, replay, protocol, store, recipe=recipe, sessions=sessions, writer=writer
        )
        model = cls(chat, model_id=pair.names[0], **options)
        model._checkpoints = {"policy": policy, "base": base}
        return model

    @property
    def supports_stop_parameter(self) -> bool:
        """True: stop sequences end a turn while it is decoded."""
        return True

    def generate(
        self,
        messages: Sequence[ChatMessage | dict[str, Any]],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, str] | None = None,
        tools_to_call_from: Sequence[Any] | None = None,
        **options: Any,
    ) -> ChatMessage:
        """Write the next turn.

        Args:
            messages: The whole history.
            stop_sequences: Texts that end the turn, and are left out of it.
            response_format: None; the policy is not forced into a schema.
            tools_to_call_from: Tools (and managed agents) that it may call.
            **options: As in the constructor, which has the last word.

        Raises:
            MessageError: A message cannot be shown.
            ValueError: There is no such option, or the protocol cannot call tools by name.
        """
        options = self._options(options, stop_sequences, response_format)
        request = self._request(messages, tools_to_call_from, options)
        return self._message(self.chat.reply(**request), options["stop"])

    def generate_stream(
        self,
        messages: Sequence[ChatMessage | dict[str, Any]],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, str] | None = None,
        tools_to_call_from: Sequence[Any] | None = None,
        **options: Any,
    ) -> Generator[ChatMessageStreamDelta, None, None]:
        """Write the next turn, and give its text as it is written; calls come last.

        Args:
            messages: As in `generate`.
            stop_sequences: As in `generate`.
            response_format: As in `generate`.
            tools_to_call_from: As in `generate`.
            **options: As in `generate`.

        Raises:
            MessageError: As `generate`.
            ValueError: As `generate`.
        """
        options = self._options(options, stop_sequences, response_format)
        request = self._request(messages, tools_to_call_from, options)
        sent = 0
        for event in self.chat.stream(**request):
            if isinstance(event, str):
                sent += len(event)
                yield ChatMessageStreamDelta(content=event)
                continue
            message = self._message(event, options["stop"])
            yield ChatMessageStreamDelta(
                content=str(message.content)[sent:],
                tool_calls=[
                    ChatMessageToolCallStreamDelta(
                        index=index,
                        id=call.id,
                        type="function",
                        function=ChatMessageToolCallFunction(
                            name=call.function.name, arguments=json.dumps(call.function.arguments)
                        ),
                    )
                    for index, call in enumerate(message.tool_calls or ())
                ],
                token_usage=message.token_usage,
            )

    def parse_tool_calls(self, message: ChatMessage) -> ChatMessage:
        """Find the call of a turn that has none in the protocol: its answer, or a call as text.

        Args:
            message: The turn; its `tool_calls` are filled in.

        Raises:
            ValueError: The turn has neither; the policy reads why.
        """
        if not message.tool_calls:
            message.tool_calls = [self._call_in(str(message.content or ""))]
        for call in message.tool_calls:
            call.function.arguments = parse_json_if_needed(call.function.arguments)
        message.role = MessageRole.ASSISTANT
        return message

    def to_dict(self) -> dict[str, Any]:
        """Return the settings from which `from_dict` loads the model again, on any device."""
        return {
            **self._checkpoints,
            "model_id": self.model_id,
            "replay": asdict(self.chat.replay),
            "recipe": self.chat.protocol.recipe.to_table(),
            "cache_bytes": self.chat.policy.sessions.max_bytes,
            "options": dict(self.kwargs),
        }

    @classmethod
    def from_dict(cls, model_dictionary: dict[str, Any]) -> Self:
        """Load a model again.

        Args:
            model_dictionary: What `to_dict` returned.

        Raises:
            ValueError: The model was not made by `from_pretrained`: nothing says where its pair is.
        """
        if "policy" not in model_dictionary:
            raise ValueError(
                f"the model {model_dictionary.get('model_id')!r} was built on a pair in memory, "
                "which a dictionary does not hold: build it again, or use from_pretrained"
            )
        return cls.from_pretrained(
            model_dictionary["policy"],
            model_dictionary.get("base"),
            replay=TypeAdapter(ReplayConfig).validate_python(model_dictionary["replay"]),
            recipe=recipe_of(model_dictionary["recipe"], model_dictionary["recipe"]["name"]),
            cache_bytes=model_dictionary["cache_bytes"],
            **model_dictionary["options"],
        )

    def _options(
        self,
        options: dict[str, Any],
        stop_sequences: list[str] | None,
        response_format: dict[str, str] | None,
    ) -> dict[str, Any]:
        """All options of a call."""
        if response_format is not None:
            raise ValueError(
                "a response_format was set, but the policy is not forced into a schema: for a "
                "CodeAgent, leave use_structured_outputs_internally out"
            )
        merged = {**_checked(options), **self.kwargs}
        merged = {name: value for name, value in merged.items() if value is not REMOVE_PARAMETER}
        return {**merged, "stop": [*(merged.get("stop") or ()), *(stop_sequences or ())]}

    def _request(
        self,
        messages: Sequence[ChatMessage | dict[str, Any]],
        tools: Sequence[Any] | None,
        options: dict[str, Any],
    ) -> dict[str, Any]:
        """The arguments of `ChatPolicy.reply` for a call."""
        signatures = [get_tool_json_schema(tool) for tool in tools or ()]
        choice = options.get("tool_choice") if signatures else None
        sampling = {
            name: options[name] for name in SAMPLING_FIELDS if options.get(name) is not None
        }
        return {
            "messages": self._reader.conversation(messages),
            "offer": self.chat.offer(signatures, choice),
            "seed": options.get("seed"),
            "sampling": Sampling(**sampling),
            "stop": options["stop"],
        }

    def _message(self, reply: ChatReply, stop: Sequence[str]) -> ChatMessage:
        text = self.chat.renderer.tokenizer.decode(reply.token_ids, skip_special_tokens=True)
        self._reader.keep(text, reply.token_ids)
        calls = reply.parsed.tool_calls
        return ChatMessage(
            role=MessageRole.ASSISTANT,
            content=remove_content_after_stop_sequences(text, list(stop)),
            # smolagents sorts calls by their ids; their results are to be in the policy's order.
            tool_calls=[
                _call(call["name"], call["arguments"], f"{calls[0]['id']}-{number:03d}")
                for number, call in enumerate(calls)
            ]
            or None,
            raw=reply,
            token_usage=TokenUsage(reply.turn.context_tokens, len(reply.token_ids)),
        )

    def _call_in(self, text: str) -> ChatMessageToolCall:
        turn = self.chat.protocol.read(text)
        if turn.error is not None:
            raise ValueError(turn.error)
        if turn.answer is None or turn.open_ended:
            try:
                return get_tool_call_from_text(text, self.tool_name_key, self.tool_arguments_key)
            except (ValueError, AttributeError):  # it is no call as smolagents' prompts want it
                pass
        token_ids = self._reader.token_ids(text)
        end = self.chat.renderer.tokenizer.eos_token_id
        if turn.answer is None or (turn.open_ended and token_ids and token_ids[-1] != end):
            raise ValueError("the turn has neither a tool call nor an answer that is finished")
        return _call(FINAL_ANSWER, {"answer": turn.answer}, "call_answer")


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a call, the limit of tokens by its first name.

    Raises:
        ValueError: There is no such option.
    """
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise ValueError(
            f"a call has no option {unknown[0]!r}; there are {', '.join(sorted(_OPTIONS))}"
        )
    names = {"max_tokens": "max_new_tokens"}
    return {names.get(name, name): value for name, value in options.items()}


def _call(name: str, arguments: dict[str, Any], call_id: str) -> ChatMessageToolCall:
    return ChatMessageToolCall(ChatMessageToolCallFunction(arguments, name), call_id, "function")
