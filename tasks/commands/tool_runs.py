"""The runs of `visreplay eval --tools`: without and with tools, each without and with replay."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from visreplay.agent.protocols import Recipe
from visreplay.replay_core.config import Method, ReplayConfig
from visreplay.tasks.commands.console import Console
from visreplay.tasks.evaluation.runs import IMAGES, Run
from visreplay.tasks.evaluation.tool_effects import effect_tables, tool_effects
from visreplay.tools import ImageStore
from visreplay.tools.disk import write_file

if TYPE_CHECKING:
    from visreplay.agent import Agent

EFFECTS = "tools.json"
"""The file with the tables' numbers and the ids of their samples."""


class Tools(StrEnum):
    """The tools that the policy is offered."""

    ALL = "all"
    NONE = "none"
    BOTH = "none,all"


@dataclass(frozen=True)
class Cell:
    """One run of a command.

    Attributes:
        out: Its folder.
        config: How to replay.
        recipe: The recipe, with or without tools.
    """

    out: Path
    config: ReplayConfig
    recipe: Recipe

    def agent(self, loaded: "Agent", store: ImageStore | None = None) -> "Agent":
        """Make the agent of this run on the policy of another one, which may be this run's own.

        Args:
            loaded: The other agent.
            store: Where images are kept; None takes the run's folder.
        """
        store, protocol = store or ImageStore(self.out / IMAGES), loaded.protocol
        if store.root and (store.root, self.config, self.recipe) == (
            loaded.store.root,
            loaded.replay,
            protocol.recipe,
        ):
            return loaded
        own = replace(protocol, recipe=self.recipe, store=store)
        return loaded.changed(own, self.config)


def plan_runs(tools: Tools, out: Path, config: ReplayConfig, recipe: Recipe) -> list[Cell]:
    """List the runs of a command: one, or those of the table, row by row.

    Args:
        tools: What the policy is offered.
        out: The folder of the run, or of the runs' folders.
        config: How to replay.
        recipe: The recipe with tools.

    Raises:
        ConfigError: The recipe has no texts without tools, and they are needed.
    """
    if tools is Tools.ALL:
        return [Cell(out, config, recipe)]
    bare = recipe.without_tools()
    if tools is Tools.NONE:
        return [Cell(out, config, bare)]
    plain = replace(config, method=Method.NONE)
    rows = {"plain" if each.method is Method.NONE else str(each.method): each
            for each in (plain, config)}  # fmt: skip
    return [
        Cell(out / f"{name}-{tools_name}", each, given)
        for name, each in rows.items()
        for tools_name, given in (("without-tools", bare), ("with-tools", recipe))
    ]


def sharing_policy(load: "Callable[[], Agent]") -> "Callable[[Cell], Agent]":
    """Make the agents of several runs on one policy, which is loaded when the first is needed.

    Args:
        load: Loads the policy, for replay too, and makes any agent on it.
    """
    loaded: list[Agent] = []

    def agent_of(cell: Cell) -> "Agent":
        if not loaded:
            loaded.append(load())
        return cell.agent(loaded[0])

    return agent_of


def show_effects(console: Console, out: Path, runs: Sequence[Run]) -> None:
    """Print what tools changed, and write it to a file.

    Args:
        console: Where to print.
        out: The folder of the file.
        runs: The runs in the order of `plan_runs`.

    Raises:
        ValueError: The runs have no scored sample in common.
        DiskError: The file cannot be written.
    """
    effects = tool_effects(list(zip(runs[::2], runs[1::2], strict=True)))
    for table in effect_tables(effects):
        table.show(console)
    for line in effects.warnings:
        console.print(line, style="yellow", markup=False, soft_wrap=True)
    write_file(out / EFFECTS, json.dumps(effects.to_json(), indent=1).encode())
    console.print(f"numbers   {out / EFFECTS}", markup=False, soft_wrap=True)
