"""Whether the embedded pair does on a GPU what it does on the CPU; a part of `gpu.py`."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from visreplay.agent import Sampling, VisualAgent
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.protocols import choose_recipe, get_protocol
from visreplay.replay_core import Method, ModelPair, ReplaySession, Segment, embedded_config
from visreplay.tasks.analysis.prompt import Prompt
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Sample, Split
from visreplay.tools import ImageStore

TASK = "visual-search-medium"


def scene(number: int) -> Sample:
    """Return a held-out sample."""
    return get_task(TASK).sample(Split.HELD_OUT + number)


def segment(pair: ModelPair, number: int) -> Segment:
    """Encode a held-out picture with its question."""
    return Prompt.of(scene(number), "embedded", pair).segment


def positions(pair: ModelPair, on_cpu: ModelPair, scenes: int) -> Iterator[dict[str, Any]]:
    """Compare the positions that the methods choose with those on the CPU, and the divergence."""
    for method in (Method.TOKEN, Method.STATE):
        same = total = 0
        largest = 0.0
        for number in range(scenes):
            found = [chosen(each, segment(on_cpu, number), method) for each in (pair, on_cpu)]
            (masks, kl), (expected, expected_kl) = found
            same += int((masks == expected).sum())
            total += masks.numel()
            largest = max(largest, abs(kl - expected_kl))
        yield {
            "what": f"{method} replay as on the CPU",
            "pictures": scenes,
            "equal positions": f"{same} of {total}",
            "largest difference of the KL": largest,
        }


def chosen(pair: ModelPair, new: Segment, method: Method) -> tuple[Tensor, float]:
    """Return the positions that a method works on, and the divergence after it."""
    with ReplaySession(pair, embedded_config(method)) as session:
        session.append(new)
        block = session.blocks[0]
    mask_LT = block.chosen_LT if block.replaced_LT is None else block.replaced_LT
    return mask_LT, block.kl_after or 0.0


def episodes(pair: ModelPair, on_cpu: ModelPair, scenes: int) -> Iterator[dict[str, Any]]:
    """Compare the texts that the policy writes in whole episodes, greedy."""
    for method in Method:
        found, expected = (texts(each, method, scenes) for each in (pair, on_cpu))
        same = sum(ours == theirs for ours, theirs in zip(found, expected, strict=True))
        yield {
            "what": f"episodes as on the CPU, method {method}",
            "equal texts": f"{same} of {scenes}",
        }


def texts(pair: ModelPair, method: Method, scenes: int) -> list[Sequence[str]]:
    """Play an episode of each scene, and return the texts of its turns."""
    recipe = choose_recipe("embedded", "embedded", None)
    protocol = get_protocol(recipe, token_grid(pair.processor), ImageStore())
    agent = VisualAgent(
        pair, protocol, embedded_config(method), sampling=Sampling(max_new_tokens=128)
    )
    played = (agent.run(each.question, images=each.images) for each in map(scene, range(scenes)))
    return [[step["text"] for step in trajectory.steps] for trajectory in played]
