"""How each policy calls tools, reads observations and answers: one file for each protocol."""

from pathlib import Path

from visreplay.agent.protocols.base import ToolProtocol
from visreplay.agent.protocols.boxed import BoxedProtocol
from visreplay.agent.protocols.deepeyes import DeepEyesProtocol
from visreplay.agent.protocols.embedded import EmbeddedProtocol
from visreplay.agent.protocols.hermes import HermesProtocol
from visreplay.agent.protocols.mini_o3 import MiniO3Protocol
from visreplay.agent.protocols.pixel_reasoner import PixelReasonerProtocol
from visreplay.agent.protocols.qwen3_vl import Qwen3VLProtocol
from visreplay.agent.protocols.recipe import Recipe
from visreplay.agent.protocols.recipe_files import RECIPES, checkpoints, load_recipe
from visreplay.agent.protocols.turns import MAX_TURN_CHARACTERS, ObservationPosition, ParsedTurn
from visreplay.agent.protocols.video_r1 import VideoR1Protocol
from visreplay.agent.protocols.wording import Question
from visreplay.replay_core.embedded_pair import EMBEDDED_PAIRS
from visreplay.replay_core.errors import ConfigError
from visreplay.tools import ImageStore, TokenGrid

__all__ = [
    "MAX_TURN_CHARACTERS",
    "PROTOCOLS",
    "RECIPES",
    "BoxedProtocol",
    "DeepEyesProtocol",
    "EmbeddedProtocol",
    "HermesProtocol",
    "MiniO3Protocol",
    "ObservationPosition",
    "ParsedTurn",
    "PixelReasonerProtocol",
    "Question",
    "Qwen3VLProtocol",
    "Recipe",
    "ToolProtocol",
    "VideoR1Protocol",
    "choose_recipe",
    "get_protocol",
    "guess_protocol",
    "load_recipe",
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
"""Every protocol by its name. Each has a recipe of the same name, which is its default."""


def get_protocol(recipe: str | Path | Recipe, grid: TokenGrid, store: ImageStore) -> ToolProtocol:
    """Make a protocol.

    Args:
        recipe: What it says: a recipe, the path of its file, or the name of one that ships (the
            protocol's own name, for example).
        grid: The token grid of the model's processor.
        store: The store of the images that tools make.

    Raises:
        ConfigError: There is no such recipe, it is written for no protocol that there is, or it
            sets what means nothing in its protocol.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    if recipe.protocol not in PROTOCOLS:
        raise ConfigError(
            f"the recipe {recipe.name}: protocol is {recipe.protocol!r}, but there are "
            f"{', '.join(PROTOCOLS)}"
        )
    protocol = PROTOCOLS[recipe.protocol]
    recipe.check_unused(protocol.unused)
    return protocol(recipe.pixels.grid(grid), store, recipe)


def choose_recipe(
    policy: str, protocol: str = "auto", recipe: str | Path | Recipe | None = None
) -> Recipe:
    """Choose the recipe of a checkpoint.

    Args:
        policy: Folder, hub id, or a name of the embedded policy.
        protocol: A key of `PROTOCOLS`; "auto" takes the recipe's or, without one, the protocol that
            suits the policy's name.
        recipe: A recipe, the path of its file, or the name of one that ships; None takes the one
            that ships for the policy's name, or else for the protocol.

    Raises:
        ConfigError: There is no such recipe or protocol, or the two contradict each other.
    """
    if recipe is None:
        guessed = _guess(policy)
        if protocol in ("auto", load_recipe(guessed).protocol):
            return load_recipe(guessed)
        if protocol not in PROTOCOLS:
            raise ConfigError(
                f"there is no protocol {protocol!r}; there are {', '.join(PROTOCOLS)}"
            )
        return load_recipe(protocol)
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    if protocol not in ("auto", recipe.protocol):
        raise ConfigError(
            f"the protocol is {protocol!r}, but the recipe {recipe.name} is written for "
            f"{recipe.protocol!r}: leave the protocol out"
        )
    return recipe


def guess_protocol(policy: str) -> str:
    """Guess the protocol of a checkpoint by its name; "hermes" if the name tells nothing.

    Args:
        policy: Folder, hub id, or a name of the embedded policy. Only the last part of a path
            counts, and of it only letters and digits.
    """
    return load_recipe(_guess(policy)).protocol


def _guess(policy: str) -> str:
    """Guess the recipe of a checkpoint by its name."""
    if any(policy in (pair.name, pair.names[0]) for pair in EMBEDDED_PAIRS.values()):
        return EmbeddedProtocol.name
    policy = "".join(filter(str.isalnum, Path(policy).name.casefold()))
    for name, parts in checkpoints().items():
        if any(part in policy for part in parts):
            return name
    return HermesProtocol.name
