"""The command `visreplay merge`: the weighted mean of base and policy as a checkpoint."""

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


def merge(
    policy: PolicyArgument,
    base: BaseArgument,
    out: OutArgument,
    weight: Annotated[
        float,
        typer.Option(
            help="Weight of the base in the mean, from 0 (the policy) to 1 (the base).",
            show_default=False,
        ),
    ],
) -> None:
    """Write the weighted mean of base and policy as one checkpoint.

    Every tensor is WEIGHT * base + (1 - WEIGHT) * policy, computed in float32. Configuration,
    tokenizer, processor and data type are the policy's. A baseline beside replay, which any engine
    serves.

    Memory is that of one file of weights. If the command is interrupted, there is no OUT.
    """
    from visreplay.replay_core.graft import plan_merge

    check_vacant(out)
    write_checkpoint(Console(highlight=False), plan_merge(policy, base, weight), out)
