"""Counted instead of timed: FLOPs and bytes at the proportions of a 7B model, on the meta device.

The number of entropies that state replay reads depends on the data. By the quantile rule at
tau = 0.4, four positions in ten are low. With a sketch, the embedded pair shows how many entropies
are read a second time, and how often the masks agree.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from rows import Row
from sizes import SEVEN_B, meta_pair
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from visreplay.replay_core import (
    Method,
    ModelPair,
    ReplayConfig,
    ReplaySession,
    Segment,
    embedded_config,
    load_pair,
)
from visreplay.replay_core.lens import Lens
from visreplay.replay_core.model_run import ModelRun
from visreplay.tasks.analysis.prompt import Prompt
from visreplay.tasks.registry import get_task
from visreplay.tasks.statistics import bootstrap_interval
from visreplay.tasks.types import Split

LAYERS, TOKENS = 7, 1024
TAU = 0.4
RANK_SHARE = 8
"""The sketch's rank is the hidden size divided by this."""


def weights() -> Iterator[Row]:
    """Count the bytes of policy and base that share no language weights."""
    pair = meta_pair(SEVEN_B)
    assert pair.base is not None
    pair.base.keep_layers(LAYERS)
    pair.base.drop_vision()
    policy, base = (
        sum(weight.nbytes for weight in adapter.model.parameters())
        for adapter in (pair.policy, pair.base)
    )
    ratio = (policy + base) / policy
    note = f"({policy / 1e9:.3g} + {base / 1e9:.3g}) GB / {policy / 1e9:.3g} GB in bfloat16"
    name = "resident weights, policy + base / policy, 7 of 28 layers"
    yield Row(name, ratio, ratio, ratio, 1.35, True, note)


@dataclass(frozen=True)
class Sketched:
    """A sketch on the embedded pair, compared with exact reading.

    Attributes:
        agreement: Share of positions and layers with the same mask, for each picture.
        overlap: Share of the positions in either mask that are in both, for each picture.
        base_again: Share of all positions whose base entropy was read exactly too.
        policy_again: Share of the low positions whose policy entropy was read exactly too.
    """

    agreement: list[float]
    overlap: list[float]
    base_again: float
    policy_again: float


@cache
def sketched(samples: int = 100) -> Sketched:
    """Replay states on held-out pictures of the embedded pair, exactly and with a sketch."""
    pair = load_pair("embedded", device="cpu")
    config = embedded_config(Method.STATE, tau=TAU)
    fitted = pair.sketched(
        [picture(pair, Split.TUNING + i) for i in range(8)],
        layers=config.depth,
        rank=pair.policy.head.in_features // RANK_SHARE,
        config=config,
    )
    agreement, overlap, rows = [], [], Counter[str]()
    for seed in range(Split.HELD_OUT, Split.HELD_OUT + samples):
        part = picture(pair, seed)
        exact = replaced(pair, config, part)
        with rows_read(fitted, rows):
            ours = replaced(fitted, config, part)
        agreement.append(float((exact == ours).float().mean()))
        overlap.append(float((exact & ours).sum() / (exact | ours).sum().clamp_min(1)))
    return Sketched(
        agreement,
        overlap,
        base_again=rows["base"] / rows["base, cheaply"],
        policy_again=rows["policy"] / rows["policy, cheaply"],
    )


def picture(pair: ModelPair, seed: int) -> Segment:
    """Make the question of a medium scene, up to the end of its picture, for the embedded pair."""
    whole = Prompt.of(get_task("visual-search-medium").sample(seed), "embedded", pair).segment
    return Segment(whole.token_ids[: whole.blocks[0].stop], whole.blocks)


def replaced(pair: ModelPair, config: ReplayConfig, segment: Segment) -> Tensor:
    """Return the mask `(L, T)` of the positions in the picture that state replay replaced."""
    with ReplaySession(pair, config) as session:
        session.append(segment)
        mask_LT = session.blocks[0].replaced_LT
    assert mask_LT is not None
    return mask_LT


@contextmanager
def rows_read(pair: ModelPair, rows: Counter[str]) -> Iterator[None]:
    """Count the positions that every lens of a sketched pair reads."""
    assert pair.sketch is not None
    cheap = {
        id(pair.sketch.base.lens.norm): "base, cheaply",
        id(pair.sketch.policy.lens.norm): "policy, cheaply",
    }
    read: Callable[..., Any] = Lens.read

    def counting(lens: Lens, hidden_ND: Tensor, top_k: int | None = None) -> Any:
        exact = "policy" if lens.head is pair.policy.head else "base"
        rows[cheap.get(id(lens.norm), exact)] += len(hidden_ND)
        return read(lens, hidden_ND, top_k)

    with patch.object(Lens, "read", counting):
        yield


def agreement() -> Iterator[Row]:
    """Measure how often a sketched mask of state replay equals the exact one."""
    result = sketched()
    name = "sketched masks that agree with exact ones, embedded pair"
    note = (
        f"n = {len(result.agreement)} pictures; read exactly too: {result.base_again:.1%} of the "
        f"base's entropies, {result.policy_again:.1%} of the policy's"
    )
    yield mean_row(name, result.agreement, 0.99, note)
    # Most positions are far from both limits, which makes the share above look high.
    name = "positions that both masks replace, of those that either does"
    yield mean_row(name, result.overlap, None, f"n = {len(result.overlap)} pictures")


def mean_row(name: str, values: list[float], target: float | None, note: str) -> Row:
    """Make the row of a mean over pictures, with its interval."""
    low, high = (float(end) for end in bootstrap_interval(np.array(values)))
    return Row(name, fmean(values), low, high, target, note=note)


def flops() -> Iterator[Row]:
    """Compare state replay with a plain prefill after equally many tokens, to the next logits."""
    plain = _layers(policy=True)
    backbones = plain + 2 * _layers(policy=False)
    exact = backbones + LAYERS * (_read(TOKENS) + _read(TAU * TOKENS))
    name = "state replay / plain prefill, FLOPs at 7B"
    yield _flop_row(f"{name}, exact", exact, plain, 3)
    result, low = sketched(), TAU * TOKENS
    cheap = _read(TOKENS, cheap=True) + _read(low, cheap=True)
    again = _read(result.base_again * TOKENS) + _read(result.policy_again * low)
    yield _flop_row(f"{name}, sketched", backbones + LAYERS * (cheap + again), plain, 1.8)


def _flop_row(name: str, ours: float, plain: float, target: float) -> Row:
    note = f"{ours / 1e12:.4g} / {plain / 1e12:.4g} TFLOP for {TOKENS:,} tokens"
    return Row(name, ours / plain, ours / plain, ours / plain, target, True, note)


@torch.no_grad()
def _layers(*, policy: bool) -> float:
    """Count the FLOPs of the policy up to the next token's logits, or of the first layers alone."""
    adapter = meta_pair(SEVEN_B).policy
    run = ModelRun(adapter, adapter.depth if policy else LAYERS, ReplayConfig())
    tokens_T = torch.zeros(TOKENS, dtype=torch.long)
    for start in (0, TOKENS):
        with FlopCounterMode(display=False) as counter:
            positions_3T = adapter.text_positions(TOKENS, start)
            hidden_TD = run.advance(adapter.embed(tokens_T), positions_3T)
            if policy:
                run.lens.logits(hidden_TD[-1:])
    return float(counter.get_total_flops())


@torch.no_grad()
def _read(rows: float, *, cheap: bool = False) -> float:
    """Count the FLOPs of reading the entropies of one layer at some positions."""
    width = SEVEN_B.hidden // RANK_SHARE if cheap else SEVEN_B.hidden
    head = nn.Linear(width, SEVEN_B.vocabulary, bias=False, device="meta")
    norm = nn.Linear(SEVEN_B.hidden, width, bias=False, device="meta") if cheap else nn.Identity()
    hidden_ND = torch.empty(round(rows), SEVEN_B.hidden, device="meta")
    with FlopCounterMode(display=False) as counter:
        Lens(norm, head, 2**28).read(hidden_ND)
    return float(counter.get_total_flops())
