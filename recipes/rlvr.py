"""The RLVR stage: group-relative policy gradient on a verifiable reward, without a KL term.

Advantages are GRPO's: the reward minus the mean of its group, divided by the standard deviation.
There is one on-policy gradient step for each batch of rollouts, so the ratio is one and nothing is
clipped; the loss is the mean over all generated tokens of the batch. The reward is 1 for the right
answer after a valid call, else 0, as in DeepEyes. The vision tower stays frozen, so that policy and
base share its features.

Why not TRL's `GRPOTrainer`: the rollouts must go through this project's loop, protocol and tools,
images included. A trainer with its own rollout loop would train the policy on another agent than
the one that it ships with.
"""

import time
from collections import defaultdict
from pathlib import Path

import torch
from rollouts import Rollout, collate, embed, play
from supervised import log, save_checkpoint
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from visreplay.agent.episode.limits import Limits
from visreplay.agent.episode.loop import Loop
from visreplay.agent.policy.encoder import ContextEncoder, token_grid
from visreplay.agent.protocols import get_protocol
from visreplay.agent.state import EpisodeState, observations
from visreplay.tasks.synthetic.synthetic_task import SyntheticTask
from visreplay.tasks.synthetic.video_search import VideoSearch
from visreplay.tasks.synthetic.visual_search import EASY, MEDIUM, VisualSearch
from visreplay.tasks.types import Sample, Split
from visreplay.tools import ImageStore

TASKS: tuple[SyntheticTask, ...] = (VisualSearch(EASY), VisualSearch(MEDIUM), VideoSearch())
PROMPTS = 18
GROUP = 8
LEARNING_RATE = 2e-4
"""At first; it falls linearly to zero. At a constant 5e-4 the reward did not settle."""
MICRO_BATCH = 48


class Arena:
    """The image store, encoder and loop of one batch of questions."""

    def __init__(self, processor: Qwen2_5_VLProcessor) -> None:
        self.store = ImageStore()
        protocol = get_protocol("embedded", token_grid(processor), self.store)
        self.encoder = ContextEncoder(processor, self.store, grid=protocol.grid)
        self.loop = Loop(protocol, Limits(max_steps=3))

    def start(self, sample: Sample, seed: int = 0) -> EpisodeState:
        """Build the state that a sample's episode starts from."""
        return self.loop.start(
            sample.question,
            images=[self.store.put(image) for image in sample.images],
            video=None if sample.video is None else str(sample.video),
            seed=seed,
        )


def reward(state: EpisodeState, answer: str) -> float:
    """Score an episode: 1 for the right answer after a call that gave an observation, else 0."""
    return float(bool(observations(state)) and state["answer"] == answer)


def train(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    folder: Path,
    updates: int,
) -> None:
    """Train the model in place, from the checkpoint `rlvr.pt` if there is one.

    Args:
        model: The model that the supervised stages trained.
        processor: Its processor.
        folder: Folder of checkpoint and log.
        updates: Number of gradient steps.
    """
    model.model.visual.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    checkpoint, start = folder / "rlvr.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["update"]
    for update in range(start, updates):
        began = time.monotonic()
        for parameters in optimizer.param_groups:
            parameters["lr"] = LEARNING_RATE * (1 - update / updates)
        arena = Arena(processor)
        samples = [
            TASKS[i % len(TASKS)].sample(Split.TRAIN + 5_000_000 + update * PROMPTS + i)
            for i in range(PROMPTS)
        ]
        model.eval()
        seeds = range(update * PROMPTS * GROUP, (update + 1) * PROMPTS * GROUP, GROUP)
        starts = [arena.start(sample, seed) for sample, seed in zip(samples, seeds, strict=True)]
        rollouts = play(model, arena.encoder, arena.loop, starts, group=GROUP)
        rewards = torch.tensor(
            [reward(r.state, samples[i // GROUP].answer) for i, r in enumerate(rollouts)]
        ).view(PROMPTS, GROUP)
        spread = rewards.std(1, keepdim=True)
        advantages = ((rewards - rewards.mean(1, keepdim=True)) / (spread + 1e-6)).flatten()
        model.train()
        _step(model, arena, optimizer, rollouts, advantages)
        by_task = defaultdict(list)
        for i, mean in enumerate(rewards.mean(1).tolist()):
            by_task[TASKS[i % len(TASKS)].name].append(mean)
        log(
            folder,
            {
                "stage": "rlvr",
                "update": update + 1,
                "reward": round(rewards.mean().item(), 3),
                "by_task": {k: round(sum(v) / len(v), 3) for k, v in by_task.items()},
                "tokens": sum(sum(r.generated) for r in rollouts) // len(rollouts),
                "seconds": round(time.monotonic() - began, 1),
            },
        )
        if (update + 1) % 10 == 0 or update + 1 == updates:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "update": update + 1,
            }
            save_checkpoint(checkpoint, state)


def _step(
    model: Qwen2_5_VLForConditionalGeneration,
    arena: Arena,
    optimizer: torch.optim.Optimizer,
    rollouts: list[Rollout],
    advantages: torch.Tensor,
) -> None:
    """Take a policy gradient step; groups that all failed or all succeeded have no effect."""
    kept = [i for i, advantage in enumerate(advantages.tolist()) if advantage]
    tokens = sum(sum(rollouts[i].generated) for i in kept)
    optimizer.zero_grad()
    for first in range(0, len(kept), MICRO_BATCH):
        rows = kept[first : first + MICRO_BATCH]
        batch = [rollouts[i] for i in rows]
        inputs = collate(arena.encoder, batch, "right")
        written = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
        for row, rollout in enumerate(batch):
            written[row, : len(rollout.generated)] = torch.tensor(rollout.generated)
        hidden = model.model(**embed(model, inputs), use_cache=False).last_hidden_state
        written, targets = written[:, 1:], inputs["input_ids"][:, 1:]
        logits = model.lm_head(hidden[:, :-1][written])
        log_probs = logits.log_softmax(-1).gather(1, targets[written][:, None])[:, 0]
        weight = advantages[rows][:, None].expand_as(written)[written]
        (-(weight * log_probs).sum() / tokens).backward()
    if kept:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def evaluate(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    folder: Path,
    name: str,
    count: int = 100,
) -> None:
    """Log the accuracy on the tuning split, greedy and at temperature 1.

    Args:
        model: The model.
        processor: Its processor.
        folder: Folder of the log.
        name: Name of the model in the log.
        count: Number of samples of each task.
    """
    model.eval()
    for task in TASKS:
        arena = Arena(processor)
        samples = [task.sample(Split.TUNING + i) for i in range(count)]
        starts = [arena.start(sample, seed) for seed, sample in enumerate(samples)]
        line: dict[str, object] = {"stage": "evaluate", "model": name, "task": task.name}
        for temperature in (0.0, 1.0):
            rollouts = play(model, arena.encoder, arena.loop, starts, temperature=temperature)
            right = [r.state["answer"] == s.answer for r, s in zip(rollouts, samples, strict=True)]
            line[f"accuracy at temperature {temperature:g}"] = sum(right) / count
        log(folder, line)
