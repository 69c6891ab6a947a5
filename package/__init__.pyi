from .agent.episode.visual_agent import VisualAgent
from .agent.langchain.chat_model import ReplayChatModel
from .replay_core.config import ReplayConfig
from .replay_core.loading import load_pair
from .replay_core.session import ReplaySession

__version__: str

__all__ = [
    "ReplayChatModel",
    "ReplayConfig",
    "ReplaySession",
    "VisualAgent",
    "__version__",
    "load_pair",
]
