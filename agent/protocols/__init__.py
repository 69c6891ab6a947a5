"""How each policy calls tools, reads observations and answers: one file for each protocol."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from visreplay.agent.protocols.base import (
    MAX_TURN_CHARACTERS,
    ObservationPosition,
    ParsedTurn,
    ToolProtocol,
)
from visreplay.agent.protocols.boxed import BoxedProtocol
from visreplay.agent.protocols.deepeyes import DeepEyesProtocol
from visreplay.agent.protocols.embedded import EmbeddedProtocol
from visreplay.agent.protocols.hermes import HermesProtocol
from visreplay.agent.protocols.mini_o3 import MiniO3Protocol
from visreplay.agent.protocols.pixel_reasoner import PixelReasonerProtocol
from visreplay.agent.protocols.qwen3_vl import Qwen3VLProtocol
from visreplay.agent.protocols.video_r1 import VideoR1Protocol
from visreplay.replay_core.embedded_pair import EMBEDDED_NAMES
from visreplay.tools import ImageStore, TokenGrid

__all__ = [
    "MAX_TURN_CHARACTERS",
    "PROTOCOLS",
    "BoxedProtocol",
    "DeepEyesProtocol",
    "EmbeddedProtocol",
    "HermesProtocol",
    "MiniO3Protocol",
    "ObservationPosition",
    "ParsedTurn",
    "PixelReasonerProtocol",
    "Qwen3VLProtocol",
    "ToolProtocol",
    "VideoR1Protocol",
    "choose_protocol",
    "get_protocol",
    "guess_protocol",
]

PROTOCOLS: dict[str, type[ToolProtocol]] = {
    protocol.name: protocol
    for protocol in (
        EmbeddedProtocol,
        DeepEyesProtocol,
        VideoR1Protocol,
        BoxedProtocol,
        PixelReasonerProtocol,
        MiniO3Protocol,
        Qwen3VLProtocol,
        HermesProtocol,
    )
}
"""Every protocol by its name."""


def get_protocol(name: str, grid: TokenGrid, store: ImageStore, **options: Any) -> ToolProtocol:
    """Make the protocol of a name.

    Args:
        name: A key of `PROTOCOLS`.
        grid: The model's token grid.
        store: The store of the images that tools make.
        **options: Fields of the protocol.

    Raises:
        ValueError: There is no such protocol, or it has no such option.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"there is no protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    known = {field.name for field in fields(PROTOCOLS[name])}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(f"the {name} protocol has no option {unknown[0]!r}")
    return PROTOCOLS[name](grid, store, **options)


def choose_protocol(name: str, policy: str) -> str:
    """Return the name of a protocol; for "auto" the one that suits the policy's name."""
    return guess_protocol(policy) if name == "auto" else name


def guess_protocol(policy: str) -> str:
    """Guess the protocol of a checkpoint by its name; "hermes" if the name tells nothing.

    Args:
        policy: Folder, hub id, or a name of the embedded policy. Only the last part of a path
            counts, and of it only letters and digits.
    """
    if policy in (EmbeddedProtocol.name, EMBEDDED_NAMES[0]):
        return EmbeddedProtocol.name
    policy = "".join(filter(str.isalnum, Path(policy).name.casefold()))
    for name, protocol in PROTOCOLS.items():
        if any(part in policy for part in protocol.checkpoints):
            return name
    return HermesProtocol.name
