"""A knob has one name at every door; one that is added appears at all doors, or is named here."""

import re
from dataclasses import fields
from typing import Any

import pytest
from typer.main import get_command

from visreplay.agent.episode.limits import Limits
from visreplay.agent.inspect import options as inspect_options
from visreplay.agent.langchain import graph_server
from visreplay.agent.langchain.chat_model import ReplayChatModel
from visreplay.agent.openai.replay_options import KEPT_FROM_CALLERS
from visreplay.agent.openai.replay_options import SETTINGS as REQUEST_REPLAY
from visreplay.agent.openai.request_schema import ChatRequest
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.serving.limits import ServerLimits
from visreplay.agent.smolagents import model as smolagents_model
from visreplay.replay_core import ReplayConfig
from visreplay.tasks.commands.cli import app
from visreplay.tasks.commands.settings import KNOBS, overrides_of

EPISODE_COMMANDS = ("run", "eval", "mcp")

OPENAI_NAMES = {"max_new_tokens": "max_completion_tokens"}
"""Fields of `Sampling` that have another name in a request, which OpenAI's clients send."""


def names(settings: type) -> set[str]:
    return {field.name for field in fields(settings)}


def options(command: str) -> dict[str, Any]:
    """The options of a command by name, without dashes in front."""
    group: Any = get_command(app)
    context = group.commands[command].make_context(command, [], resilient_parsing=True)
    return {
        name.lstrip("-").replace("-", "_"): option
        for option in context.command.params
        for name in option.opts
    }


def option_names(settings: type) -> set[str]:
    return {KNOBS[settings][name].option or name for name in names(settings)}


@pytest.mark.parametrize("settings", [ReplayConfig, Sampling, Limits, ServerLimits])
def test_every_knob_has_a_help_text_and_no_knob_is_left_over(settings: type) -> None:
    assert KNOBS[settings].keys() == names(settings)
    assert all(knob.help for knob in KNOBS[settings].values())


@pytest.mark.parametrize("command", EPISODE_COMMANDS)
def test_commands_that_play_episodes_have_every_knob(command: str) -> None:
    offered = options(command)
    for settings in (ReplayConfig, Sampling, Limits):
        assert option_names(settings) <= offered.keys()
    assert "method" not in offered and "dialect" not in offered


def test_analyze_has_every_knob_of_replay() -> None:
    assert option_names(ReplayConfig) <= options("analyze").keys()


def test_the_server_has_every_knob_of_replay_sampling_and_its_limits() -> None:
    offered = options("serve")
    for settings in (ReplayConfig, Sampling, ServerLimits):
        assert option_names(settings) <= offered.keys()


def test_the_command_line_shows_the_defaults_of_the_settings() -> None:
    offered = options("serve")
    assert offered["max_body"].help.endswith("Default: 20.")
    assert offered["max_megapixels"].help.endswith("Default: 64.")
    limit = ServerLimits().max_new_tokens
    assert offered["max_new_tokens"].help.endswith(f"Default: {limit}.")
    assert options("run")["tau"].help.endswith(f"Default: {ReplayConfig().tau}.")
    assert all(option.default is None for name, option in options("run").items() if name == "tau")


def test_a_request_has_every_knob_of_sampling_and_of_replay() -> None:
    assert {OPENAI_NAMES.get(name, name) for name in names(Sampling)} <= set(
        ChatRequest.model_fields
    )
    assert names(ReplayConfig) == {*REQUEST_REPLAY, *KEPT_FROM_CALLERS}
    assert not set(REQUEST_REPLAY) & set(KEPT_FROM_CALLERS)
    assert {"replay", "protocol"} & set(ChatRequest.model_fields) == {"replay"}


def test_the_langchain_model_has_every_knob_of_sampling() -> None:
    assert names(Sampling) | {"replay", "protocol"} <= set(ReplayChatModel.model_fields)


def test_the_smolagents_model_has_every_knob_of_sampling() -> None:
    assert names(Sampling) <= smolagents_model._OPTIONS


def test_the_inspect_model_has_every_knob_of_replay_and_sampling() -> None:
    assert names(ReplayConfig) == set(inspect_options.REPLAY)
    of_inspect = set(inspect_options.SAMPLING.values())
    assert names(Sampling) == of_inspect | {inspect_options.PENALTY}


NOT_IN_THE_ENVIRONMENT = {
    Sampling: "the chat model's defaults: a client of LangGraph's server sends messages alone",
    Limits: "the protocol's limits, as its checkpoint was trained",
}
"""Settings that `langgraph dev` takes no variable for, and why; of replay it takes the method."""


def test_the_graph_server_s_variables_are_the_options_of_run() -> None:
    documented = set(re.findall(r"VISREPLAY_([A-Z]+) ", graph_server.__doc__ or ""))
    names_of_options = {name.lower() for name in documented} - {"images"}
    assert names_of_options == {"policy", "base", "protocol", "recipe", "replay", "device"}
    assert names_of_options <= options("run").keys()
    kept = {name for settings in NOT_IN_THE_ENVIRONMENT for name in names(settings)}
    assert not kept & names_of_options


def test_values_arrive_in_the_field_s_unit() -> None:
    arguments = {"max_body": 0.5, "max_megapixels": 2.5, "cache": 3.0, "max_new_tokens": 7}
    limits = overrides_of(ServerLimits, {**arguments, "max_context": None}).build()
    assert limits == ServerLimits(
        body_bytes=2**19, pixels=2_500_000, cache_bytes=3 * 2**20, max_new_tokens=7
    )


@pytest.mark.parametrize(("word", "value"), [("auto", "auto"), ("on", True), ("off", False)])
def test_words_stand_for_values(word: str, value: object) -> None:
    replay = overrides_of(ReplayConfig, {"recompute": word, "memory": 64.0}).build()
    assert replay.recompute_activations is value or replay.recompute_activations == value
    assert replay.memory_bytes == 64 * 2**20
    assert options("run")["recompute"].help.endswith("Default: auto.")


def test_values_that_the_user_set_come_before_a_command_s_own_defaults() -> None:
    sampling = overrides_of(Sampling, {"temperature": 0.0, "top_p": None})
    assert sampling.build(temperature=1.0, top_p=0.5) == Sampling(temperature=0.0, top_p=0.5)
    assert sampling["top_p"] is None and sampling["temperature"] == 0.0
