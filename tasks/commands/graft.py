"""The command `visreplay graft`: the base's first layers and the policy's rest as a checkpoint."""

from typing import Annotated

import typer

from visreplay.tasks.commands.checkpoint_folder import (
    BaseArgument,
    OutArgument,
    PolicyArgument,
    check_vacant,
    write_checkpoint,
)
from visreplay.tasks.commands.console import Console


def graft(
    policy: PolicyArgument,
    base: BaseArgument,
    out: OutArgument,
    layers: Annotated[
        int,
        typer.Option(
            min=1, help="Number of decoder layers of the base, from the first.", show_default=False
        ),
    ],
    vision: Annotated[
        bool,
        typer.Option(help="Take the base's vision tower, too; or else keep the policy's."),
    ] = True,
) -> None:
    """Write the base's first layers and the policy's rest as one checkpoint.

    It has the base's embedding, vision tower and first layers, and the policy's other layers, LM
    head, configuration, tokenizer, processor and data type. It needs no replay, so that any engine
    serves it: a baseline beside state replay, which would equal it on a prompt if it replaced every
    activation.

    Memory is that of one file of weights. If the command is interrupted, there is no OUT.
    """
    from visreplay.replay_core.graft import plan_graft

    check_vacant(out)
    plan = plan_graft(policy, base, layers, vision=vision)
    write_checkpoint(Console(highlight=False), plan, out)
