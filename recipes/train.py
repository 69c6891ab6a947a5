"""Train the embedded pair: `python recipes/train.py --out runs/recipe`.

Each stage resumes where it was interrupted: looking up words in a list, reading single characters,
skilled demonstrations of all tasks, demonstrations of mixed habits (the result is the base), and
RLVR (the result is the policy). All stages are seeded; progress goes to standard output and
`log.jsonl`.
"""

import argparse
from pathlib import Path

import rlvr
import torch
from architecture import build_model, build_processor, build_tokenizer
from demonstrations import MIXED, SKILLED, corpus
from supervised import Stage, train

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
UPDATES = 60
"""Number of gradient steps of RLVR."""


def main() -> None:
    """Run every stage that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and log")
    parser.add_argument("--seed", type=int, default=0, help="seed of the untrained weights")
    parser.add_argument(
        "--until", choices=[stage.name for stage in STAGES], help="the last stage to run"
    )
    arguments = parser.parse_args()
    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    torch.set_flush_denormal(True)
    tokenizer = build_tokenizer(corpus(), 448)
    processor = build_processor(tokenizer)
    model = build_model(tokenizer, arguments.seed)
    for stage in STAGES:
        train(stage, model, processor, folder)
        if stage.name == arguments.until:
            return
    for part in (processor, model):
        part.save_pretrained(folder / "base")
    rlvr.evaluate(model, processor, folder, "base")
    rlvr.train(model, processor, folder, UPDATES)
    for part in (processor, model):
        part.save_pretrained(folder / "policy")
    rlvr.evaluate(model, processor, folder, "policy")


if __name__ == "__main__":
    main()
