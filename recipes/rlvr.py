"""The RLVR stage: group-relative policy gradient on a verifiable reward, without a KL term.

Advantages are GRPO's: the reward minus the mean of its group, divided by the standard deviation.
There is one on-policy gradient step for each batch of rollouts, so the ratio is one and nothing is
clipped; the loss is the mean over all generated tokens of the batch. The reward is 1 for the right
answer after a valid call, else 0, as in DeepEyes. Where the vision tower stays frozen, policy and
base share its features.

Why not TRL's `GRPOTrainer`: the rollouts must go through this project's loop, protocol and tools,
images included. A trainer with its own rollout loop would train the policy on another agent than
the one that it ships with.
"""

import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from demonstrations import describe
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
GROUP = 8
MICRO_BATCH = 48


@dataclass(frozen=True, slots=True)
class Rlvr:
    """The settings of the stage.

    Attributes:
        tasks: The tasks; a batch has a sample of each in turn.
        updates: Number of gradient steps.
        prompts: Number of samples in a batch.
        learning_rate: At first; it falls linearly to zero. At a constant 5e-4 the reward did not
            settle.
        tower_rate: The same for the vision tower, which stays frozen at 0.
        max_new_tokens: Largest number of tokens in one turn.
        seed: Seed of samples and rollouts.
        constant: Share of the updates before the rates begin to fall.
    """

    tasks: tuple[SyntheticTask, ...] = TASKS
    updates: int = 60
    prompts: int = 18
    learning_rate: float = 2e-4
    tower_rate: float = 0.0
    max_new_tokens: int = 96
    seed: int = 0
    constant: float = 0.0

    def rate(self, update: int) -> float:
        """Return the share of the learning rates at an update."""
        return min(1.0, (1 - update / self.updates) / (1 - self.constant))

    def samples(self, update: int) -> list[Sample]:
        """Draw the samples of a batch."""
        first = Split.TRAIN + 5_000_000 + 100_000 * self.seed + update * self.prompts
        return [self.tasks[i % len(self.tasks)].sample(first + i) for i in range(self.prompts)]

    def rollout_seeds(self, update: int) -> range:
        """Give the first seed of each sample's group."""
        number = self.prompts * GROUP
        first = 10_000_000 * self.seed + update * number
        return range(first, first + number, GROUP)


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
    settings: Rlvr,
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    folder: Path,
    name: str,
) -> None:
    """Train the model in place, from its checkpoint if there is one.

    Args:
        settings: The settings.
        model: The model that the supervised stages trained.
        processor: Its processor.
        folder: Folder of checkpoint and log.
        name: Name of the checkpoint, and of the model in the log.
    """
    tower = model.model.visual.requires_grad_(settings.tower_rate > 0)
    rates = (settings.learning_rate, settings.tower_rate)
    parts = (model.model.language_model, model.lm_head), (tower,)
    optimizer = torch.optim.AdamW(
        [{"params": [p for module in part for p in module.parameters()]} for part in parts],
        lr=settings.learning_rate,
        weight_decay=0.0,
    )
    checkpoint, start = folder / f"{name}.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["update"]
    for update in range(start, settings.updates):
        began = time.monotonic()
        for parameters, rate in zip(optimizer.param_groups, rates, strict=True):
            parameters["lr"] = rate * settings.rate(update)
        arena = Arena(processor)
        samples, seeds = settings.samples(update), settings.rollout_seeds(update)
        model.eval()
        starts = [arena.start(sample, seed) for sample, seed in zip(samples, seeds, strict=True)]
        rollouts = play(
            model,
            arena.encoder,
            arena.loop,
            starts,
            group=GROUP,
            max_new_tokens=settings.max_new_tokens,
        )
        rewards = torch.tensor(
            [reward(r.state, samples[i // GROUP].answer) for i, r in enumerate(rollouts)]
        ).view(-1, GROUP)
        spread = rewards.std(1, keepdim=True)
        advantages = ((rewards - rewards.mean(1, keepdim=True)) / (spread + 1e-6)).flatten()
        model.train()
        _step(model, arena, optimizer, rollouts, advantages)
        by_task = defaultdict(list)
        for i, mean in enumerate(rewards.mean(1).tolist()):
            by_task[settings.tasks[i % len(settings.tasks)].name].append(mean)
        log(
            folder,
            {
                "stage": "rlvr",
                "model": name,
                "update": update + 1,
                "reward": round(rewards.mean().item(), 3),
                "by_task": {k: round(sum(v) / len(v), 3) for k, v in by_task.items()},
                "tokens": sum(sum(r.generated) for r in rollouts) // len(rollouts),
                "seconds": round(time.monotonic() - began, 1),
            },
        )
        if (update + 1) % 10 == 0 or update + 1 == settings.updates:
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

    For scenes, the log also says how often the greedy thought lists every marker at its place.

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
            if not temperature and "markers" in samples[0].facts:
                listed = [_lists(r.state, s) for r, s in zip(rollouts, samples, strict=True)]
                line["markers listed"] = sum(listed) / count
        log(folder, line)


def _lists(state: EpisodeState, sample: Sample) -> bool:
    """Tell whether the first thought lists every marker of the scene at its place."""
    listing, _, _ = describe(sample.facts["markers"], sample.facts["target"]).partition(" so ")
    return f"<think>{listing} so " in state["steps"][0]["text"]
