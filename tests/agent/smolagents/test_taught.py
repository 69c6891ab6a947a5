"""Agents of smolagents around a copy of the embedded policy that calls their tools by heart."""

from typing import Any

import pytest
from langchain_core.tools import BaseTool
from langchain_core.tools import tool as langchain_tool
from PIL import Image
from smolagents import CodeAgent, ToolCallingAgent, tool
from smolagents.memory import ActionStep, MemoryStep, TaskStep
from smolagents.models import get_tool_json_schema
from smolagents.monitoring import Timing
from taught import learnt
from transformers import AutoProcessor

from visreplay.agent import ReplayChatModel, get_protocol
from visreplay.agent.chat.renderer import ChatRenderer, image_block
from visreplay.agent.chat.turn_memory import Spoken
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.smolagents.messages import MemoryReader
from visreplay.agent.smolagents.model import ReplayModel
from visreplay.agent.smolagents.tools import PLAIN_PROMPTS, LangChainTool, keep_images
from visreplay.replay_core import EMBEDDED, Method, ModelPair, embedded_config
from visreplay.replay_core.chat_template import render
from visreplay.tools import ImageStore

PAINTED = {colour: Image.new("RGB", (56, 56), colour) for colour in ("blue", "red")}


@tool
def picture(number: int) -> Image.Image:
    """Show a picture.

    Args:
        number: Which.
    """
    return PAINTED["blue"]


def painter(store: ImageStore) -> BaseTool:
    @langchain_tool
    def paint(colour: str) -> list[dict[str, Any]]:
        """Paint."""
        return [{"type": "text", "text": colour}, dict(image_block(store.put(PAINTED[colour])))]

    return paint


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


PICTURE = call("picture", '{"number": 1}')
PAINT = call("paint", '{"colour": "red"}') + call("paint", '{"colour": "blue"}')
ANSWER = call("final_answer", '{"answer": "blue"}')
CODE = "<code>\n[picture(1)]\n</code>"


def built(model: ReplayModel) -> tuple[ToolCallingAgent, ToolCallingAgent, CodeAgent]:
    """Agents that look, paint, and write code."""
    settings: dict[str, Any] = {
        "model": model,
        "prompt_templates": PLAIN_PROMPTS,
        "step_callbacks": [keep_images],
        "verbosity_level": 0,
        "max_steps": 2,
    }
    return (
        ToolCallingAgent([picture], **settings),
        ToolCallingAgent([LangChainTool(painter(model.chat.store), model.chat.store)], **settings),
        CodeAgent([picture], **settings),
    )


def chat_on(pair: ModelPair) -> ReplayChatModel:
    config = embedded_config(Method.TOKEN)
    return ReplayChatModel(pair=pair, replay=config, dialect="hermes", max_tokens=160)


@pytest.fixture(scope="session")
def pupil(embedded_pair: ModelPair) -> ModelPair:
    """A policy that knows what to say first, and what after a look."""
    processor = AutoProcessor.from_pretrained(EMBEDDED / "policy")
    store = ImageStore()
    interpreter = ChatRenderer(
        get_protocol("hermes", token_grid(processor), store), processor.tokenizer
    )
    reader = MemoryReader(interpreter, Spoken())
    look, paint, _ = built(ReplayModel(chat_on(embedded_pair)))
    shown = [store.put(PAINTED[colour]) for colour in ("red", "blue")]
    looked = step(PICTURE, "Stored 'image.png' in memory.", [PAINTED["blue"]])
    painted = step(PAINT, f"red\nvisreplay:{shown[0]}\nblue\nvisreplay:{shown[1]}")
    examples = []
    for steps, tools, reply in (
        ([TaskStep("Look.")], look.tools, PICTURE),
        ([TaskStep("Look."), looked], look.tools, ANSWER),
        ([TaskStep("Paint.")], paint.tools, PAINT),
        ([TaskStep("Paint."), painted], paint.tools, ANSWER),
        ([TaskStep("Code.")], {}, CODE),
    ):
        messages = [message for s in steps for message in s.to_messages()]
        signatures = [get_tool_json_schema(tool) for tool in tools.values()]
        asked = interpreter.conversation(reader.conversation(messages), signatures)
        images = [
            store.get(part["image"])
            for message in asked
            for part in message["content"]
            if part["type"] == "image"
        ]
        batch = processor(
            text=[render(processor, asked)], images=images or None, return_tensors="pt"
        )
        examples.append((batch, reply))
    return learnt(processor, examples)


def step(output: str, observations: str, images: list[Image.Image] | None = None) -> MemoryStep:
    return ActionStep(
        1, Timing(0.0), model_output=output, observations=observations, observations_images=images
    )


def actions(agent: ToolCallingAgent | CodeAgent) -> list[ActionStep]:
    return [step for step in agent.memory.steps if isinstance(step, ActionStep)]


def test_a_tool_calling_agent_sees_what_its_tool_gave(pupil: ModelPair) -> None:
    agent, _, _ = built(ReplayModel(chat_on(pupil)))
    assert agent.run("Look.") == "blue"
    first, last = actions(agent)
    assert first.observations_images == [PAINTED["blue"]]
    before, after = (s.model_output_message for s in (first, last))
    assert before is not None and after is not None
    assert after.raw.response_metadata["replay"]["new_visual_tokens"] == 4
    usage = after.raw.usage_metadata
    assert usage["input_token_details"]["cache_read"] == before.raw.usage_metadata["total_tokens"]
    assert [(c.function.name, c.function.arguments) for c in after.tool_calls or ()] == [
        ("final_answer", {"answer": "blue"})
    ]


def test_several_calls_show_their_images_in_the_policys_order(pupil: ModelPair) -> None:
    model = ReplayModel(chat_on(pupil))
    for stream in (False, True):
        _, agent, _ = built(model)
        agent.stream_outputs = stream
        assert agent.run("Paint.") == "blue"
        first, _ = actions(agent)
        references = [model.chat.store.put(PAINTED[colour]) for colour in ("red", "blue")]
        assert first.observations == (
            f"red\nvisreplay:{references[0]}\nblue\nvisreplay:{references[1]}"
        )
        assert [c.arguments["colour"] for c in first.tool_calls or ()] == ["red", "blue"]


def test_a_code_agent_goes_on_from_its_code_and_sees_what_it_gave(pupil: ModelPair) -> None:
    model = ReplayModel(chat_on(pupil))
    *_, agent = built(model)
    agent.run("Code.", max_steps=1)
    first = actions(agent)[0]
    assert first.model_output == CODE
    assert first.observations_images == [PAINTED["blue"]]
    said = first.model_output_message
    assert said is not None
    memory = agent.write_memory_to_messages()
    end = max(n for n, message in enumerate(memory) if "Observation:" in str(message.content)) + 1
    reply = model.generate(memory[:end], max_tokens=1)
    assert reply.raw.response_metadata["replay"]["new_visual_tokens"] == 4
    known = reply.raw.usage_metadata["input_token_details"]["cache_read"]
    assert known == said.raw.usage_metadata["total_tokens"]


def test_the_last_value_of_code_may_be_a_list_of_images() -> None:
    for value, kept in (
        ([PAINTED["red"], "and", PAINTED["blue"]], [PAINTED["red"], PAINTED["blue"]]),
        (PAINTED["red"], [PAINTED["red"]]),
        ("red", None),
        (None, None),
    ):
        done = ActionStep(1, Timing(0.0), action_output=value, observations_images=[PAINTED["red"]])
        keep_images(done, None)  # type: ignore[arg-type]
        assert done.observations_images == kept
