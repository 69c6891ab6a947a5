from .chat.renderer import MessageError
from .episode.agent import Agent
from .episode.graph import build_graph
from .episode.limits import Limits
from .episode.loop import Loop, completed_steps
from .episode.remote_agent import RemoteAgent
from .episode.trajectory import StopReason, Trajectory
from .episode.visual_agent import VisualAgent
from .langchain.chat_model import ReplayChatModel
from .langchain.protocol_tools import protocol_tools, question
from .messages import Message, ToolCall
from .policy.replay_policy import (
    Policy,
    PolicyTurn,
    ReplayPolicy,
)
from .policy.sampling import Sampling
from .protocols import (
    PROTOCOLS,
    ParsedTurn,
    Question,
    Recipe,
    ToolProtocol,
    get_protocol,
    guess_protocol,
    load_recipe,
)
from .state import EpisodeState, Observation, Scene, Step, ToolUse

__all__ = [
    "PROTOCOLS",
    "Agent",
    "EpisodeState",
    "Limits",
    "Loop",
    "Message",
    "MessageError",
    "Observation",
    "ParsedTurn",
    "Policy",
    "PolicyTurn",
    "Question",
    "Recipe",
    "RemoteAgent",
    "ReplayChatModel",
    "ReplayPolicy",
    "Sampling",
    "Scene",
    "Step",
    "StopReason",
    "ToolCall",
    "ToolProtocol",
    "ToolUse",
    "Trajectory",
    "VisualAgent",
    "build_graph",
    "completed_steps",
    "get_protocol",
    "guess_protocol",
    "load_recipe",
    "protocol_tools",
    "question",
]
