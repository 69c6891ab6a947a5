"""The agent: a LangGraph loop of policy turns and visual tools, with replay at every step."""

from visreplay.agent.agent import VisualAgent
from visreplay.agent.chat_messages import MessageError
from visreplay.agent.chat_model import ReplayChatModel
from visreplay.agent.dialect_tools import dialect_tools, question
from visreplay.agent.graph import build_graph
from visreplay.agent.loop import Limits, Loop, completed
from visreplay.agent.policy import Policy, PolicyTurn, ReplayPolicy, Sampling, ScriptedPolicy
from visreplay.agent.protocols import (
    PROTOCOLS,
    ToolProtocol,
    Turn,
    protocol_named,
    protocol_spoken_by,
)
from visreplay.agent.state import EpisodeState, Message, Observation, Step, ToolCall, ToolUse
from visreplay.agent.trajectory import StopReason, Trajectory

__all__ = [
    "PROTOCOLS",
    "EpisodeState",
    "Limits",
    "Loop",
    "Message",
    "MessageError",
    "Observation",
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
    "Turn",
    "VisualAgent",
    "build_graph",
    "completed",
    "dialect_tools",
    "protocol_named",
    "protocol_spoken_by",
    "question",
]
