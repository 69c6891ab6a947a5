"""What all tests share: the embedded pair, loaded once, on one thread."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from shared import MakeAgent
from transformers.utils import logging
from web import Server, serving

from visreplay.agent import Limits, Sampling, VisualAgent, get_protocol
from visreplay.agent.policy.encoder import token_grid
from visreplay.replay_core import Method, ModelPair, embedded_config, load_pair
from visreplay.tools import ImageStore

torch.set_num_threads(1)
settings.register_profile("fuzz")
logging.disable_progress_bar()


@pytest.fixture(scope="session")
def embedded_pair() -> ModelPair:
    return load_pair("embedded", device="cpu")


@pytest.fixture
def make_agent(embedded_pair: ModelPair) -> MakeAgent:
    """Makes agents on the embedded pair."""

    def make(
        method: Method = Method.TOKEN,
        *,
        protocol: str = "embedded",
        store: ImageStore | None = None,
        limits: Limits = Limits(),
        max_new_tokens: int = 96,
        temperature: float = 0.0,
        checkpointer: object = None,
        **changes: object,
    ) -> VisualAgent:
        grid = token_grid(embedded_pair.processor)
        return VisualAgent(
            embedded_pair,
            get_protocol(protocol, grid, ImageStore() if store is None else store),
            embedded_config(method, **changes),
            sampling=Sampling(temperature, max_new_tokens=max_new_tokens),
            limits=limits,
            checkpointer=checkpointer,  # type: ignore[arg-type]
        )

    return make


@pytest.fixture
def server() -> Iterator[Server]:
    """A web server on this machine."""
    with serving(Server()) as server:
        yield server
