"""LangChain's and smolagents' clients of OpenAI's servers against this one: whole agents."""

import json
from typing import Any

import pytest
from chat_tools import answer_of
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.tools import BaseTool, tool
from langchain_openai import ChatOpenAI
from openai import OpenAI
from openai_served import GAME, SEARCH, ZOOM, prompt, zoomed
from smolagents import OpenAIModel, Tool, ToolCallingAgent
from smolagents.agents import EMPTY_PROMPT_TEMPLATES
from smolagents.models import ChatMessage, MessageRole, agglomerate_stream_deltas

from visreplay.replay_core import ModelPair
from visreplay.tasks.types import Sample, Split
from visreplay.tools import load_image

MODEL = "policy+replay"


def chat(address: str, **options: Any) -> ChatOpenAI:
    options = {"model": MODEL, "max_retries": 0, **options}
    return ChatOpenAI(base_url=f"{address}/v1", api_key="-", **options)


def question(sample: Sample = SEARCH) -> HumanMessage:
    return HumanMessage(prompt(sample)[0]["content"])


def test_langchain_gets_the_answer_whole_and_in_pieces(openai_url: str, client: OpenAI) -> None:
    expected = client.chat.completions.create(model=MODEL, messages=prompt()).choices[0].message  # type: ignore[arg-type]
    model = chat(openai_url)
    assert model.invoke([question()]).content == expected.content
    full = AIMessageChunk("")
    pieces = 0
    for chunk in chat(openai_url, stream_usage=True).stream([question()]):
        full += chunk
        pieces += bool(chunk.content)
    assert full.content == expected.content and pieces > 5
    assert full.usage_metadata and full.usage_metadata["output_tokens"] > 5
    settings = chat(openai_url, temperature=1.5, seed=3, stop=["</think>"], max_tokens=30)
    told = [settings.invoke([question()]).content for _ in range(2)]
    assert told[0] == told[1] and "</think>" not in str(told[0])


def zoom_of(sample: Sample, pair: ModelPair) -> BaseTool:
    @tool
    def zoom(label: str, bbox_2d: list[float]) -> list[dict[str, Any]]:
        """Look at a region of the picture, in cells of an 8 x 8 grid."""
        return [zoomed(pair, json.dumps({"bbox_2d": bbox_2d}), sample)]

    return zoom


@pytest.mark.parametrize("streaming", [False, True])
def test_an_agent_of_langchain_plays_the_game(
    openai_url: str, embedded_pair: ModelPair, streaming: bool
) -> None:
    model = chat(openai_url, streaming=streaming, stream_usage=True)
    right = 0
    for n in range(4):
        sample = GAME.sample(Split.TUNING + n)
        zoom = zoom_of(sample, embedded_pair)
        end = create_agent(model, tools=[zoom]).invoke({"messages": [question(sample)]})
        last = end["messages"][-1]
        assert isinstance(last, AIMessage) and last.usage_metadata
        assert last.usage_metadata["input_token_details"]["cache_read"] > 64
        right += GAME.is_right(sample, answer_of(last))
    assert right >= 3


def test_langchain_forces_a_call(openai_url: str) -> None:
    bound = chat(openai_url).bind_tools([ZOOM], tool_choice="zoom")
    (call,) = bound.invoke([question()]).tool_calls
    assert call["name"] == "zoom" and len(call["args"]["bbox_2d"]) == 4
    full = AIMessageChunk("")
    for chunk in bound.stream([question()]):
        full += chunk  # type: ignore[assignment]
    assert [found["args"] for found in full.tool_calls] == [call["args"]]


class Zoom(Tool):
    """As smolagents has tools."""

    name = "zoom"
    description = "Look at a region of the picture."
    inputs = {  # noqa: RUF012
        "label": {"type": "string", "description": "what is looked for"},
        "bbox_2d": {"type": "array", "description": "in cells of an 8 x 8 grid"},
    }
    output_type = "string"

    def forward(self, label: str, bbox_2d: list[float]) -> str:
        return f"There is {label}."


def test_smolagents_gets_the_answer_whole_and_in_pieces(openai_url: str, client: OpenAI) -> None:
    expected = client.chat.completions.create(model=MODEL, messages=prompt()).choices[0].message  # type: ignore[arg-type]
    model = OpenAIModel(MODEL, api_base=f"{openai_url}/v1", api_key="-")
    content = [
        {"type": "image", "image": load_image(SEARCH.images[0])},
        {"type": "text", "text": SEARCH.question},
    ]
    messages = [ChatMessage(role=MessageRole.USER, content=content)]
    reply = model.generate(messages)
    assert reply.content == expected.content
    assert reply.token_usage and reply.token_usage.output_tokens > 5
    added = agglomerate_stream_deltas(list(model.generate_stream(messages)))
    assert added.content == expected.content
    called = model.generate(messages, tools_to_call_from=[Zoom()])
    assert called.tool_calls and called.tool_calls[0].function.name == "zoom"


def test_an_agent_of_smolagents_calls_and_is_shown_what_came_of_it(openai_url: str) -> None:
    """The embedded pair has no place for its prompts, and is forced to call: it looks again."""
    prompts = {**EMPTY_PROMPT_TEMPLATES, "system_prompt": "Look."}
    model = OpenAIModel(MODEL, api_base=f"{openai_url}/v1", api_key="-", max_tokens=90)
    agent = ToolCallingAgent([Zoom()], model, prompts, verbosity_level=0)
    agent.run(SEARCH.question, images=[load_image(SEARCH.images[0])], max_steps=2)
    steps = [step for step in agent.memory.steps if getattr(step, "tool_calls", None)]
    assert steps
    assert all(step.tool_calls[0].name == "zoom" for step in steps)
