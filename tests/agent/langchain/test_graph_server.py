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
from langchain_core.messages import AIMessage, HumanMessage
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient
from served import ENVIRONMENT, wait_for
from shared import MakeAgent

from visreplay.agent import ReplayChatModel
from visreplay.agent.langchain import graph_server as served
from visreplay.replay_core import EMBEDDED, Method, ModelPair, embedded_config
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


def asked(block: dict[str, Any]) -> dict[str, Any]:
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
        client.runs.stream(thread, "visreplay", input=asked(BLOCKS[form]), stream_mode=modes)
    )
    trajectory = make_agent().run(SEARCH.question, images=SEARCH.images)
    assert trajectory.answer == SEARCH.answer

    events = [part.data for part in parts if part.event == "custom"]
    assert [event["step"] for event in events] == [0, 1]
    assert all(0 < event["replay"]["kl_after"] < event["replay"]["kl_before"] for event in events)
    tokens = [part.data[0] for part in parts if part.event == "messages"]
    written = "".join(str(m["content"]) for m in tokens if m["type"] == "AIMessageChunk")
    assert written.endswith(f"<answer>{SEARCH.answer}</answer>")

    _, call, look, answer = client.threads.get_state(thread)["values"]["messages"]
    (use,) = trajectory.steps[0]["tool_calls"]
    assert use["observation"] is not None
    assert [(c["name"], c["args"]) for c in call["tool_calls"]] == [(use["name"], use["arguments"])]
    (reference,) = use["observation"]["images"]
    assert look["content"] == [{"type": "image", "url": f"visreplay:{reference}"}]
    assert answer["content"] == trajectory.steps[1]["text"]


def test_a_thread_goes_on_with_the_next_question(client: SyncLangGraphClient) -> None:
    thread = client.threads.create()["thread_id"]
    client.runs.wait(thread, "visreplay", input=asked(BLOCKS["langchain"]))
    again = {"messages": [{"role": "user", "content": SEARCH.question}]}
    end = client.runs.wait(thread, "visreplay", input=again)
    assert isinstance(end, dict)
    assert len(end["messages"]) == 8
    assert end["messages"][-1]["content"] == end["messages"][3]["content"]


def test_a_url_is_not_fetched(client: SyncLangGraphClient) -> None:
    thread = client.threads.create()["thread_id"]
    block = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/a.png"}}
    end = client.runs.wait(thread, "visreplay", input=asked(block), raise_error=False)
    assert "is not fetched" in str(end)


# Without a server


def test_the_environment_names_the_checkpoints(tmp_path: Path) -> None:
    model = served.model_of(
        {
            "VISREPLAY_POLICY": str(EMBEDDED / "policy"),
            "VISREPLAY_BASE": str(EMBEDDED / "base"),
            "VISREPLAY_PROTOCOL": "deepeyes",
            "VISREPLAY_METHOD": "none",
            "VISREPLAY_IMAGES": str(tmp_path),
            "VISREPLAY_DEVICE": "cpu",
        }
    )
    assert model.model_name == str(EMBEDDED / "policy")
    assert model.dialect == "deepeyes"
    assert model.replay.method is Method.NONE
    assert model.pair.base is None
    assert model.store.root == tmp_path
    with pytest.raises(ValueError, match="VISREPLAY_METHOD is 'tokens'; it is one of token, state"):
        served.model_of({"VISREPLAY_METHOD": "tokens"})


def test_a_dialect_whose_calls_are_not_messages_is_refused(embedded_pair: ModelPair) -> None:
    with pytest.raises(ValueError, match="mini-o3 protocol calls no tools by name"):
        served.chat_graph(ReplayChatModel(pair=embedded_pair, dialect="mini-o3"))


def test_calls_that_cannot_be_read_are_told_and_turns_are_counted(embedded_pair: ModelPair) -> None:
    """A policy that is cut off in the middle of a call, time and again."""
    replay = embedded_config(Method.TOKEN)
    model = ReplayChatModel(pair=embedded_pair, replay=replay, dialect="embedded", max_tokens=24)
    content: list[Any] = [model.image(SEARCH.images[0]), {"type": "text", "text": SEARCH.question}]
    end = served.chat_graph(model).invoke({"messages": [HumanMessage(content)]})
    turns = [message for message in end["messages"] if isinstance(message, AIMessage)]
    assert turns[0].invalid_tool_calls
    told = end["messages"][2]
    assert told.status == "error"
    assert told.content == "The tool call is not closed with </tool_call>."
    assert 1 < len(turns) <= 8
