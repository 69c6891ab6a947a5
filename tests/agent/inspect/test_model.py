"""The provider on the embedded pair, within Inspect's own classes."""

import math
import time
from collections.abc import Generator, Iterator

import anyio
import pytest
from inspect_ai.model import (
    ChatMessage,
    ChatMessageUser,
    ContentImage,
    ContentText,
    GenerateConfig,
    Model,
    get_model,
)
from inspect_ai.tool import ToolFunction, ToolInfo, ToolParam, ToolParams
from inspect_samples import SAMPLES, data_uri

from visreplay.agent.inspect.messages import UNPARSED, reply_message
from visreplay.agent.inspect.model import ReplayAPI, run_unless_cancelled
from visreplay.agent.messages import Message, image, text, user
from visreplay.replay_core import ConfigError
from visreplay.replay_core.generation import run_to_end
from visreplay.tools import load_image

# Inspect calls tenacity in a way that newer versions of it have another one for.
pytestmark = pytest.mark.filterwarnings("ignore:The 'initial' parameter:DeprecationWarning")

SAMPLE = SAMPLES[0]
ZOOM = ToolInfo(
    name="zoom",
    description="Enlarge a region.",
    parameters=ToolParams(
        properties={"label": ToolParam(type="string"), "bbox_2d": ToolParam(type="array")}
    ),
)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    model = get_model("visreplay/embedded", method="state", device="cpu", memoize=False)
    yield model
    model.api.close()


@pytest.fixture
def api(model: Model) -> ReplayAPI:
    assert isinstance(model.api, ReplayAPI)
    return model.api


def question() -> list[ChatMessage]:
    content = [ContentImage(image=data_uri(SAMPLE)), ContentText(text=SAMPLE.question)]
    return [ChatMessageUser(content=content)]


def our_question(api: ReplayAPI) -> list[Message]:
    return [user(image(api.chat.store.put(load_image(SAMPLE.images[0]))), text(SAMPLE.question))]


async def test_a_reply_is_that_of_the_chat_policy(model: Model, api: ReplayAPI) -> None:
    offer = api.chat.offer([{"type": "function", "function": {"name": "zoom"}}])
    ours = api.chat.reply(our_question(api), offer)
    output = await model.generate(question(), tools=[ZOOM])
    expected = reply_message(ours.parsed, "embedded")
    assert output.message.content == expected.content
    assert [call.arguments for call in output.message.tool_calls or []] == [
        call.arguments for call in expected.tool_calls or []
    ]
    assert output.stop_reason == "tool_calls"
    assert output.usage is not None and output.usage.output_tokens == len(ours.token_ids)
    # It was read a moment ago.
    assert output.usage.input_tokens == 0
    assert output.usage.input_tokens_cache_read == ours.turn.context_tokens


async def test_without_tools_a_call_is_text(model: Model) -> None:
    output = await model.generate(question())
    assert output.message.tool_calls is None and output.stop_reason == "stop"
    assert output.completion.startswith("<tool_call>")


async def test_a_tool_that_is_chosen_is_called(model: Model) -> None:
    choice = ToolFunction(name="zoom")
    output = await model.generate(question(), tools=[ZOOM], tool_choice=choice)
    (call,) = output.message.tool_calls or []
    assert output.message.content == ""
    # It never learned to call without a thought, so its arguments may be none.
    written = call.arguments.get(UNPARSED, "") if call.parse_error else ""
    assert call.function == "zoom" or written.startswith('<tool_call>{"name": "zoom", "arguments":')


async def test_a_limit_of_tokens_ends_a_turn(model: Model) -> None:
    output = await model.generate(question(), config=GenerateConfig(max_tokens=5))
    assert output.stop_reason == "max_tokens"
    assert output.usage is not None and output.usage.output_tokens == 5


async def test_a_stop_sequence_is_left_out(model: Model) -> None:
    whole = await model.generate(question())
    (thought, _) = whole.message.content
    output = await model.generate(question(), config=GenerateConfig(stop_seqs=[" so "]))
    assert isinstance(output.message.content, str)
    assert output.message.content.endswith(thought.reasoning.partition(" so ")[0])  # type: ignore[union-attr]


def test_a_text_that_ends_a_turn_stays_in_it(api: ReplayAPI) -> None:
    (whole,) = run_to_end(api.chat.replying(our_question(api)))
    (reply,) = run_to_end(api.chat.replying(our_question(api), ends=["so"]))
    assert reply.parsed.content == whole.parsed.content.partition("so")[0] + "so"


async def test_several_choices_are_sampled_each_with_its_own_seed(model: Model) -> None:
    config = GenerateConfig(num_choices=3, temperature=2.0, seed=7, max_tokens=24)
    output = await model.generate(question(), config=config)
    again = await model.generate(question(), config=config)
    words = [choice.message.text for choice in output.choices]
    assert len(words) == 3 and len(set(words)) > 1
    assert words == [choice.message.text for choice in again.choices]
    config = GenerateConfig(temperature=2.0, seed=8, max_tokens=24)
    alone = await model.generate(question(), config=config)
    assert alone.message.text == words[1]
    assert output.usage is not None and output.usage.output_tokens <= 3 * 24


async def test_choices_without_a_temperature_are_sampled_and_at_zero_alike(model: Model) -> None:
    config = GenerateConfig(num_choices=2, temperature=0, max_tokens=24)
    output = await model.generate(question(), config=config)
    greedy, same = [choice.message for choice in output.choices]
    assert greedy.content == same.content


async def test_log_probabilities_are_those_of_every_token(model: Model) -> None:
    config = GenerateConfig(logprobs=True, top_logprobs=2, max_tokens=8)
    output = await model.generate(question(), config=config)
    logprobs = output.choices[0].logprobs
    assert logprobs is not None and len(logprobs.content) == 8
    spelled = "".join(entry.token for entry in logprobs.content)
    assert spelled == output.completion
    for entry in logprobs.content:
        assert entry.logprob <= 0 and math.isfinite(entry.logprob)
        assert entry.top_logprobs is not None and len(entry.top_logprobs) == 2
        assert entry.top_logprobs[0].logprob == entry.logprob  # it decodes greedily


async def test_an_option_that_it_does_not_have_is_refused(model: Model) -> None:
    with pytest.raises(ConfigError, match=r"presence_penalty is 0\.5"):
        await model.generate("Hello", config=GenerateConfig(presence_penalty=0.5))


async def test_the_event_loop_goes_on_while_a_reply_is_written(model: Model) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await anyio.sleep(0.005)
            ticks += 1

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        await model.generate(question(), config=GenerateConfig(seed=1))
        group.cancel_scope.cancel()
    assert ticks >= 3


async def test_the_pair_answers_one_request_at_a_time(api: ReplayAPI) -> None:
    running, most = 0, 0

    def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.02)
        running -= 1

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(api.in_turn, work)
    assert (running, most) == (0, 1)


async def test_a_request_that_is_cancelled_stops(api: ReplayAPI) -> None:
    steps = 0

    def pieces() -> Generator[None, None, None]:
        nonlocal steps
        while steps < 1000:
            time.sleep(0.01)
            steps += 1
            yield

    with anyio.move_on_after(0.1) as scope:
        await api.in_turn(lambda: run_unless_cancelled(pieces()))
    assert scope.cancelled_caught
    assert steps < 500


def test_an_argument_that_there_is_not_is_named() -> None:
    with pytest.raises(ConfigError, match="no model argument 'tua'; there are method, "):
        get_model("visreplay/embedded", tua=0.4)


def test_a_url_is_for_another_provider() -> None:
    with pytest.raises(ValueError, match="for a server, use openai-api"):
        get_model("visreplay/embedded", base_url="http://127.0.0.1:8000/v1")


def test_a_checkpoint_that_is_not_there_is_named() -> None:
    with pytest.raises(OSError, match="/no/such/folder"):
        get_model("visreplay//no/such/folder", base="/no/such/base")
