"""The agent on the embedded pair, for the demo and the measurements."""

from typing import Any

import torch
from transformers.utils import logging

from visreplay.agent.episode.visual_agent import EMBEDDED_SAMPLING, VisualAgent
from visreplay.agent.policy.sampling import Sampling
from visreplay.replay_core import EMBEDDED, Method, embedded_config
from visreplay.replay_core.embedded_pair import EMBEDDED_NAMES
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
    temperature: float = 0.0,
    **changes: Any,
) -> VisualAgent:
    """Build the agent of one of the compared systems on the embedded pair.

    Args:
        row: A key of `ROWS`.
        store: Where its images are kept.
        temperature: Sampling temperature.
        **changes: Fields of the `ReplayConfig` that differ from the pair's own settings.
    """
    model, method = ROWS[row]
    return VisualAgent.from_pretrained(
        str(EMBEDDED / model),
        str(EMBEDDED / "base"),
        protocol="embedded",
        replay=embedded_config(method, **changes),
        store=store,
        device="cpu",
        names=(f"embedded {model}", None if method is Method.NONE else EMBEDDED_NAMES[1]),
        sampling=Sampling(temperature, max_new_tokens=EMBEDDED_SAMPLING.max_new_tokens),
    )
