from collections.abc import Iterator

import builders
import pytest
import torch

from visreplay.replay_core import ModelPair


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny matrices are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pair() -> ModelPair:
    return builders.pair()


@pytest.fixture(scope="session", params=builders.FAMILIES)
def any_pair(request: pytest.FixtureRequest) -> ModelPair:
    return builders.pair(request.param)
