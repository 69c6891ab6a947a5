"""The agent: a LangGraph loop of policy turns and visual tools, with replay at every step."""

from visreplay.agent.chat.renderer import MessageError
from visreplay.agent.episode.graph import build_graph
from visreplay.agent.episode.loop import Limits, Loop, completed
from visreplay.agent.episode.trajectory import StopReason, Trajectory
from visreplay.agent.episode.visual_agent import VisualAgent
from visreplay.agent.langchain.chat_model import ReplayChatModel
from visreplay.agent.langchain.protocol_tools import protocol_tools, question
from visreplay.agent.messages import Message
from visreplay.agent.policy.replay_policy import (
    Policy,
    PolicyTurn,
    ReplayPolicy,
    Sampling,
    ScriptedPolicy,
)
from visreplay.agent.protocols import (
    PROTOCOLS,
    ParsedTurn,
    ToolProtocol,
    get_protocol,
    guess_protocol,
)
from visreplay.agent.state import EpisodeState, Observation, Step, ToolCall, ToolUse

__all__ = [
    "PROTOCOLS",
    "EpisodeState",
    "Limits",
    "Loop",
    "Message",
    "MessageError",
    "Observation",
    "ParsedTurn",
    "Policy",
    "PolicyTurn",
    "ReplayChatModel",
    "ReplayPolicy",
    "Sampling",
    "ScriptedPolicy",
    "Step",
    "StopReason",
    "ToolCall",
    "ToolProtocol",
    "ToolUse",
    "Trajectory",
    "VisualAgent",
    "build_graph",
    "completed",
    "get_protocol",
    "guess_protocol",
    "protocol_tools",
    "question",
]
