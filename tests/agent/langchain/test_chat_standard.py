"""LangChain's standard tests for chat models.

These are switched off: another model by name in a call (a chat model is one pair), JSON mode
(nothing constrains what the policy writes), documents and sound (the policy has none), image URLs
(nothing is fetched), recorded HTTP (there is none).
"""

import base64

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from shared import png
from taught import taught_pair

from visreplay.agent import ReplayChatModel
from visreplay.replay_core import Method, ModelPair, embedded_config


@pytest.fixture(scope="session")
def pupil() -> ModelPair:
    return taught_pair()


class TestUnit(ChatModelUnitTests):
    @pytest.fixture(autouse=True)
    def on_the_embedded_pair(self, embedded_pair: ModelPair) -> None:
        self.pair = embedded_pair

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ReplayChatModel

    @property
    def chat_model_params(self) -> dict[str, object]:
        return {
            "pair": self.pair,
            "replay": embedded_config(Method.TOKEN),
            "protocol": "hermes",
        }


class TestIntegration(ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def on_the_taught_pair(self, pupil: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pair = pupil
        # The tests fetch a picture themselves, to send it as base64; here is another one.
        picture = httpx.Response(200, content=base64.b64decode(png("red")))
        monkeypatch.setattr(httpx, "get", lambda url, **options: picture)

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ReplayChatModel

    @property
    def chat_model_params(self) -> dict[str, object]:
        return {
            "pair": self.pair,
            "replay": embedded_config(Method.TOKEN),
            "protocol": "hermes",
            "max_tokens": 128,
        }

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return False

    @property
    def supported_usage_metadata_details(self) -> dict[str, list[str]]:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = self.chat_model_class(**self.chat_model_params)
        model.invoke("Hello")
        if not stream:
            return model.invoke("Hello")
        first, *chunks = model.stream("Hello")
        return sum(chunks, first)  # type: ignore[return-value]
