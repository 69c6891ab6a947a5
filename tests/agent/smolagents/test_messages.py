"""The memory of real agents of smolagents as a policy reads it, in the hermes protocol."""

from collections.abc import Sequence

import pytest
from PIL import Image
from smolagents import AgentError, AgentImage, AgentLogger, ChatMessage, LogLevel, MessageRole
from smolagents.memory import (
    ActionStep,
    AgentMemory,
    MemoryStep,
    PlanningStep,
    SystemPromptStep,
    TaskStep,
    ToolCall,
)
from smolagents.monitoring import Timing

from visreplay.agent import MessageError, get_protocol
from visreplay.agent.chat.renderer import ChatRenderer
from visreplay.agent.chat.turn_memory import TurnMemory
from visreplay.agent.messages import text_of
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.smolagents.messages import MemoryReader
from visreplay.replay_core import ModelPair
from visreplay.tools import ImageStore

BLUE, RED = (Image.new("RGB", (56, 56), colour) for colour in ("blue", "red"))
LOOK = '<tool_call>\n{"name": "look", "arguments": {"at": 1}}\n</tool_call>'
CALLS = [ToolCall("look", {"at": 1}, "call_a")]
QUIET = AgentLogger(level=LogLevel.OFF)


@pytest.fixture
def reader(embedded_pair: ModelPair) -> MemoryReader:
    protocol = get_protocol("hermes", token_grid(embedded_pair.processor), ImageStore())
    return MemoryReader(ChatRenderer(protocol, embedded_pair.tokenizer), TurnMemory())


def step(output: str | None = None, **fields: object) -> ActionStep:
    return ActionStep(step_number=1, timing=Timing(0.0), model_output=output, **fields)  # type: ignore[arg-type]


def render_steps(reader: MemoryReader, *steps: MemoryStep, summary: bool = False) -> list[str]:
    """The conversation that the policy reads after a task: a line a turn."""
    messages = [m for s in (TaskStep("Well?"), *steps) for m in s.to_messages(summary_mode=summary)]
    return render(reader, messages)[1:]


def render(reader: MemoryReader, messages: Sequence[ChatMessage]) -> list[str]:
    conversation = reader.renderer.conversation(reader.conversation(messages))
    return [
        f"{message['role']}: "
        + "".join(
            part["text"] if part["type"] == "text" else "<image>" for part in message["content"]
        )
        for message in conversation
    ]


def framed(content: str) -> str:
    return f"user: <tool_response>\n{content}\n</tool_response>"


def test_the_images_of_a_task_come_first(reader: MemoryReader) -> None:
    steps: list[MemoryStep] = [SystemPromptStep(""), TaskStep("What is it?", [BLUE, RED])]
    messages = [message for step in steps for message in step.to_messages()]
    assert render(reader, messages) == ["user: <image><image>What is it?"]
    (system, _) = render(reader, [*SystemPromptStep("Be brief.").to_messages(), *messages[1:]])
    assert system == "system: Be brief."
    # The parts of any other message keep their order.
    parts = [{"type": "text", "text": "This:"}, {"type": "image", "image": BLUE}]
    assert render(reader, [ChatMessage(MessageRole.USER, parts)]) == ["user: This:<image>"]


def test_calls_stand_once_and_their_results_in_the_frame(reader: MemoryReader) -> None:
    looked = step(LOOK, tool_calls=CALLS, observations="blue", observations_images=[BLUE])
    assert render_steps(reader, looked) == [f"assistant: {LOOK}", framed("<image>blue")]


def test_images_stand_where_an_observation_refers_to_them(reader: MemoryReader) -> None:
    references = [reader.renderer.protocol.store.put(image) for image in (BLUE, RED)]
    observed = "\n".join(f"number {n}\nvisreplay:{r}" for n, r in enumerate(references))
    looked = step(LOOK, tool_calls=CALLS, observations=f"{observed}\nvisreplay:{'0' * 64}")
    assert render_steps(reader, looked)[1] == (
        framed(f"number 0<image>\nnumber 1<image>visreplay:{'0' * 64}")
    )
    # Nothing but a tool's result is searched for references.
    messages = TaskStep(f"visreplay:{references[0]}").to_messages()
    assert render(reader, messages) == [f"user: visreplay:{references[0]}"]


def test_an_error_stands_in_the_frame_of_the_protocol(reader: MemoryReader) -> None:
    error = AgentError("no such place", QUIET)
    # smolagents does not list the calls of a step in which one failed: they are in the text.
    failed = step(LOOK, error=error)
    words = (
        "Error: no such place\nNow let's retry: take care not to repeat previous errors! If you "
    )
    for failing in (failed, step(LOOK, error=error, tool_calls=CALLS)):
        turn, result = render_steps(reader, failing)
        assert turn == f"assistant: {LOOK}"
        assert result.startswith(f"user: <tool_response>\n{words}")
    unread = step("<tool_call>{]</tool_call>", error=error)
    assert render_steps(reader, unread)[1].startswith(f"user: <tool_response>\n{words}")
    wordy = step("Hm.", error=error)
    assert render_steps(reader, wordy)[1].startswith("user: Error:\nno such place")


def test_images_before_an_error_have_a_frame_of_their_own(reader: MemoryReader) -> None:
    error = AgentError("no", QUIET)
    _, result = render_steps(reader, step(LOOK, error=error, observations_images=[BLUE]))
    assert result.startswith(
        "user: <tool_response>\n<image>\n</tool_response>\n<tool_response>\nEr"
    )
    _, last = render_steps(reader, step(LOOK, tool_calls=CALLS, observations_images=[BLUE]))
    assert last == framed("<image>")


def test_an_answer_in_the_protocols_way_is_no_call(reader: MemoryReader) -> None:
    answer = ToolCall("final_answer", {"answer": "L"}, "call_answer")
    ended = step("<answer>L</answer>", tool_calls=[answer], observations="L")
    assert render_steps(reader, ended, TaskStep("And?")) == [
        "assistant: <answer>L</answer>",
        "user: And?",
    ]
    ended.error = AgentError("no", QUIET)
    turn, error = render_steps(reader, ended)
    assert turn == "assistant: <answer>L</answer>"
    assert error.startswith("user: Error:\nno")


def test_another_models_history_is_spelled_in_the_protocol(reader: MemoryReader) -> None:
    looked = {"tool_calls": CALLS, "observations": "blue"}
    assert render_steps(reader, step("I look.", **looked)) == [
        f"assistant: I look.{LOOK}",
        framed("blue"),
    ]
    assert render_steps(reader, step(None, **looked)) == [f"assistant: {LOOK}", framed("blue")]
    # So is a summary, which leaves out the model's own words.
    summary = render_steps(reader, step(LOOK, **looked), step("Again.", **looked), summary=True)
    assert summary == [f"assistant: {LOOK}", framed("blue")] * 2
    answer = ToolCall("final_answer", {"answer": "L"}, "call_b")
    spelled_out = (
        '<tool_call>\n{"name": "final_answer", "arguments": {"answer": "L"}}\n</tool_call>'
    )
    assert render_steps(reader, step("I see.", tool_calls=[answer], observations="L")) == [
        f"assistant: I see.{spelled_out}",
        framed("L"),
    ]


def test_a_code_agents_history_is_text(reader: MemoryReader) -> None:
    code = "<code>\nlook(1)\n</code>"
    looked = step(
        f"I look.\n{code}",
        tool_calls=[ToolCall("python_interpreter", "look(1)", "call_2")],
        observations="Execution logs:\nblue",
        observations_images=[BLUE],
    )
    assert render_steps(reader, looked) == [
        f"assistant: I look.\n{code}",
        "user: <image>Observation:\nExecution logs:\nblue",
    ]


def test_a_plan_is_read_before_its_order(reader: MemoryReader) -> None:
    reply = ChatMessage(MessageRole.ASSISTANT, "look")
    plan = PlanningStep([], reply, "look", Timing(0.0))
    assert render_steps(reader, plan) == [
        "assistant: look",
        "user: Now proceed and carry out this plan.",
    ]


@pytest.mark.parametrize(
    "listed", ["[{", "[1]", "7", "[{'id': 'a'}]", "(" * 5000, "[{'function': {'name': 'a'}}]"]
)
def test_a_list_of_calls_that_cannot_be_read_is_text(reader: MemoryReader, listed: str) -> None:
    messages = [
        ChatMessage(MessageRole.TOOL_CALL, f"Calling tools:\n{listed}"),
        ChatMessage(MessageRole.TOOL_RESPONSE, "Observation:\nblue"),
    ]
    task = TaskStep("Well?").to_messages()
    assert render(reader, [*task, *messages])[1:] == [
        f"assistant: Calling tools:\n{listed}",
        "user: Observation:\nblue",
    ]


def test_tokens_go_back_as_they_were_generated(reader: MemoryReader) -> None:
    tokenizer = reader.renderer.tokenizer
    # Letter by letter, and not as the tokenizer would.
    ids = [tokenizer.encode(letter)[0] for letter in f" {LOOK}\n"]
    assert ids != tokenizer.encode(f" {LOOK}\n")
    reader.keep(f" {LOOK}\n", ids)
    messages = [*TaskStep("?").to_messages(), *step(LOOK, observations="blue").to_messages()]
    conversation = reader.renderer.conversation(reader.conversation(messages))
    assert conversation[1].get("token_ids") == ids
    # The text counts, wherever it stands, but all of it.
    assert reader.token_ids(f"{LOOK} ") == ids
    assert reader.token_ids(f"{LOOK}.") is None


def test_an_image_of_an_agent_is_an_image(reader: MemoryReader) -> None:
    memory = AgentMemory("")
    memory.steps.append(TaskStep("?", [AgentImage(BLUE)]))
    (message,) = reader.conversation(memory.steps[0].to_messages())
    reference = reader.renderer.protocol.store.put(BLUE)
    assert message["content"][0] == {"type": "image", "image": reference}
    assert text_of(message) == "?"


def test_a_picture_that_cannot_be_read_is_named(reader: MemoryReader) -> None:
    with pytest.raises(MessageError, match="0 x 0"):
        reader.conversation(TaskStep("?", [Image.new("RGB", (0, 0))]).to_messages())
