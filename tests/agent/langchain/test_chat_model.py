"""The chat model on the embedded pair: LangChain's and LangGraph's own agents around it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from chat_tools import answer_of, question, tools_for
from langchain.agents import create_agent
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    HumanMessage,
    ToolMessage,
)
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from shared import MakeAgent

from visreplay.agent import ReplayChatModel
from visreplay.replay_core import EMBEDDED, Method, ModelPair, ReplaySession, Segment
from visreplay.replay_core import embedded_config as config_of
from visreplay.replay_core.generation import TokenWriter
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Sample, Split
from visreplay.tools import ImageStore

MakeModel = Callable[..., ReplayChatModel]
SEARCH = get_task("visual-search-medium").sample(Split.TUNING + 1)


@pytest.fixture
def make_model(embedded_pair: ModelPair) -> MakeModel:
    """Makes chat models on the embedded pair."""

    def make(method: Method = Method.TOKEN, **options: object) -> ReplayChatModel:
        settings = {"dialect": "embedded", "max_tokens": 96, **options}
        return ReplayChatModel(pair=embedded_pair, replay=config_of(method), **settings)

    return make


def after_a_look(model: ReplayChatModel, sample: Sample = SEARCH) -> list[AnyMessage]:
    """A question, the model's call, and what the tool gave."""
    zoom, _ = tools_for(model, sample)
    asked = question(model, sample)
    call = model.invoke([asked])
    return [asked, call, zoom.invoke(call.tool_calls[0])]


# Whole agents


@pytest.mark.parametrize("task", ["visual-search-medium", "video-search"])
def test_create_agent_answers_as_the_visual_agent_does(
    make_model: MakeModel, make_agent: MakeAgent, task: str
) -> None:
    model, visual_agent = make_model(), make_agent()
    opened = get_task(task)
    right = 0
    for sample_id in opened.sample_ids()[:4]:
        sample = opened.load(sample_id)
        agent = create_agent(model, tools=tools_for(model, sample))
        end = agent.invoke({"messages": [question(model, sample)]})
        answer = answer_of(end["messages"][-1])
        trajectory = visual_agent.run(sample.question, images=sample.images, video=sample.video)
        assert answer == trajectory.answer
        assert len(end["messages"]) == 2 * len(trajectory.steps)
        right += opened.is_right(sample, answer)
    assert right >= 3


def graph_of_ones_own(model: ReplayChatModel, sample: Sample) -> StateGraph:
    """Turns and tools until there is an answer; the policy is shown the last question alone."""
    tools = tools_for(model, sample)
    seeing = model.bind_tools(tools)

    def policy(state: MessagesState) -> dict[str, list[AIMessage]]:
        asked = [isinstance(message, HumanMessage) for message in state["messages"]]
        last = len(asked) - 1 - asked[::-1].index(True)
        return {"messages": [seeing.invoke(state["messages"][last:])]}

    graph = StateGraph(MessagesState)
    graph.add_node("policy", policy)
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "policy")
    graph.add_conditional_edges("policy", tools_condition)
    graph.add_edge("tools", "policy")
    return graph


def test_twenty_steps_are_less_than_a_megabyte_of_checkpoints(
    make_model: MakeModel, tmp_path: Path
) -> None:
    model = make_model(store=ImageStore(tmp_path / "images"))
    file = tmp_path / "checkpoints.sqlite"
    thread = {"configurable": {"thread_id": "1"}}
    opened = get_task("visual-search-medium")
    right = 0
    with SqliteSaver.from_conn_string(str(file)) as saver:
        for sample_id in opened.sample_ids()[:10]:
            sample = opened.load(sample_id)
            graph = graph_of_ones_own(model, sample).compile(checkpointer=saver)
            end = graph.invoke({"messages": [question(model, sample)]}, thread)
            right += opened.is_right(sample, answer_of(end["messages"][-1]))
    assert right >= 9
    assert sum(isinstance(message, AIMessage) for message in end["messages"]) == 20
    assert all(m.status == "success" for m in end["messages"] if isinstance(m, ToolMessage))
    assert sum(path.stat().st_size for path in tmp_path.glob("checkpoints.sqlite*")) < 1_000_000


def test_another_model_goes_on_from_a_checkpoint(make_model: MakeModel, tmp_path: Path) -> None:
    thread = {"configurable": {"thread_id": "1"}}
    store = ImageStore(tmp_path / "images")
    first, second = make_model(store=store), make_model(store=ImageStore(tmp_path / "images"))
    asked = {"messages": [question(first, SEARCH)]}
    with SqliteSaver.from_conn_string(":memory:") as saver:
        graph = graph_of_ones_own(first, SEARCH).compile(saver, interrupt_before=["tools"])
        graph.invoke(asked, thread)
        end = graph_of_ones_own(second, SEARCH).compile(saver).invoke(None, thread)
    whole = graph_of_ones_own(first, SEARCH).compile().invoke(asked)
    assert [m.content for m in end["messages"]] == [m.content for m in whole["messages"]]


# What a call costs


def test_a_step_reads_only_what_is_new(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    append, extend = ReplaySession.appending, ReplaySession.extend_generated

    def counted(self: ReplaySession, segment: Segment, **options: object) -> object:
        read.append(len(segment))
        return append(self, segment, **options)  # type: ignore[arg-type]

    def counted_text(self: ReplaySession, ids: list[int]) -> None:
        read.append(len(ids))
        extend(self, ids)

    model = make_model()
    first, call, look = after_a_look(model)
    assert isinstance(call, AIMessage) and call.usage_metadata
    monkeypatch.setattr(ReplaySession, "appending", counted)
    monkeypatch.setattr(ReplaySession, "extend_generated", counted_text)
    answer = model.invoke([first, call, look])
    assert isinstance(answer, AIMessage) and answer.usage_metadata
    before = call.usage_metadata["total_tokens"]
    assert read == [answer.usage_metadata["input_tokens"] - before]
    assert answer.usage_metadata["input_token_details"]["cache_read"] == before
    # A crop of 36 visual tokens between its tags and the frames of turns, not the whole scene.
    assert read[0] < before


def test_an_edited_history_is_read_again_from_where_it_was_edited(make_model: MakeModel) -> None:
    model = make_model()
    first, call, look = after_a_look(model)
    model.invoke([first, call, look])
    edited = call.model_copy(update={"content": "<think>blue88</think>"})
    for history in ([first, edited, look], [first, HumanMessage("Well?")]):
        answer = model.invoke(history)
        stranger = make_model(store=model.store)
        assert answer.content == stranger.invoke(history).content
        assert answer.usage_metadata and call.usage_metadata
        known = answer.usage_metadata["input_token_details"]["cache_read"]
        assert known in (0, call.usage_metadata["input_tokens"])


def test_a_history_from_elsewhere_is_read_as_text(make_model: MakeModel) -> None:
    model = make_model()
    first, call, look = after_a_look(model)
    bare = AIMessage(call.content, tool_calls=call.tool_calls)
    assert make_model(store=model.store).invoke([first, bare, look]).content == (
        model.invoke([first, call, look]).content
    )


# Streaming, async, threads


def test_a_stream_gives_every_token_as_it_is_drawn(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    asked = [question(model, SEARCH)]
    whole = model.invoke(asked)
    drawn: list[int] = []
    write = TokenWriter.write
    monkeypatch.setattr(
        TokenWriter, "write", lambda self, logits: drawn.append(1) or write(self, logits)
    )
    full = AIMessageChunk("")
    lags = []
    for chunk in model.stream(asked):
        full += chunk
        lags.append(len(drawn) - len(lags))
    assert full.content == whole.content
    assert [call["args"] for call in full.tool_calls] == [c["args"] for c in whole.tool_calls]
    assert full.additional_kwargs == whole.additional_kwargs
    assert full.usage_metadata is not None and whole.usage_metadata is not None
    assert full.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]
    # All of the thought, one by one: what begins like a tag waits until it is none.
    assert len(lags) > 5
    assert lags[0] <= len("<think>")


def test_a_stream_that_is_dropped_leaves_nothing(make_model: MakeModel) -> None:
    model = make_model()
    asked = [question(model, SEARCH)]
    stream = model.stream(asked)
    next(stream)
    stream.close()
    assert model.invoke(asked).content == make_model(store=model.store).invoke(asked).content


def test_threads_and_tasks_get_what_they_would_get_alone(make_model: MakeModel) -> None:
    model = make_model()
    sample = get_task("visual-search-medium").sample
    asked = [[question(model, sample(Split.TUNING + n))] for n in range(4)]
    alone = [make_model(store=model.store).invoke(messages).content for messages in asked]

    async def together() -> list[object]:
        replies = await asyncio.gather(*(model.ainvoke(messages) for messages in asked))
        return [reply.content for reply in replies]

    assert asyncio.run(together()) == alone
    model.close()
    with ThreadPoolExecutor(4) as pool:
        assert [reply.content for reply in pool.map(model.invoke, asked)] == alone


# Decoding, and what is told about it


@pytest.mark.parametrize("method", list(Method))
def test_every_answer_tells_what_replay_did(make_model: MakeModel, method: Method) -> None:
    model = make_model(method)
    reply = model.invoke(after_a_look(model))
    told = reply.response_metadata["replay"]
    if method is Method.NONE:
        assert told is None
    else:
        assert told["method"] == method
        assert told["new_visual_tokens"] == 36
    assert reply.response_metadata["model_name"] == "policy"
    assert reply.response_metadata["finish_reason"] == "stop"


def test_a_stop_string_ends_a_turn_and_is_left_out(make_model: MakeModel) -> None:
    model = make_model()
    asked = [question(model, SEARCH)]
    whole = model.invoke(asked).content
    cut = model.invoke(asked, stop=["</think>"])
    assert isinstance(whole, str)
    assert cut.content == whole[: whole.index("</think>")]
    # Its tokens have the stop string too. The message has not, and so is read as text.
    written = model.pair.tokenizer.decode(cut.additional_kwargs["token_ids"])
    assert written == f"{cut.content}</think>"
    after = [*asked, cut, HumanMessage("Well?")]
    bare = [*asked, AIMessage(cut.content), HumanMessage("Well?")]
    assert model.invoke(after).content == model.invoke(bare).content
    streamed = AIMessageChunk("")
    for chunk in make_model(store=model.store, stop=["</think>"]).stream(asked):
        streamed += chunk
    assert streamed.content == cut.content


def test_a_limit_of_tokens_cuts_a_turn_off(make_model: MakeModel) -> None:
    model = make_model(max_tokens=3)
    reply = model.invoke([question(model, SEARCH)])
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["output_tokens"] == 3
    assert reply.response_metadata["finish_reason"] == "length"
    longer = model.invoke([question(model, SEARCH)], max_tokens=5)
    assert longer.usage_metadata is not None
    assert longer.usage_metadata["output_tokens"] == 5


def test_a_seed_makes_sampling_repeatable(make_model: MakeModel) -> None:
    model = make_model(temperature=1.5)
    asked = [question(model, SEARCH)]
    replies = [model.invoke(asked, seed=seed).additional_kwargs for seed in (1, 2, 3, 1)]
    assert replies[0] == replies[3]
    assert len({str(reply) for reply in replies}) > 1


@pytest.mark.parametrize(
    ("choice", "opening"),
    [
        ("sample_frames", '<tool_call>{"name": "sample_frames", "arguments":'),
        ({"type": "function", "function": {"name": "zoom"}}, '<tool_call>{"name": "zoom", "argu'),
        ("any", '<tool_call>{"name":'),
        (True, '<tool_call>{"name":'),
        ("auto", "<think>"),
    ],
)
def test_a_forced_call_begins_the_turn(make_model: MakeModel, choice: object, opening: str) -> None:
    model = make_model(max_tokens=8)
    forced = model.bind_tools(tools_for(model, SEARCH), tool_choice=choice)
    reply = forced.invoke([question(model, SEARCH)])
    written = model.pair.tokenizer.decode(reply.additional_kwargs["token_ids"])
    assert written.startswith(opening)


def test_a_call_that_is_cut_off_is_invalid_in_a_stream_too(make_model: MakeModel) -> None:
    model = make_model(max_tokens=3)
    forced = model.bind_tools(tools_for(model, SEARCH), tool_choice="zoom")
    asked = [question(model, SEARCH)]
    reply = forced.invoke(asked)
    (call,) = reply.invalid_tool_calls
    assert call["error"] == "The tool call is not closed with </tool_call>."
    full = AIMessageChunk("")
    for chunk in forced.stream(asked):
        assert isinstance(chunk, AIMessageChunk)
        full += chunk
    assert full.tool_calls == []
    assert [c["args"] for c in full.invalid_tool_calls] == [call["args"]]


def test_a_clear_word_about_what_cannot_be_done(make_model: MakeModel) -> None:
    model = make_model()
    tools = tools_for(model, SEARCH)
    with pytest.raises(ValueError, match="tool_choice is 'paint'; the tools are zoom"):
        model.bind_tools(tools, tool_choice="paint")
    with pytest.raises(ValueError, match="mini-o3 protocol calls no tools but its own"):
        make_model(dialect="mini-o3").bind_tools(tools)
    with pytest.raises(ValueError, match="a call has no option 'model'"):
        model.invoke("Hello", model="another")
    with pytest.raises(ValueError, match="must begin and end"):
        model.invoke([HumanMessage("Hello"), AIMessage("Hello")])


def test_from_pretrained_loads_what_the_method_needs() -> None:
    folders = (str(EMBEDDED / "policy"), str(EMBEDDED / "base"))
    options = {"device": "cpu"}
    model = ReplayChatModel.from_pretrained(
        *folders, replay=config_of(Method.STATE), load_options=options, dialect="embedded"
    )
    assert model.pair.base is not None
    assert model.pair.base.depth == 2
    assert model.model_name == folders[0]
    plain = ReplayChatModel.from_pretrained(
        *folders, replay=config_of(Method.NONE), load_options=options
    )
    assert plain.pair.base is None
