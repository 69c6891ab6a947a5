"""Train the pairs of a recipe: `python recipes/train.py --pair embedded --out runs/recipe`.

Each stage resumes where it was interrupted: looking up words in a list, reading single characters,
skilled demonstrations of all tasks, demonstrations of mixed habits (the result is the base), and
RLVR (the result is a policy). All stages are seeded. Base, policies, checkpoints and `log.jsonl` of
a seed are in `OUT/PAIR-SEED`; progress goes to standard output too.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import rlvr
import supervised
import torch
from architecture import build_model, build_processor, build_tokenizer
from demonstrations import MIXED, SKILLED, corpus
from rlvr import Rlvr
from supervised import Stage
from transformers import Qwen2_5_VLForConditionalGeneration as Model
from transformers import Qwen2_5_VLProcessor

from visreplay.tasks.synthetic.video_search import VideoSearch
from visreplay.tasks.synthetic.visual_search import EASY, VisualSearch

STAGES = (
    Stage("recall", 300, {"recall": 1.0}, SKILLED, learning_rate=2e-3, batch=64),
    Stage("read", 500, {"letter": 0.9, "recall": 0.1}, SKILLED, batch=64, first_index=1_000_000),
    Stage(
        "see",
        1600,
        {"recall": 0.04, "letter": 0.04, "easy": 0.22, "medium": 0.42, "video": 0.28},
        SKILLED,
        first_index=2_000_000,
    ),
    Stage(
        "habits",
        200,
        {"easy": 0.3, "medium": 0.4, "video": 0.3},
        MIXED,
        learning_rate=3e-4,
        first_index=3_000_000,
    ),
)


@dataclass(frozen=True)
class Recipe:
    """How a pair is trained.

    Attributes:
        stages: The supervised stages.
        rlvr: The last stage.
        bases: How many bases there are, each with untrained weights and demonstrations of its own.
        policies: How many policies RLVR makes of each base, with seeds of their own.
        dtype: Data type of the stored weights. The models compute in float32, and RLVR starts from
            the weights as they are stored.
    """

    stages: tuple[Stage, ...]
    rlvr: Rlvr
    bases: int = 1
    policies: int = 1
    dtype: torch.dtype = torch.float32

    def save(self, model: Model, processor: Qwen2_5_VLProcessor, folder: Path) -> Model:
        """Store a model, and return it as it is stored."""
        weights = {name: weight.to(self.dtype) for name, weight in model.state_dict().items()}
        processor.save_pretrained(folder)
        model.save_pretrained(folder, state_dict=weights)
        return _load(folder)


RECIPES: Mapping[str, Recipe] = {
    # RLVR of the language model on all tasks: skilled, and hardly disturbed.
    "embedded": Recipe(STAGES, Rlvr()),
    # RLVR of the whole model on two tasks of three, from a base whose lens names what it sees.
    "narrow": Recipe(
        tuple(
            replace(
                stage,
                naming=0.3 if stage.name in ("see", "habits") else 0.0,
                dtype=torch.float32,
            )
            for stage in STAGES
        ),
        Rlvr(
            (VideoSearch(), VisualSearch(EASY)),
            tower_rate=6e-4,
            max_new_tokens=64,
            constant=1 / 3,
        ),
        bases=2,
        policies=5,
        dtype=torch.float16,
    ),
}


def main() -> None:
    """Run every stage that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", choices=RECIPES, default="embedded", help="which recipe to take")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and logs")
    parser.add_argument("--seed", type=int, help="train the base of this seed alone")
    parser.add_argument("--threads", type=int, default=2, help="how many threads compute")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    recipe = RECIPES[arguments.pair]
    for seed in range(recipe.bases) if arguments.seed is None else [arguments.seed]:
        folder = arguments.out / f"{arguments.pair}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        processor = train_base(recipe, seed, folder)
        for number in range(recipe.policies):
            train_policy(recipe, number, processor, folder)


def train_base(recipe: Recipe, seed: int, folder: Path) -> Qwen2_5_VLProcessor:
    """Run the supervised stages, and return the processor of the models."""
    tokenizer = build_tokenizer(corpus(), 448)
    processor = build_processor(tokenizer)
    if not (folder / "base").exists():
        model = build_model(tokenizer, seed)
        for stage in recipe.stages:
            first = stage.first_index + 10_000_000 * seed
            supervised.train(replace(stage, first_index=first), model, processor, folder)
        rlvr.evaluate(recipe.save(model, processor, folder / "base"), processor, folder, "base")
    return processor


def train_policy(recipe: Recipe, seed: int, processor: Qwen2_5_VLProcessor, folder: Path) -> None:
    """Run RLVR with a seed, from the base in a folder."""
    name = f"policy-{seed}"
    if not (folder / name).exists():
        model = _load(folder / "base")
        rlvr.train(replace(recipe.rlvr, seed=seed), model, processor, folder, name)
        rlvr.evaluate(recipe.save(model, processor, folder / name), processor, folder, name)


def _load(folder: Path) -> Model:
    return Model.from_pretrained(folder, dtype=torch.float32)


if __name__ == "__main__":
    main()
