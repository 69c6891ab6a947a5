"""A policy that is offered no tools: what it reads, and what becomes of its calls."""

import re

import pytest
from conversations import CLIP, GRID, PICTURES, SCRIPTS
from scripted import ScriptedPolicy

from visreplay.agent import Loop, ToolProtocol, build_graph, get_protocol, load_recipe
from visreplay.agent.protocols import PROTOCOLS, RECIPES
from visreplay.agent.protocols.turns import NOTHING_TO_CALL
from visreplay.replay_core import ConfigError
from visreplay.tools import ImageStore

TOOL_FREE = [name for name in RECIPES if load_recipe(name).tool_free is not None]
WITHOUT = {"boxed", "video-r1"}
"""The protocols that have no tools."""
OF_TOOLS = re.compile(
    r"tool|call|zoom|crop|ground|signature|look closer|observation|select_|sample_", re.IGNORECASE
)
"""Words that describe tools; the questions of these tests have none of them."""


def bare(recipe: str) -> ToolProtocol:
    """A protocol whose policy is offered no tools."""
    return get_protocol(load_recipe(recipe).without_tools(), GRID, ImageStore())


def opening(protocol: ToolProtocol) -> str:
    """The text of a question about an image, or about a video where there may be one."""
    images = [protocol.store.put(PICTURES[0])]
    start = Loop(protocol).start("What is it?", images=images)
    parts = [part for message in start["messages"] for part in message["content"]]
    return "\n".join(part["text"] for part in parts if part["type"] == "text")


def test_every_protocol_with_tools_has_texts_without_them() -> None:
    assert {load_recipe(name).protocol for name in TOOL_FREE} == PROTOCOLS.keys() - WITHOUT


@pytest.mark.parametrize("recipe", TOOL_FREE)
def test_the_question_describes_no_tools(recipe: str) -> None:
    written = opening(bare(recipe))
    assert "What is it?" in written
    assert not OF_TOOLS.search(written), written
    described = opening(get_protocol(recipe, GRID, ImageStore()))
    # The embedded pair knows its tools, and no text has ever described them.
    assert bool(OF_TOOLS.search(described)) == (recipe != "embedded")


@pytest.mark.parametrize("name", sorted(SCRIPTS.keys() - WITHOUT))
def test_calls_are_errors_and_answers_are_read_as_ever(name: str) -> None:
    script = SCRIPTS[name]
    offered, none = get_protocol(script.protocol, GRID, ImageStore()), bare(script.protocol)
    for turn in script.turns:
        usual, parsed = offered.read(turn), none.read(turn)
        assert usual.calls or usual.answer is not None
        if usual.calls:
            assert (parsed.calls, parsed.answer, parsed.error) == ((), None, NOTHING_TO_CALL)
            assert (parsed.thought, parsed.calls_at) == (usual.thought, usual.calls_at)
        else:
            assert parsed == usual


@pytest.mark.parametrize(
    "turn",
    [
        "<tool_call>{broken</tool_call>",
        'I look. {"tool": "zoom", "args": {"bbox_2d": [0, 0, 9, 9]}}',
        '<think>Now <tool_call>{"name": "zoom", "arguments": {}}</tool_call></think>',
    ],
)
def test_no_error_tells_how_a_call_is_written(turn: str) -> None:
    assert get_protocol("hermes", GRID, ImageStore()).read(turn).error
    assert bare("hermes").read(turn).error == NOTHING_TO_CALL


@pytest.mark.parametrize("recipe", TOOL_FREE)
def test_the_policy_reads_that_there_is_nothing_to_call(recipe: str) -> None:
    protocol = bare(recipe)
    turns = SCRIPTS[protocol.name].turns
    images = [protocol.store.put(PICTURES[0])]
    start = Loop(protocol).start("What is it?", images=images)
    end = build_graph(ScriptedPolicy([turns[0], turns[-1]]), protocol).invoke(start)
    assert end["stop_reason"] == "answered"
    assert [step["error"] for step in end["steps"]] == [NOTHING_TO_CALL, None]
    assert not any(step["tool_calls"] for step in end["steps"])
    (told,) = end["messages"][-2]["content"]
    assert NOTHING_TO_CALL in told["text"]
    assert not OF_TOOLS.search(told["text"].replace(NOTHING_TO_CALL, ""))


def test_videos_are_shown_as_ever() -> None:
    for name in ("hermes", "pixel-reasoner"):
        protocol = bare(name)
        start = Loop(protocol).start("What is it?", images=[], video=str(CLIP))
        kinds = [part["type"] for part in start["messages"][-1]["content"]]
        assert kinds.count("video") == 1


@pytest.mark.parametrize("recipe", ["boxed", "video-r1", "mm-eureka"])
def test_a_protocol_without_tools_has_none_to_leave_out(recipe: str) -> None:
    with pytest.raises(ConfigError, match=f"{recipe} has no section tool_free.*has no tools anywa"):
        load_recipe(recipe).without_tools()
