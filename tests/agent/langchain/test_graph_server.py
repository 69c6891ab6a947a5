"""The agent behind LangGraph's own server, over its socket, by its own client."""

import base64
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient
from served import ENVIRONMENT, wait_for
from shared import MakeAgent

from visreplay.agent import Limits, MessageError, ReplayChatModel
from visreplay.agent.langchain import graph_server
from visreplay.replay_core import EMBEDDED, Method, ModelPair, ReplayConfig, embedded_config
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Split

ROOT = Path(__file__).parents[3]
SEARCH = get_task("visual-search-medium").sample(Split.TUNING + 1)
COMMAND = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
from langgraph_cli.cli import cli
cli()
"""
"""`langgraph`, that ends when the process that started it does, killed or not: with its pipe."""
OFFLINE = {
    "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    "LANGGRAPH_NO_VERSION_CHECK": "true",
    "LANGSMITH_TRACING": "false",
    "HF_HUB_OFFLINE": "1",
}


def encoded() -> str:
    file = io.BytesIO()
    SEARCH.images[0].save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def request(block: dict[str, Any]) -> dict[str, Any]:
    content = [block, {"type": "text", "text": SEARCH.question}]
    return {"messages": [{"role": "user", "content": content}]}


BLOCKS = {
    "langchain": {"type": "image", "base64": encoded(), "mime_type": "image/png"},
    "openai": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded()}"}},
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncLangGraphClient]:
    """A client of `langgraph dev`, which runs in a folder of its own and ends with the module."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(ROOT / "langgraph.json", folder)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ["--no-browser", "--no-reload", "--port", str(port)]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "dev", *options],
            cwd=folder,
            env={**ENVIRONMENT, **OFFLINE, "VISREPLAY_IMAGES": str(folder / "images")},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(port)
        with get_sync_client(url=f"http://127.0.0.1:{port}", timeout=120) as sdk:
            yield sdk
        assert "Blocking" not in (folder / "log").read_text("utf-8")
    finally:
        with server:
            os.killpg(server.pid, signal.SIGKILL)


def test_langgraph_json_names_the_agent(client: SyncLangGraphClient) -> None:
    (assistant,) = client.assistants.search()
    assert assistant["graph_id"] == "visreplay"
    nodes = {node["id"] for node in client.assistants.get_graph("visreplay")["nodes"]}
    assert {"policy", "tools"} < nodes


@pytest.mark.parametrize("form", BLOCKS)
def test_an_episode_is_played_in_a_thread(
    client: SyncLangGraphClient, make_agent: MakeAgent, form: str
) -> None:
    thread = client.threads.create()["thread_id"]
    modes = ["custom", "messages-tuple"]
    parts = list(
        client.runs.stream(thread, "visreplay", input=request(BLOCKS[form]), stream_mode=modes)
    )
    trajectory = make_agent().run(SEARCH.question, images=SEARCH.images)
    assert trajectory.answer == SEARCH.answer

    events = [part.data for part in parts if part.event == "custom"]
    assert [event["step"] for event in events] == [0, 1]
    assert all(0 < event["replay"]["kl_after"] < event["replay"]["kl_before"] for event in events)
    tokens = [part.data[0] for part in parts if part.event == "messages"]
    written = "".join(str(m["content"]) for m in tokens if m["type"] == "AIMessageChunk")
    assert written.endswith(f"<answer>{SEARCH.answer}</answer>")

    values = client.threads.get_state(thread)["values"]
    assert values["episode"]["answer"] == SEARCH.answer  # type: ignore[index,call-overload]
    _, call, look, answer = values["messages"]
    (use,) = trajectory.steps[0]["tool_calls"]
    assert use["observation"] is not None
    assert [(c["name"], c["args"]) for c in call["tool_calls"]] == [(use["name"], use["arguments"])]
    (reference,) = use["observation"]["images"]
    assert look["content"] == [{"type": "image", "url": f"visreplay:{reference}"}]
    assert answer["content"] == trajectory.steps[1]["text"]


def test_a_thread_goes_on_with_the_next_question(client: SyncLangGraphClient) -> None:
    thread = client.threads.create()["thread_id"]
    client.runs.wait(thread, "visreplay", input=request(BLOCKS["langchain"]))
    again = {"messages": [{"role": "user", "content": SEARCH.question}]}
    end = client.runs.wait(thread, "visreplay", input=again)
    assert isinstance(end, dict)
    assert set(end) == {"messages"}
    assert len(end["messages"]) == 8
    assert end["messages"][-1]["content"] == end["messages"][3]["content"]


def test_a_url_is_not_fetched(client: SyncLangGraphClient) -> None:
    thread = client.threads.create()["thread_id"]
    block = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/a.png"}}
    end = client.runs.wait(thread, "visreplay", input=request(block), raise_error=False)
    assert "is not fetched" in str(end)


# Without a server


def test_the_environment_names_the_checkpoints(tmp_path: Path) -> None:
    model = graph_server.load_model(
        {
            "VISREPLAY_POLICY": str(EMBEDDED / "policy"),
            "VISREPLAY_BASE": str(EMBEDDED / "base"),
            "VISREPLAY_PROTOCOL": "deepeyes",
            "VISREPLAY_RECIPE": "deepeyes-training",
            "VISREPLAY_REPLAY": "none",
            "VISREPLAY_IMAGES": str(tmp_path),
            "VISREPLAY_DEVICE": "cpu",
        }
    )
    assert model.model_name == str(EMBEDDED / "policy")
    assert model.protocol == "deepeyes"
    assert model.renderer.protocol.recipe.name == "deepeyes-training"
    assert model.replay == ReplayConfig(Method.NONE)
    assert model.pair.base is None
    assert model.store.root == tmp_path
    with pytest.raises(ValueError, match="VISREPLAY_REPLAY is 'tokens'; it is one of token, state"):
        graph_server.load_model({"VISREPLAY_REPLAY": "tokens"})


def test_a_protocol_whose_calls_are_not_messages_is_refused(embedded_pair: ModelPair) -> None:
    with pytest.raises(ValueError, match="mini-o3 protocol calls no tools by name"):
        graph_server.chat_graph(ReplayChatModel(pair=embedded_pair, protocol="mini-o3"))


def test_the_policy_reads_why_its_call_cannot_be_parsed(embedded_pair: ModelPair) -> None:
    model = ReplayChatModel(
        pair=embedded_pair,
        replay=embedded_config(Method.NONE),
        protocol="embedded",
        temperature=1.6,
        max_new_tokens=96,
        seed=18,
    )
    _, broken, error, answer = play(model)
    assert isinstance(broken, AIMessage) and broken.invalid_tool_calls
    assert isinstance(error, ToolMessage) and error.status == "error"
    assert error.content == "The tool call is not closed with </tool_call>."
    assert error.tool_call_id == broken.invalid_tool_calls[0]["id"]
    assert "<answer>" in answer.text


def test_a_turn_that_is_cut_off_ends_the_episode(embedded_pair: ModelPair) -> None:
    replay = embedded_config(Method.TOKEN)
    model = ReplayChatModel(
        pair=embedded_pair, replay=replay, protocol="embedded", max_new_tokens=24
    )
    _, turn = play(model)
    assert isinstance(turn, AIMessage) and turn.invalid_tool_calls


def test_limits_hold_and_every_call_has_its_message(embedded_pair: ModelPair) -> None:
    """One image fits: the call is run, but its crop is not shown."""
    replay = embedded_config(Method.TOKEN)
    model = ReplayChatModel(
        pair=embedded_pair, replay=replay, protocol="embedded", max_new_tokens=96
    )
    _, call, crop = play(model, Limits(max_images=1))
    assert isinstance(call, AIMessage) and isinstance(crop, ToolMessage)
    assert crop.tool_call_id == call.tool_calls[0]["id"]
    _, call = play(model, Limits(max_steps=1))
    assert isinstance(call, AIMessage) and call.tool_calls


def test_without_a_question_there_is_nothing_to_answer(embedded_pair: ModelPair) -> None:
    model = ReplayChatModel(pair=embedded_pair, protocol="embedded")
    with pytest.raises(MessageError, match="there is no question: send a human's message"):
        graph_server.chat_graph(model).invoke({"messages": [AIMessage("Hello.")]})  # type: ignore[arg-type]


def test_tokens_and_files_in_a_state_are_the_clients(embedded_pair: ModelPair) -> None:
    """A client that may write its thread's state adds no special tokens, and opens no file."""
    model = ReplayChatModel(
        pair=embedded_pair, replay=embedded_config(Method.NONE), protocol="embedded", seed=0
    )
    graph = graph_server.chat_graph(model, InMemorySaver())
    config: Any = {"configurable": {"thread_id": "a"}}
    content: list[Any] = [model.image(SEARCH.images[0]), {"type": "text", "text": SEARCH.question}]
    stream = graph.stream({"messages": [HumanMessage(content)]}, config)  # type: ignore[arg-type]
    next(stream), next(stream)  # the policy's first turn, and its call
    stream.close()
    snapshot = graph.get_state(config)
    state = snapshot.values["episode"]
    (turn,) = [message for message in state["messages"] if message["role"] == "assistant"]
    seen: list[list[int] | None] = []
    invoke = ReplayChatModel.invoke

    def watched(self: ReplayChatModel, *args: Any, **options: Any) -> Any:
        seen.append(options["generated"][-1])
        return invoke(self, *args, **options)

    special = model.pair.tokenizer.convert_tokens_to_ids("<|im_start|>")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReplayChatModel, "invoke", watched)
        for forged in ([special, *turn["token_ids"]], "garbage", [[1]], None, turn["token_ids"]):
            messages = [
                {**message, "token_ids": forged} if message["role"] == "assistant" else message
                for message in state["messages"]
            ]
            episode = {**state, "messages": messages, "video": "/etc/passwd"}
            fork = graph.update_state(snapshot.config, {"episode": episode}, as_node="tools")
            end = graph.invoke(None, fork)
            assert end["messages"][-1].text.endswith(f"<answer>{SEARCH.answer}</answer>")
    assert seen == [None, None, None, None, turn["token_ids"]]


def play(model: ReplayChatModel, limits: Limits = Limits()) -> list[BaseMessage]:
    content: list[Any] = [model.image(SEARCH.images[0]), {"type": "text", "text": SEARCH.question}]
    graph = graph_server.chat_graph(model, limits=limits)
    return graph.invoke({"messages": [HumanMessage(content)]})["messages"]  # type: ignore[arg-type,no-any-return]
