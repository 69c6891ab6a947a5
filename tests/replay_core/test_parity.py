"""The product beside the authors' released algorithm in its own form (`support/released.py`).

One whole image, or one whole conversation, in float32. Alignment "reference" is their code as it
was released; "same" is theirs with the policy's states moved by one layer.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from unittest.mock import patch

import builders
import pytest
import torch
from released import ReleasedTokenReplay, released_state_replay
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from visreplay.replay_core import EMBEDDED, ModelPair, ReplayConfig, ReplaySession, Segment, methods
from visreplay.replay_core.replay import Offset, token_replay
from visreplay.tasks.analysis.prompt import Prompt
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Split

SHIFTS = {"reference": 0, "same": 1}
PROMPT: tuple[Any, ...] = (5, ("image", (1, 8, 8), 3), 4)


@dataclass(frozen=True)
class Case:
    """Both models whole, a pair of them, and a prompt."""

    policy: Any
    base: Any
    pair: ModelPair
    segment: Segment
    inputs: dict[str, Any]
    image_token: int


@cache
def random_case(seed: int, vision_noise: float = 0.0, layers: int = 6) -> Case:
    kwargs: dict[str, Any] = {"seed": seed, "layers": layers}
    policy = builders.model(noise=0.02, vision_noise=vision_noise, **kwargs)
    pair = ModelPair.of(
        builders.model(noise=0.02, vision_noise=vision_noise, **kwargs),
        builders.model(**kwargs),
        builders.Processor(),
    )
    prompt = (*PROMPT[:1], ("image", (1, 8, 8), seed), *PROMPT[2:])
    return Case(
        policy,
        builders.model(**kwargs),
        pair,
        builders.segment(*prompt),
        builders.inputs(*prompt),
        builders.IMAGE,
    )


@cache
def embedded_case(sample: int) -> Case:
    from visreplay.replay_core import load_pair

    policy, base = (
        Qwen2_5_VLForConditionalGeneration.from_pretrained(EMBEDDED / name).eval()
        for name in ("policy", "base")
    )
    pair = load_pair("embedded", device="cpu")
    task = get_task("visual-search-medium")
    segment = Prompt.of(task.sample(Split.TUNING + sample), "embedded", pair).segment
    (block,) = segment.blocks
    ids_1T = segment.token_ids[None]
    image_token = policy.config.image_token_id
    inputs = {
        "input_ids": ids_1T,
        "mm_token_type_ids": (ids_1T == image_token).int(),
        **block.inputs,
    }
    return Case(policy, base, pair, segment, inputs, image_token)


CASES: dict[str, tuple[Any, float, int]] = {
    **{f"random {seed}": (lambda seed=seed: random_case(seed), 0.97, 3) for seed in range(4)},
    "other vision": (lambda: random_case(5, 0.02), 0.97, 4),
    "all tokens": (lambda: random_case(6), 1.0, 6),
    "embedded 0": (lambda: embedded_case(0), 0.8, 2),
    "embedded 1": (lambda: embedded_case(1), 0.9, 3),
    "embedded, all tokens": (lambda: embedded_case(2), 1.0, 2),
}


def replayed(
    case: Case, config: ReplayConfig, pair: ModelPair | None = None
) -> tuple[ReplaySession, Offset]:
    """A session with the prompt, and the offset that it found."""
    offsets = []

    def spy(*args: Any) -> Any:
        offset, path = token_replay(*args)
        offsets.append(offset)
        return offset, path

    session = ReplaySession(pair or case.pair, config)
    with patch.object(methods, "token_replay", spy):
        session.append(case.segment)
    return session, offsets[0]


def assert_parity(
    case: Case, authors: ReleasedTokenReplay, config: ReplayConfig, pair: ModelPair | None = None
) -> None:
    """Masks, entropies, losses, gradient, offset and answer within 1e-4, relatively."""
    logits = authors.run(config.steps)
    session, offset = replayed(case, config, pair)
    (record,) = session.blocks
    assert torch.equal(record.chosen_LT[authors.layers], torch.stack(authors.masks))
    entropies = torch.stack(authors.entropies)
    torch.testing.assert_close(record.entropy_LT[authors.layers], entropies, rtol=1e-4, atol=1e-5)
    # Ours is the mean over the layers with a set; theirs the sum, divided by the tokens.
    layers = int(record.chosen_LT.any(dim=1).sum())
    losses = torch.tensor(record.kl_path) * layers / record.length
    torch.testing.assert_close(losses, torch.stack(authors.losses), rtol=1e-4, atol=1e-7)
    _, one = replayed(case, replace(config, steps=1), pair)
    assert authors.gradient is not None and authors.delta is not None
    assert relative(-one.delta_TD / config.rate, authors.gradient) < 1e-4
    assert relative(offset.delta_TD, authors.delta.detach()) < 1e-4
    assert relative(session.next_logits, logits) < 1e-4
    assert int(session.next_logits.argmax()) == int(logits.argmax())


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("alignment", SHIFTS)
@pytest.mark.parametrize("name", CASES)
def test_token_replay_is_the_released_one(name: str, alignment: Any) -> None:
    make, tau, layers = CASES[name]
    case = make()
    config = ReplayConfig.paper(alignment=alignment, replay_layers=layers, tau=tau)
    authors = ReleasedTokenReplay(
        case.base,
        case.policy,
        case.inputs,
        case.image_token,
        range(layers),
        tau,
        SHIFTS[alignment],
    )
    assert_parity(case, authors, config)


def test_the_papers_settings_are_the_released_objective() -> None:
    """`ReplayConfig.paper()`, with no alignment named."""
    case = random_case(0)
    config = ReplayConfig.paper(replay_layers=3, tau=0.97)
    authors = ReleasedTokenReplay(
        case.base, case.policy, case.inputs, case.image_token, range(3), 0.97, shift=0
    )
    assert (config.steps, config.rate) == (25, authors.rate)
    assert_parity(case, authors, config)


@pytest.mark.parametrize("alignment", SHIFTS)
def test_swapped_roles_are_the_released_ones(alignment: Any) -> None:
    case = random_case(1)
    config = ReplayConfig.paper(alignment=alignment, replay_layers=3, tau=0.97, swap_roles=True)
    authors = ReleasedTokenReplay(
        case.policy, case.base, case.inputs, case.image_token, range(3), 0.97, SHIFTS[alignment]
    )
    assert_parity(case, authors, config)


@pytest.mark.parametrize("alignment", SHIFTS)
def test_the_middle_layer_is_the_released_one(alignment: Any) -> None:
    """One layer: the offset enters there, and is compared there."""
    case = random_case(2)
    config = ReplayConfig.paper(alignment=alignment, replay_layers=4, entry_layer=3, tau=0.97)
    authors = ReleasedTokenReplay(
        case.base,
        case.policy,
        case.inputs,
        case.image_token,
        range(3, 4),
        0.97,
        SHIFTS[alignment],
        entry=3,
    )
    assert_parity(case, authors, config)


def test_with_nothing_below_the_limit_both_do_nothing() -> None:
    case = random_case(3)
    config = ReplayConfig.paper(replay_layers=3, tau=0.01)
    authors = ReleasedTokenReplay(
        case.base, case.policy, case.inputs, case.image_token, range(3), 0.01, shift=0
    )
    logits = authors.run(0)
    session, offset = replayed(case, config)
    assert not torch.stack(authors.masks).any() and not session.blocks[0].chosen_LT.any()
    assert not offset.delta_TD.any()
    assert relative(session.next_logits, logits) < 1e-4


def test_most_of_the_released_loss_is_there_without_rlvr() -> None:
    """With the base in the policy's place the released objective is not zero; ours is."""
    case = embedded_case(0)
    losses = {}
    for shift in (0, 1):
        for student in (case.policy, case.base):
            authors = ReleasedTokenReplay(
                case.base, student, case.inputs, case.image_token, range(2), 0.8, shift
            )
            authors.run(1)
            losses[shift, student is case.base] = float(authors.losses[0])
    assert losses[0, True] > 0.9 * losses[0, False]
    assert losses[1, True] == pytest.approx(0, abs=1e-7)
    assert losses[0, False] > 20 * losses[1, False]


THETA = (4.75, 4.74, 4.78)


def state_logits(case: Case, config: ReplayConfig, *parts: Any) -> tuple[Tensor, list[int]]:
    """The next token's logits after some segments, with 8 generated tokens between each two."""
    with ReplaySession(case.pair, config) as session:
        for index, part in enumerate(parts):
            if index:
                session.extend_generated(builders.segment(8).token_ids.tolist())
            session.append(part)
        return session.next_logits, session.token_ids


@pytest.mark.parametrize("alignment", SHIFTS)
@pytest.mark.parametrize("seed", range(3))
def test_state_replay_is_the_released_one(seed: int, alignment: Any) -> None:
    case = random_case(seed)
    config = ReplayConfig.paper("state", alignment=alignment, state_layers=3, theta=THETA)
    logits, mask = released_state_replay(
        case.policy, case.base, case.inputs, THETA, SHIFTS[alignment]
    )
    with ReplaySession(case.pair, config) as session:
        session.append(case.segment)
        (record,) = session.blocks
        assert record.replaced_LT is not None
        assert torch.equal(record.replaced_LT, mask[:, record.start : record.stop])
        assert mask.any() and not mask.all()
        assert relative(session.next_logits, logits) < 1e-4


def test_state_replay_edits_generated_tokens_on_later_turns_as_released() -> None:
    """In the reference's alignment; in the other one they stay as they were decoded."""
    case = random_case(0)
    second: tuple[Any, ...] = (2, ("image", (1, 4, 8), 9), 3)
    turns = (case.segment, builders.segment(*second))
    whole = builders.inputs(5, ("image", (1, 8, 8), 0), 4, 8, *second)
    config = ReplayConfig.paper("state", state_layers=3, theta=THETA)
    ours, ids = state_logits(case, config, *turns)
    whole["input_ids"] = torch.tensor([ids])
    theirs, mask = released_state_replay(case.policy, case.base, whole, THETA, shift=0)
    generated = slice(len(case.segment), len(case.segment) + 8)
    assert mask[:, generated].any()
    assert relative(ours, theirs) < 1e-4
    ours, _ = state_logits(case, replace(config, alignment="same"), *turns)  # type: ignore[arg-type]
    theirs, _ = released_state_replay(case.policy, case.base, whole, THETA, shift=1)
    assert relative(ours, theirs) > 1e-3
