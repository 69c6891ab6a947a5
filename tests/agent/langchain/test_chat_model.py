"""The chat model on the embedded pair: LangChain's and LangGraph's own agents around it."""

import asyncio
import copy
import pickle
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
from visreplay.replay_core import (
    EMBEDDED,
    Method,
    ModelPair,
    ReplayConfig,
    ReplaySession,
    Segment,
    embedded_config,
)
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
        settings = {"protocol": "embedded", "max_new_tokens": 96, **options}
        return ReplayChatModel(pair=embedded_pair, replay=embedded_config(method), **settings)

    return make


def after_a_look(model: ReplayChatModel, sample: Sample = SEARCH) -> list[AnyMessage]:
    """A question, the model's call, and the tool's result."""
    zoom, _ = tools_for(model, sample)
    first = question(model, sample)
    call = model.invoke([first])
    return [first, call, zoom.invoke(call.tool_calls[0])]


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
    """Turns and tools until there is an answer; the policy reads the last question alone."""
    tools = tools_for(model, sample)
    seeing = model.bind_tools(tools)

    def policy(state: MessagesState) -> dict[str, list[AIMessage]]:
        human = [isinstance(message, HumanMessage) for message in state["messages"]]
        last = len(human) - 1 - human[::-1].index(True)
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
    start = {"messages": [question(first, SEARCH)]}
    with SqliteSaver.from_conn_string(":memory:") as saver:
        graph = graph_of_ones_own(first, SEARCH).compile(saver, interrupt_before=["tools"])
        graph.invoke(start, thread)
        end = graph_of_ones_own(second, SEARCH).compile(saver).invoke(None, thread)
    whole = graph_of_ones_own(first, SEARCH).compile().invoke(start)
    assert [m.content for m in end["messages"]] == [m.content for m in whole["messages"]]


# What a call costs


def test_a_step_reads_only_what_is_new(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    append, extend = ReplaySession.appending, ReplaySession.extend_generated

    def counted(self: ReplaySession, segment: Segment, **options: object) -> object:
        lengths.append(len(segment))
        return append(self, segment, **options)  # type: ignore[arg-type]

    def counted_text(self: ReplaySession, ids: list[int]) -> None:
        lengths.append(len(ids))
        extend(self, ids)

    model = make_model()
    first, call, look = after_a_look(model)
    assert isinstance(call, AIMessage) and call.usage_metadata
    monkeypatch.setattr(ReplaySession, "appending", counted)
    monkeypatch.setattr(ReplaySession, "extend_generated", counted_text)
    answer = model.invoke([first, call, look])
    assert isinstance(answer, AIMessage) and answer.usage_metadata
    before = call.usage_metadata["total_tokens"]
    assert lengths == [answer.usage_metadata["input_tokens"] - before]
    assert answer.usage_metadata["input_token_details"]["cache_read"] == before
    # A crop of 36 visual tokens between its tags and the frames of turns, not the whole scene.
    assert lengths[0] < before


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
    messages = [question(model, SEARCH)]
    whole = model.invoke(messages)
    drawn: list[int] = []
    write = TokenWriter.write
    monkeypatch.setattr(
        TokenWriter, "write", lambda self, logits: drawn.append(1) or write(self, logits)
    )
    full = AIMessageChunk("")
    lags = []
    for chunk in model.stream(messages):
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
    messages = [question(model, SEARCH)]
    stream = model.stream(messages)
    next(stream)
    stream.close()
    assert model.invoke(messages).content == make_model(store=model.store).invoke(messages).content


def test_threads_and_tasks_get_what_they_would_get_alone(make_model: MakeModel) -> None:
    model = make_model()
    sample = get_task("visual-search-medium").sample
    conversations = [[question(model, sample(Split.TUNING + n))] for n in range(4)]
    alone = [make_model(store=model.store).invoke(messages).content for messages in conversations]

    async def together() -> list[object]:
        replies = await asyncio.gather(*(model.ainvoke(messages) for messages in conversations))
        return [reply.content for reply in replies]

    assert asyncio.run(together()) == alone
    model.close()
    with ThreadPoolExecutor(4) as pool:
        assert [reply.content for reply in pool.map(model.invoke, conversations)] == alone


# Decoding, and the record of it


@pytest.mark.parametrize("method", list(Method))
def test_every_answer_has_a_record_of_its_replay(make_model: MakeModel, method: Method) -> None:
    model = make_model(method)
    reply = model.invoke(after_a_look(model))
    replay = reply.response_metadata["replay"]
    if method is Method.NONE:
        assert replay is None
    else:
        assert replay["method"] == method
        assert replay["new_visual_tokens"] == 36
    assert reply.response_metadata["model_name"] == "policy"
    assert reply.response_metadata["finish_reason"] == "stop"


def test_a_stop_string_ends_a_turn_and_is_left_out(make_model: MakeModel) -> None:
    model = make_model()
    messages = [question(model, SEARCH)]
    whole = model.invoke(messages).content
    cut = model.invoke(messages, stop=["</think>"])
    assert isinstance(whole, str)
    assert cut.content == whole[: whole.index("</think>")]
    # Its tokens have the stop string too. The message has not, and so is read as text.
    reply_text = model.pair.tokenizer.decode(cut.additional_kwargs["token_ids"])
    assert reply_text == f"{cut.content}</think>"
    after = [*messages, cut, HumanMessage("Well?")]
    bare = [*messages, AIMessage(cut.content), HumanMessage("Well?")]
    assert model.invoke(after).content == model.invoke(bare).content
    streamed = AIMessageChunk("")
    for chunk in make_model(store=model.store, stop=["</think>"]).stream(messages):
        streamed += chunk
    assert streamed.content == cut.content


def test_a_limit_of_tokens_cuts_a_turn_off(make_model: MakeModel) -> None:
    model = make_model(max_new_tokens=3)
    reply = model.invoke([question(model, SEARCH)])
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["output_tokens"] == 3
    assert reply.response_metadata["finish_reason"] == "length"
    for name in ("max_new_tokens", "max_tokens"):
        longer = model.invoke([question(model, SEARCH)], **{name: 5})
        assert longer.usage_metadata is not None
        assert longer.usage_metadata["output_tokens"] == 5


def test_langchain_has_another_name_for_the_limit_of_tokens(embedded_pair: ModelPair) -> None:
    model = ReplayChatModel.model_validate({"pair": embedded_pair, "max_tokens": 7})
    assert model.max_new_tokens == 7
    assert model._get_ls_params()["ls_max_tokens"] == 7
    assert model._get_ls_params(max_tokens=5)["ls_max_tokens"] == 5


def test_a_seed_makes_sampling_repeatable(make_model: MakeModel) -> None:
    model = make_model(temperature=1.5)
    messages = [question(model, SEARCH)]
    replies = [model.invoke(messages, seed=seed).additional_kwargs for seed in (1, 2, 3, 1)]
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
    model = make_model(max_new_tokens=8)
    forced = model.bind_tools(tools_for(model, SEARCH), tool_choice=choice)
    reply = forced.invoke([question(model, SEARCH)])
    reply_text = model.pair.tokenizer.decode(reply.additional_kwargs["token_ids"])
    assert reply_text.startswith(opening)


def test_a_call_that_is_cut_off_is_invalid_in_a_stream_too(make_model: MakeModel) -> None:
    model = make_model(max_new_tokens=3)
    forced = model.bind_tools(tools_for(model, SEARCH), tool_choice="zoom")
    messages = [question(model, SEARCH)]
    reply = forced.invoke(messages)
    (call,) = reply.invalid_tool_calls
    assert call["error"] == "The tool call is not closed with </tool_call>."
    full = AIMessageChunk("")
    for chunk in forced.stream(messages):
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
        make_model(protocol="mini-o3").bind_tools(tools)
    with pytest.raises(ValueError, match="a call has no option 'model'"):
        model.invoke("Hello", model="another")
    with pytest.raises(ValueError, match="must begin and end"):
        model.invoke([HumanMessage("Hello"), AIMessage("Hello")])


def test_from_pretrained_loads_what_the_method_needs() -> None:
    folders = (str(EMBEDDED / "policy"), str(EMBEDDED / "base"))
    options = {"device": "cpu"}
    model = ReplayChatModel.from_pretrained(
        *folders,
        replay=embedded_config(Method.STATE),
        load_options=options,
        protocol="embedded",
    )
    assert model.pair.base is not None
    assert model.pair.base.depth == 2
    assert model.model_name == folders[0]
    plain = ReplayChatModel.from_pretrained(*folders, replay="none", load_options=options)
    assert plain.pair.base is None
    assert plain.replay == ReplayConfig(Method.NONE)


def test_the_embedded_pair_needs_no_settings(make_model: MakeModel) -> None:
    model = ReplayChatModel.from_pretrained("embedded", load_options={"device": "cpu"})
    assert model.protocol == "embedded"
    assert model.replay == embedded_config(Method.TOKEN)
    messages = [question(model, SEARCH)]
    assert model.invoke(messages).content == make_model(store=model.store).invoke(messages).content


def test_a_protocol_that_is_named_is_taken(embedded_pair: ModelPair) -> None:
    assert ReplayChatModel(pair=embedded_pair, protocol="deepeyes").protocol == "deepeyes"
    with pytest.raises(ValueError, match="there is no protocol 'deepeye'"):
        ReplayChatModel(pair=embedded_pair, protocol="deepeye")


# Copies


def test_a_copy_shares_weights_and_answers_as_the_model_does(make_model: MakeModel) -> None:
    model = make_model(stop=["</never>"], tags=["a"])
    messages = [question(model, SEARCH)]
    expected = model.invoke(messages).content
    for copied in (copy.copy(model), copy.deepcopy(model), model.model_copy(deep=True)):
        assert copied is not model and copied.pair is model.pair and copied.store is model.store
        assert copied.invoke(messages).content == expected
    deep = copy.deepcopy(model)
    assert deep.stop is not None and model.stop is not None
    deep.stop.append("<think>")
    assert model.stop == ["</never>"]
    assert copy.deepcopy({"model": model})["model"].tags == ["a"]


def test_a_copy_with_another_replay_replays_so(make_model: MakeModel) -> None:
    model = make_model()
    messages = [question(model, SEARCH)]
    for deep in (False, True):
        plain = model.model_copy(update={"replay": "none", "max_new_tokens": 4}, deep=deep)
        assert plain.pair is model.pair
        assert plain.replay == ReplayConfig(Method.NONE)
        reply = plain.invoke(messages)
        assert reply.response_metadata["replay"] is None
        assert reply.usage_metadata and reply.usage_metadata["output_tokens"] == 4
    other = model.model_copy(update={"protocol": "hermes"})
    assert other.renderer.protocol.name == other.protocol == "hermes"
    assert model.invoke(messages).response_metadata["replay"]["method"] == "token"


def test_a_model_is_not_pickled(make_model: MakeModel) -> None:
    with pytest.raises(TypeError, match=r"a ReplayChatModel holds weights .*from_pretrained"):
        pickle.dumps(make_model())
