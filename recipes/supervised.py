"""The supervised stages: next-token loss on the assistant's turns in demonstrations."""

import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from demonstrations import Demonstration, Demonstrations, Habit, Kind
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

Batch = dict[str, Any]

NAMING = (1, 2, 3)
"""Decoder layers whose outputs learn to name what visual tokens show."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of supervised training.

    Attributes:
        name: Name of its checkpoint, and of its lines in the log.
        steps: Number of optimiser steps.
        kinds: Shares of the tasks.
        habits: Shares of the habits.
        learning_rate: Peak learning rate: warm-up over 100 steps, cosine down to a tenth.
        batch: Number of demonstrations in a step.
        first_index: Index of the first demonstration, so that stages see different ones.
        naming: Weight of the naming loss: the cross-entropy of the logit lens after the layers
            `NAMING`, at visual tokens, with the words for what they show.
        dtype: Data type that matrices are multiplied in. Which one is faster depends on the CPU.
    """

    name: str
    steps: int
    kinds: dict[Kind, float]
    habits: dict[Habit, float]
    learning_rate: float = 1e-3
    batch: int = 32
    first_index: int = 0
    naming: float = 0.0
    dtype: torch.dtype = torch.bfloat16


class Collator:
    """Pads demonstrations to a batch and converts their pictures to patches."""

    def __init__(self, processor: Qwen2_5_VLProcessor) -> None:
        self.processor = processor
        self.pad = processor.tokenizer.pad_token_id

    def __call__(self, demonstrations: list[Demonstration]) -> Batch:
        """Build the model's inputs, and what they are taught.

        `learned` is the (batch, length) mask of the loss, and `shown` has rows of the naming loss:
        row, place and word.
        """
        length = max(len(d.token_ids) for d in demonstrations)
        shape = (len(demonstrations), length)
        input_ids = torch.full(shape, self.pad)
        learned = torch.zeros(shape, dtype=torch.bool)
        for row, d in enumerate(demonstrations):
            input_ids[row, : len(d.token_ids)] = torch.tensor(d.token_ids)
            learned[row, : len(d.token_ids)] = torch.tensor(d.learned)
        return {
            "input_ids": input_ids,
            "attention_mask": (input_ids != self.pad).long(),
            "mm_token_type_ids": (input_ids == self.processor.image_token_id).int()
            + 2 * (input_ids == self.processor.video_token_id).int(),
            "learned": learned,
            "images": [
                torch.from_numpy(i).permute(2, 0, 1) for d in demonstrations for i in d.images
            ],
            "videos": [
                torch.from_numpy(d.video).permute(0, 3, 1, 2)
                for d in demonstrations
                if d.video is not None
            ],
            "kinds": [d.kind for d in demonstrations],
            "shown": torch.tensor(
                [(row, *each) for row, d in enumerate(demonstrations) for each in d.shown]
            ).view(-1, 3),
        }

    def patches(self, batch: Batch) -> Batch:
        """Replace the batch's pictures by patches (in the main process: patches are large)."""
        images, videos = batch.pop("images"), batch.pop("videos")
        if images:
            batch.update(
                self.processor.image_processor(images, do_resize=False, return_tensors="pt")
            )
        if videos:
            patches = self.processor.video_processor(
                videos, do_resize=False, do_sample_frames=False, return_tensors="pt"
            )
            batch["pixel_values_videos"] = patches["pixel_values_videos"]
            batch["video_grid_thw"] = patches["video_grid_thw"]
        return batch


def train(
    stage: Stage,
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    folder: Path,
) -> None:
    """Run a stage, from its checkpoint if there is one; the model is trained in place.

    Writes `<stage>.pt` every 100 steps and a line to `log.jsonl` every 25.

    Args:
        stage: The stage.
        model: The model to train.
        processor: Its processor.
        folder: Folder of checkpoint and log.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=100),
            torch.optim.lr_scheduler.CosineAnnealingLR(
                optimizer, stage.steps - 100, stage.learning_rate / 10
            ),
        ],
        milestones=[100],
    )
    checkpoint, start = folder / f"{stage.name}.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        start = saved["step"]
    collator = Collator(processor)
    indices = range(
        stage.first_index + start * stage.batch, stage.first_index + stage.steps * stage.batch
    )
    loader = DataLoader(
        Demonstrations(processor, stage.kinds, stage.habits),
        batch_size=stage.batch,
        sampler=indices,
        num_workers=1,
        prefetch_factor=4,
        collate_fn=collator,
    )
    exact: dict[str, list[float]] = defaultdict(list)
    losses, began = [], time.monotonic()
    model.train()
    for step, batch in enumerate(loader, start + 1):
        loss, right = _loss(model, collator.patches(batch), stage)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        for kind, hit in right:
            exact[kind].append(hit)
        if step % 25 == 0 or step == stage.steps:
            line = {
                "stage": stage.name,
                "step": step,
                "loss": round(sum(losses) / len(losses), 4),
                "exact": {kind: round(sum(h) / len(h), 3) for kind, h in sorted(exact.items())},
                "seconds_per_step": round((time.monotonic() - began) / len(losses), 3),
            }
            log(folder, line)
            exact.clear()
            losses, began = [], time.monotonic()
        if step % 100 == 0 or step == stage.steps:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "step": step,
            }
            save_checkpoint(checkpoint, state)


def _loss(
    model: Qwen2_5_VLForConditionalGeneration, batch: Batch, stage: Stage
) -> tuple[torch.Tensor, list[tuple[Kind, float]]]:
    """Compute the mean loss, and whether greedy decoding would have written each demonstration."""
    learned, kinds, shown = (batch.pop(name) for name in ("learned", "kinds", "shown"))
    with torch.autocast("cpu", stage.dtype, enabled=stage.dtype != torch.float32):
        output = model.model(**batch, use_cache=False, output_hidden_states=bool(stage.naming))
    hidden = output.last_hidden_state.float()
    learned, targets = learned[:, 1:], batch["input_ids"][:, 1:]
    logits = model.lm_head(hidden[:, :-1][learned])
    loss = cross_entropy(logits, targets[learned])
    if stage.naming and len(shown):
        loss = loss + stage.naming * _naming_loss(model, output.hidden_states, shown)
    wrong = torch.zeros_like(learned)
    wrong[learned] = logits.argmax(-1) != targets[learned]
    return loss, list(zip(kinds, (~wrong.any(1)).float().tolist(), strict=True))


def _naming_loss(
    model: Qwen2_5_VLForConditionalGeneration,
    states: tuple[torch.Tensor, ...],
    shown: torch.Tensor,
) -> torch.Tensor:
    """Compute the mean loss of the logit lens after the layers `NAMING`."""
    rows, places, words = shown.unbind(1)
    losses = []
    for layer in NAMING:
        hidden = states[layer + 1][rows, places].float()
        # The last of the states is normed already.
        last = layer + 2 == len(states)
        normed = hidden if last else model.model.language_model.norm(hidden)
        losses.append(cross_entropy(model.lm_head(normed), words))
    return torch.stack(losses).mean()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically."""
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def log(folder: Path, line: dict[str, object]) -> None:
    """Print a line of progress and append it to the recipe's log."""
    text = json.dumps(line)
    print(text, flush=True)
    with (folder / "log.jsonl").open("a") as file:
        file.write(text + "\n")
