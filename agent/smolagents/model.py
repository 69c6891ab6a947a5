"""The policy under replay as a model for the agents of smolagents.

It needs `pip install 'visreplay[smolagents]'`.
"""

import json
from collections.abc import Generator, Sequence
from dataclasses import asdict
from typing import Any, Self

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.runnables import Runnable
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

from visreplay.agent.chat.renderer import TOKEN_IDS
from visreplay.agent.chat.turn_memory import Spoken
from visreplay.agent.langchain.chat_model import ReplayChatModel
from visreplay.agent.smolagents.messages import FINAL_ANSWER, MemoryReader
from visreplay.replay_core import ReplayConfig

_OPTIONS = {"temperature", "top_p", "max_tokens", "seed", "tool_choice"}
_SETTINGS = ("dialect", "temperature", "top_p", "max_tokens", "stop", "seed", "cache_bytes")


class ReplayModel(Model):
    """A model for the agents of smolagents, whose turns the policy of a pair writes under replay.

    A step of an agent costs its new tokens alone: the tokens that the policy generated go back as
    they were, and images are in the chat model's store. What tools gave is shown in the dialect's
    frame. An answer in the dialect's own way (in its tags, say) counts as a call of the agent's
    tool `final_answer`.

    In the messages that it returns, `content` is all that the policy wrote, calls included, and
    `raw` is LangChain's message, whose `response_metadata["replay"]` says what replay did.

    Example:
        >>> model = ReplayModel.from_pretrained(
        ...     "ChenShawn/DeepEyes-7B", "Qwen/Qwen2.5-VL-7B-Instruct", dialect="deepeyes"
        ... )
        >>> agent = ToolCallingAgent(
        ...     [your_tool], model, prompt_templates=PLAIN_PROMPTS, step_callbacks=[keep_images]
        ... )

    Args:
        chat: The chat model around the pair.
        **options: Of every call, whatever it says for itself: `temperature`, `top_p`,
            `max_tokens`, `seed`, and `tool_choice`, which is "auto" by default, as policies think
            before they call.

    Raises:
        ValueError: There is no such option.
    """

    def __init__(self, chat: ReplayChatModel, **options: Any) -> None:
        _check(options)
        super().__init__(model_id=chat.model_name, **options)
        self.chat = chat
        self._spoken = Spoken()
        self._reader = MemoryReader(chat.interpreter, self._spoken)
        self._checkpoints: dict[str, str | None] = {}

    @classmethod
    def from_pretrained(cls, policy: str, base: str | None = None, **options: Any) -> Self:
        """Load checkpoints (local paths or hub ids) and build the model.

        Args:
            policy: The RLVR-trained model.
            base: The model that it was trained from.
            **options: As in `ReplayChatModel.from_pretrained`.
        """
        model = cls(ReplayChatModel.from_pretrained(policy, base, **options))
        model._checkpoints = {"policy": policy, "base": base}
        return model

    @property
    def supports_stop_parameter(self) -> bool:
        """Stop sequences end a turn as it is written."""
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
            MessageError: What is wrong with a message.
            ValueError: There is no such option, or the dialect cannot call tools by name.
        """
        chat, asked = self._asked(messages, response_format, tools_to_call_from, options)
        stops = self._stops(stop_sequences)
        return self._told(chat.invoke(asked, stop=stops), stops)

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
        chat, asked = self._asked(messages, response_format, tools_to_call_from, options)
        stops = self._stops(stop_sequences)
        full, sent = AIMessageChunk(content=""), 0
        for chunk in chat.stream(asked, stop=stops):
            assert isinstance(chunk, AIMessageChunk)
            full += chunk
            if chunk.text:
                sent += len(chunk.text)
                yield ChatMessageStreamDelta(content=chunk.text)
        message = self._told(full, stops)
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
        """Find the call of a turn that has none in the dialect: its answer, or a call as text.

        Args:
            message: The turn; its `tool_calls` are filled in.

        Raises:
            ValueError: It is none of them; the policy is told why.
        """
        if not message.tool_calls:
            message.tool_calls = [self._call_in(str(message.content or ""))]
        for call in message.tool_calls:
            call.function.arguments = parse_json_if_needed(call.function.arguments)
        message.role = MessageRole.ASSISTANT
        return message

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` needs to load it again, on whatever device is there."""
        return {
            **self._checkpoints,
            "model_id": self.model_id,
            "replay": asdict(self.chat.replay),
            **{name: getattr(self.chat, name) for name in _SETTINGS},
            "options": dict(self.kwargs),
        }

    @classmethod
    def from_dict(cls, model_dictionary: dict[str, Any]) -> Self:
        """Load a model again.

        Args:
            model_dictionary: Of `to_dict`.

        Raises:
            ValueError: It was not made by `from_pretrained`: nothing says where the pair is.
        """
        if "policy" not in model_dictionary:
            raise ValueError(
                f"the model {model_dictionary.get('model_id')!r} was built on a pair in memory, "
                "which a dictionary does not hold: build it again, or use from_pretrained"
            )
        model = cls.from_pretrained(
            model_dictionary["policy"],
            model_dictionary.get("base"),
            replay=TypeAdapter(ReplayConfig).validate_python(model_dictionary["replay"]),
            **{name: model_dictionary[name] for name in _SETTINGS},
        )
        model.kwargs = _check(dict(model_dictionary["options"]))
        return model

    def _stops(self, stop_sequences: list[str] | None) -> list[str]:
        return [*(self.chat.stop or ()), *(stop_sequences or ())]

    def _asked(
        self,
        messages: Sequence[ChatMessage | dict[str, Any]],
        response_format: dict[str, str] | None,
        tools: Sequence[Any] | None,
        options: dict[str, Any],
    ) -> tuple[Runnable[LanguageModelInput, AIMessage], list[BaseMessage]]:
        """The chat model as a call wants it, and what it is to answer."""
        if response_format is not None:
            raise ValueError(
                "a response_format was asked for, but the policy is not forced into a schema: for "
                "a CodeAgent, leave use_structured_outputs_internally out"
            )
        given = {**_check(options), **self.kwargs}
        given = {name: value for name, value in given.items() if value is not REMOVE_PARAMETER}
        choice = given.pop("tool_choice", None)
        asked = self._reader.conversation(messages)
        if not tools:
            return self.chat.bind(**given), asked
        signatures = [get_tool_json_schema(tool) for tool in tools]
        return self.chat.bind_tools(signatures, tool_choice=choice, **given), asked

    def _told(self, reply: AIMessage, stops: list[str]) -> ChatMessage:
        ids = reply.additional_kwargs[TOKEN_IDS]
        written = self.chat.interpreter.tokenizer.decode(ids, skip_special_tokens=True)
        self._spoken.keep(written, ids)
        for number, call in enumerate(reply.tool_calls):
            # smolagents sorts calls by their ids; what came of them is to be in the policy's order.
            call["id"] = f"{reply.tool_calls[0]['id']}-{number:03d}"
        usage = reply.usage_metadata
        assert usage is not None
        return ChatMessage(
            role=MessageRole.ASSISTANT,
            content=remove_content_after_stop_sequences(written, stops),
            tool_calls=[
                _call(call["name"], call["args"], call["id"] or "") for call in reply.tool_calls
            ]
            or None,
            raw=reply,
            token_usage=TokenUsage(usage["input_tokens"], usage["output_tokens"]),
        )

    def _call_in(self, written: str) -> ChatMessageToolCall:
        turn = self.chat.interpreter.dialect.read(written)
        if turn.error is not None:
            raise ValueError(turn.error)
        if turn.answer is None or turn.open_ended:
            try:
                return get_tool_call_from_text(written, self.tool_name_key, self.tool_arguments_key)
            except (ValueError, AttributeError):  # it is no call as smolagents' prompts want it
                pass
        ids = self._spoken.ids(written)
        end = self.chat.interpreter.tokenizer.eos_token_id
        if turn.answer is None or (turn.open_ended and ids and ids[-1] != end):
            raise ValueError("the turn has neither a tool call nor an answer that is finished")
        return _call(FINAL_ANSWER, {"answer": turn.answer}, "call_answer")


def _check(options: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise ValueError(
            f"a call has no option {unknown[0]!r}; there are {', '.join(sorted(_OPTIONS))}"
        )
    return options


def _call(name: str, arguments: dict[str, Any], call_id: str) -> ChatMessageToolCall:
    return ChatMessageToolCall(ChatMessageToolCallFunction(arguments, name), call_id, "function")
