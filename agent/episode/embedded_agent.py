"""The agent on the embedded pair, for the demo and the measurements."""

from typing import Any

import torch
from transformers.utils import logging

from visreplay.agent.episode.visual_agent import VisualAgent
from visreplay.agent.policy.sampling import Sampling
from visreplay.replay_core import Method
from visreplay.replay_core.embedded_pair import EMBEDDED_PAIRS
from visreplay.replay_core.tuned import tuned_config
from visreplay.tools import ImageStore

ROWS: dict[str, tuple[str, Method]] = {
    "base": ("base", Method.NONE),
    "policy": ("policy", Method.NONE),
    "policy+token": ("policy", Method.TOKEN),
    "policy+state": ("policy", Method.STATE),
}
"""The compared systems: which model answers, and how it is replayed."""


def prepare_process() -> None:
    """Set a process up for the embedded pair: one thread, and no output from transformers.

    The pair is so small that a second thread gains nothing; on a busy machine it costs minutes.
    """
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def embedded_agent(
    row: str,
    store: ImageStore | None = None,
    *,
    pair: str = "embedded",
    temperature: float = 0.0,
    **changes: Any,
) -> VisualAgent:
    """Build the agent of one of the compared systems on a pair that ships with the package.

    Args:
        row: A key of `ROWS`.
        store: Where its images are kept.
        pair: A key of `EMBEDDED_PAIRS`.
        temperature: Sampling temperature.
        **changes: Fields of the `ReplayConfig` that differ from the pair's own settings.
    """
    model, method = ROWS[row]
    embedded = EMBEDDED_PAIRS[pair]
    return VisualAgent.from_pretrained(
        str(embedded.folder / model),
        str(embedded.base),
        protocol="embedded",
        replay=tuned_config(embedded.settings, method, **changes),
        store=store,
        device="cpu",
        names=(f"{pair} {model}", None if method is Method.NONE else embedded.names[1]),
        sampling=Sampling(temperature, max_new_tokens=128),
    )
