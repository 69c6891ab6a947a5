"""Find out what token replay's offset finds: `python benchmarks/offsets.py --pairs DIR`.

Each DIR holds a base and policies, as `recipes/train.py --pair narrow` writes them.
On scenes of the tuning split, greedily, for variants of token replay, of which some are settings
and some are written here alone. Measured are, on the first picture of each scene, the divergence
that is left; how far the features with the offset are from the base's, as a share of how far the
policy's are (1: no nearer; 0: there); the cosine of the offset and the way to the base's features;
and of the episode, whether the thought lists every marker, names the right place, and the answer is
right. What came out of every scene is kept in `benchmarks/results/offsets`.

Axes: L layers that are compared, T tokens of a picture, N chosen tokens, D hidden size, R rank.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import numpy as np
import torch
from perception import perceived
from rich.console import Console
from torch import Tensor

from visreplay.agent import Sampling, VisualAgent
from visreplay.agent.episode.embedded_agent import prepare_process
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.protocols import choose_recipe, get_protocol
from visreplay.replay_core import Method, ModelPair, embedded_config, load_pair, methods
from visreplay.replay_core.cache import KVCache
from visreplay.replay_core.config import ReplayConfig
from visreplay.replay_core.context_state import ContextState
from visreplay.replay_core.families.adapter import Features, ModelAdapter
from visreplay.replay_core.objectives import Divergence, Objective
from visreplay.replay_core.piece import Piece
from visreplay.replay_core.replay import Offset
from visreplay.replay_core.segment import VisualBlock
from visreplay.replay_core.selection import choose, entropy_limits
from visreplay.tasks.analysis.prompt import Prompt
from visreplay.tasks.evaluation.tables import TextTable
from visreplay.tasks.registry import get_task
from visreplay.tasks.statistics import crossed_interval
from visreplay.tasks.types import Sample, Split, ids_of
from visreplay.tools import ImageStore

OUT = Path(__file__).parent / "results" / "offsets"
TASK = get_task("visual-search-medium")
SPAN_SCENES = 40
"""Scenes, of the training split, whose features span what offsets may do."""


class Distance(Objective):
    """The distance of the activations themselves from the base's, beside the lens.

    In units of the base's own mean square, or as 1 minus the cosine. The lens' divergence is
    measured as well, wherever no gradient is wanted.
    """

    def __init__(self, hidden: Sequence[Tensor], lens: Divergence, *, cosine: bool) -> None:
        super().__init__(lens.chosen_LT, lens.lag)
        self.lens, self._cosine = lens, cosine
        self._targets = [each[places] for each, places in zip(hidden, self._places, strict=True)]

    def fresh(self) -> Self:
        """Return the same measurement, not yet begun."""
        twin = super().fresh()
        twin.lens = self.lens.fresh()
        return twin

    def __call__(self, layer: int, rows: slice, hidden_TD: Tensor) -> None:
        """Measure, and read the lens too where nothing is optimised."""
        super().__call__(layer, rows, hidden_TD)
        if not torch.is_grad_enabled():
            self.lens(layer, rows, hidden_TD)

    def _measure(self, layer: int, chosen: slice, hidden_ND: Tensor) -> Tensor:
        target_ND = self._targets[layer][chosen].float()
        if self._cosine:
            return (1 - torch.cosine_similarity(hidden_ND.float(), target_ND)).sum()
        squares_N = (hidden_ND.float() - target_ND).square().mean(dim=1)
        return squares_N.sum() / self._targets[layer].float().square().mean()


def distance_of(
    context: ContextState, piece: Piece, block: VisualBlock, *, cosine: bool
) -> tuple[Objective, Tensor]:
    """Make a `Distance` in the place of the divergence, at the same tokens."""
    config = context.config
    base = context.read_base(piece, top_k=config.top_k, keep_hidden=True)
    limits_L = entropy_limits(base.entropy_LT, config)
    chosen_LT = choose(base.entropy_LT, limits_L, config, len(context.ids))
    lens = Divergence(context.policy_run.lens, base.targets(chosen_LT), chosen_LT, config.lag)
    return Distance(base.hidden, lens, cosine=cosine), base.entropy_LT


def span_of(pair: ModelPair, rank: int) -> Tensor:
    """Compute the directions `(R, D)` in which the features of policy and base differ most."""
    differences = []
    for sample_id in ids_of(TASK.name, range(Split.TRAIN, Split.TRAIN + SPAN_SCENES)):
        prompt = Prompt.of(TASK.load(sample_id), choose_recipe("embedded", "embedded", None), pair)
        policy, base = pair.features(prompt.segment.blocks[0])
        differences.append((base.embeds_TD - policy.embeds_TD).float())
    directions_DD: Tensor = torch.linalg.svd(torch.cat(differences), full_matrices=False).Vh
    return directions_DD[:rank]


def in_span(
    span_RD: Tensor,
    policy: ModelAdapter,
    objective: Objective,
    features: Features,
    positions_3T: Tensor,
    context: KVCache,
    config: ReplayConfig,
    redraw: object = None,
) -> tuple[Offset, list[float]]:
    """Optimise an offset that lies in a span, by its coefficients: otherwise `token_replay`."""
    assert redraw is None and config.entry_layer == 0
    context = context.frozen(objective.depth)
    weights_TR = torch.zeros(len(features), len(span_RD), requires_grad=True)
    scale = float(features.embeds_TD.float().square().mean().sqrt())
    optimizer = torch.optim.Adam([weights_TR], lr=config.rate * scale, betas=(0.5, 0.9))
    path = []
    with torch.enable_grad():
        for _ in range(config.steps):
            objective = objective.fresh()
            seen = Offset(weights_TR @ span_RD, 0).on(features)
            objective.enter(seen)
            policy.run(seen, positions_3T, context, visit=objective)
            optimizer.zero_grad()
            (objective.upscale * objective.loss()).backward()
            optimizer.step()
            path.append(objective.means().detach().mean())
    return Offset((weights_TR @ span_RD).detach(), 0), torch.stack(path).tolist()


@dataclass(frozen=True)
class Variant:
    """A way of replaying.

    Attributes:
        method: The method.
        changes: Settings that differ from the pair's.
        cosine: Compare activations, by the cosine or not, in the place of the lens; None: do not.
        rank: Rank of the span that offsets are kept in; None: they are free.
    """

    method: Method = Method.TOKEN
    changes: tuple[tuple[str, Any], ...] = ()
    cosine: bool | None = None
    rank: int | None = None

    @contextmanager
    def at_work(self, pair: ModelPair) -> Iterator[None]:
        """Put what is written here in the place of the product's, while a block runs."""
        with ExitStack() as stack:
            if self.cosine is not None:
                objective = partial(distance_of, cosine=self.cosine)
                stack.enter_context(patch.object(methods, "objective_of", objective))
            if self.rank is not None:
                optimise = partial(in_span, span_of(pair, self.rank))
                stack.enter_context(patch.object(methods, "token_replay", optimise))
            yield


def _token(**changes: Any) -> Variant:
    return Variant(changes=tuple(changes.items()))


LONG = {"steps": 100, "plateau": 0.0}
DEEP = {"replay_layers": 4, **LONG}
VARIANTS: dict[str, Variant] = {
    "policy": Variant(Method.NONE),
    "token": _token(),
    "token, 25 steps": _token(steps=25, plateau=0.0),
    "token, 100 steps": _token(**LONG),
    "token, 100 steps, all tokens": _token(side="all", **LONG),
    "token, 100 steps, 1 layer": _token(replay_layers=1, **LONG),
    "token, 100 steps, 4 layers": _token(**DEEP),
    "token, 100 steps, 4 layers, all tokens": _token(side="all", **DEEP),
    "token, 100 steps, top 5": _token(top_k=5, **LONG),
    "token, 100 steps, whole vocabulary": _token(top_k=100_000, **LONG),
    "token, 100 steps, whole vocabulary, 4 layers, all tokens": _token(
        top_k=100_000, side="all", **DEEP
    ),
    "token, 100 steps, released alignment": _token(alignment="reference", **LONG),
    "token, 100 steps, enters at layer 1": _token(entry_layer=1, **LONG),
    "activations, L2": replace(_token(**LONG), cosine=False),
    "activations, cosine": replace(_token(**LONG), cosine=True),
    "activations, L2, 4 layers": replace(_token(**DEEP), cosine=False),
    "activations, L2, 4 layers, all tokens": replace(_token(side="all", **DEEP), cosine=False),
    "activations, L2, 1 layer": replace(_token(replay_layers=1, **LONG), cosine=False),
    "span of 4": replace(_token(**LONG), rank=4),
    "span of 16": replace(_token(**LONG), rank=16),
    "span of 16, all tokens": replace(_token(side="all", **LONG), rank=16),
    "activations, L2, span of 16": replace(_token(**LONG), cosine=False, rank=16),
    "feature": Variant(Method.FEATURE),
    "feature, all tokens": Variant(Method.FEATURE, (("side", "all"),)),
}
"""The policy, token replay by number of steps, depth, targets and place, what is not the paper's,
and the base's features themselves."""


class Watch:
    """Sees what is optimised on every picture of an episode, and the offset that comes out."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.offsets: list[Offset] = []
        self.objectives: list[Objective] = []

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Watch, while a block runs."""
        build, optimise = methods.objective_of, vars(methods)["token_replay"]

        def objective_of(
            context: ContextState, piece: Piece, block: VisualBlock
        ) -> tuple[Objective, Tensor]:
            objective, entropy_LT = build(context, piece, block)
            self.pieces.append(piece)
            self.objectives.append(objective)
            return objective, entropy_LT

        def token_replay(*arguments: Any) -> tuple[Offset, list[float]]:
            offset, path = optimise(*arguments)
            self.offsets.append(offset)
            return offset, path

        with (
            patch.object(methods, "objective_of", objective_of),
            patch.object(methods, "token_replay", token_replay),
        ):
            yield

    def report(self) -> dict[str, float]:
        """Measure the first picture: see the module."""
        if not self.pieces:
            return {}
        piece, objective = self.pieces[0], self.objectives[0]
        policy_TD, base_TD = piece.policy.embeds_TD.float(), piece.base.embeds_TD.float()
        seen_TD = self.offsets[0].on(piece.policy).embeds_TD.float()
        chosen_T = objective.chosen_LT.any(dim=0)
        lens = objective.lens if isinstance(objective, Distance) else objective
        moved_TD, way_TD = seen_TD - policy_TD, base_TD - policy_TD
        cosine_T = torch.cosine_similarity(moved_TD, way_TD)

        def left(tokens: Tensor | slice) -> float:
            return float((base_TD - seen_TD)[tokens].norm() / way_TD[tokens].norm())

        return {
            "kl": lens.mean() or 0.0,
            "left_low": left(chosen_T),
            "left": left(slice(None)),
            "cosine": float(cosine_T[chosen_T].mean()),
        }


def measure(unit: tuple[Path, str, str], count: int) -> dict[str, Any]:
    """Measure a variant on a policy."""
    prepare_process()
    folder, policy, name = unit
    variant = VARIANTS[name]
    config = embedded_config(variant.method, **dict(variant.changes))
    pair = load_pair(str(folder / policy), str(folder / "base"), device="cpu")
    recipe = choose_recipe("embedded", "embedded", None)
    protocol = get_protocol(recipe, token_grid(pair.processor), ImageStore())
    sampling = Sampling(0.0, max_new_tokens=128)
    player = VisualAgent(pair, protocol, config, sampling=sampling)
    seeds = range(Split.TUNING, Split.TUNING + count)
    scenes = []
    with variant.at_work(pair):
        for sample_id in ids_of(TASK.name, seeds):
            scenes.append(_play(player.with_store(ImageStore()), TASK.load(sample_id)))
    return {"pair": folder.name, "policy": policy, "variant": name, "scenes": scenes}


def _play(agent: VisualAgent, sample: Sample) -> dict[str, float]:
    watch = Watch()
    with watch.at_work():
        episode = agent.run(sample.question, images=sample.images)
    agent.close()
    listed, placed = perceived(sample, episode.steps[0]["thought"])
    return {
        **watch.report(),
        "listed": float(listed),
        "place": float(placed),
        "right": float(TASK.is_right(sample, episode.answer)),
    }


MEASURES = ("kl", "left_low", "left", "cosine", "listed", "place", "right")
HEADINGS = ("variant", "KL", "way left, low", "way left", "cosine", "lists", "place", "right")


def table(results: Sequence[dict[str, Any]]) -> TextTable:
    """Lay out the means, and the differences in accuracy from the policy with their intervals."""
    rows = []
    plain = {(r["pair"], r["policy"]): r for r in results if r["variant"] == "policy"}
    for name in VARIANTS:
        own = [r for r in results if r["variant"] == name and (r["pair"], r["policy"]) in plain]
        if not own:
            continue
        scenes = [scene for each in own for scene in each["scenes"]]
        cells = [
            f"{np.mean([scene[m] for scene in scenes]):.3f}" if m in scenes[0] else ""
            for m in MEASURES
        ]
        if name != "policy":
            gains = np.array(
                [
                    [
                        one["right"] - other["right"]
                        for one, other in zip(
                            each["scenes"],
                            plain[each["pair"], each["policy"]]["scenes"],
                            strict=True,
                        )
                    ]
                    for each in own
                ]
            )
            low, high = crossed_interval(gains, [each["pair"] for each in own])
            cells.append(f"{gains.mean():+.3f} ({low:.3f} to {high:.3f})")
        rows.append((name, *cells, *[""] * (len(HEADINGS) - len(cells))))
    policies, count = len(plain), len(next(iter(plain.values()))["scenes"])
    return TextTable(
        f"What the offset finds: {policies} policies, {count} tuning scenes each",
        (*HEADINGS, "gain"),
        rows,
    )


def main() -> None:
    """Measure what is missing, and print the table of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=Path, nargs="+", required=True)
    parser.add_argument("--policies", type=int, default=2, help="policies of each base")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--kept", type=Path, default=OUT)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    console = Console(highlight=False, width=180)
    arguments.kept.mkdir(parents=True, exist_ok=True)
    policies = [
        (folder, path.name)
        for folder in arguments.pairs
        for path in sorted(folder.glob("policy-*"))[: arguments.policies]
    ]
    units = [(*each, name) for name in VARIANTS for each in policies]
    paths = {
        unit: arguments.kept / ("-".join(f"{unit[0].name} {unit[1]} {unit[2]}".split()) + ".json")
        for unit in units
    }
    missing = [unit for unit, path in paths.items() if not path.exists()]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        running = {pool.submit(measure, unit, arguments.samples): unit for unit in missing}
        for number, done in enumerate(as_completed(running), 1):
            unit = running[done]
            paths[unit].write_text(json.dumps(done.result()) + "\n", "utf-8")
            console.print(f"[{number}/{len(missing)}]", *map(str, unit), markup=False)
    results = [json.loads(path.read_text("utf-8")) for path in paths.values()]
    table(results).show(console, markdown=True)


if __name__ == "__main__":
    main()
