"""Many episodes in lockstep for training: the agent's own loop and tools, with batched generation.

The agent plays one episode with a KV cache and replay; training needs a hundred at a time and
neither. So the turns come from `generate` over a padded batch, and everything else is the agent's:
`play_in_lockstep` drives its `Loop`, and each row is sampled by the turn's own seed. Without replay
the agent plays the same episode from the same seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import LogitsProcessor, Qwen2_5_VLForConditionalGeneration

from visreplay.agent.episode.loop import Loop, turn_seed
from visreplay.agent.episode.rollouts import play_in_lockstep
from visreplay.agent.policy.encoder import ContextEncoder
from visreplay.agent.policy.replay_policy import PolicyTurn
from visreplay.agent.state import EpisodeState
from visreplay.replay_core import VisualBlock
from visreplay.replay_core.sampling import Sampler, draw


@dataclass
class Rollout:
    """An episode, and its context as the model reads it.

    Attributes:
        state: The agent's state.
        token_ids: The context so far.
        generated: Which of the tokens the model wrote.
        blocks: The images and videos in the context.
    """

    state: EpisodeState
    token_ids: list[int] = field(default_factory=list)
    generated: list[bool] = field(default_factory=list)
    blocks: list[VisualBlock] = field(default_factory=list)

    def read(self, encoder: ContextEncoder) -> None:
        """Append the new part of the conversation to the context."""
        messages = self.state["messages"]
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        segment = encoder.encode(messages, turns[-1] + 1 if turns else 0)
        self.token_ids += segment.token_ids.tolist()
        self.generated += [False] * len(segment)
        self.blocks += segment.blocks

    def write(self, ids: Sequence[int]) -> None:
        """Append a turn of the model to the context."""
        self.token_ids += ids
        self.generated += [True] * len(ids)

    def fork(self, seed: int) -> "Rollout":
        """Make a rollout that continues from here with a seed of its own."""
        return replace(
            self,
            state={**self.state, "seed": seed},
            token_ids=[*self.token_ids],
            generated=[*self.generated],
            blocks=[*self.blocks],
        )


def play(
    model: Qwen2_5_VLForConditionalGeneration,
    encoder: ContextEncoder,
    loop: Loop,
    starts: Sequence[EpisodeState],
    *,
    group: int = 1,
    temperature: float = 1.0,
    max_new_tokens: int = 96,
) -> list[Rollout]:
    """Play `group` episodes from each start to their ends, one batch of turns a step.

    Args:
        model: The policy.
        encoder: Encodes the conversations.
        loop: The agent's loop.
        starts: States that `loop.start` built. A group's seeds are the start's seed and the
            numbers after it.
        group: Number of episodes from each start.
        temperature: Sampling temperature; 0 is greedy.
        max_new_tokens: Largest number of tokens in one turn.
    """
    rollouts: list[Rollout] = []
    for start in starts:
        first = Rollout(start)
        first.read(encoder)
        rollouts += [first, *(first.fork(start["seed"] + i) for i in range(1, group))]

    def write_turns(running: Mapping[int, EpisodeState]) -> dict[int, PolicyTurn]:
        for i, state in running.items():
            rollouts[i].state = state
            if state["steps"]:
                rollouts[i].read(encoder)
        batch = [rollouts[i] for i in running]
        turns = {}
        ids = _generate(model, encoder, batch, temperature, max_new_tokens)
        for i, row in zip(running, ids, strict=True):
            rollouts[i].write(row)
            turns[i] = _turn(encoder, row)
        return turns

    ends = play_in_lockstep(loop, [rollout.state for rollout in rollouts], write_turns)
    for rollout, end in zip(rollouts, ends, strict=True):
        rollout.state = end
    return rollouts


def collate(
    encoder: ContextEncoder, rollouts: Sequence[Rollout], side: Literal["left", "right"]
) -> dict[str, Tensor]:
    """Build the model's inputs for a batch of rollouts, padded on one side.

    Args:
        encoder: Knows the tokenizer and the placeholders.
        rollouts: The rows of the batch.
        side: Where the padding goes.
    """
    pad = encoder.processor.tokenizer.pad_token_id
    ids = [torch.tensor(rollout.token_ids) for rollout in rollouts]
    input_ids = torch.nn.utils.rnn.pad_sequence(
        ids, batch_first=True, padding_value=pad, padding_side=side
    )
    mask = [torch.ones(len(row), dtype=torch.long) for row in ids]
    written = [torch.tensor(rollout.generated) for rollout in rollouts]
    # A placeholder that the model wrote is no picture.
    read = ~torch.nn.utils.rnn.pad_sequence(written, True, True, side)
    inputs: dict[str, Any] = {
        "input_ids": input_ids,
        "attention_mask": torch.nn.utils.rnn.pad_sequence(mask, True, 0, side),
        "mm_token_type_ids": (read & (input_ids == encoder.tokens.image_token_id)).int()
        + 2 * (read & (input_ids == encoder.tokens.video_token_id)).int(),
    }
    blocks = [block for rollout in rollouts for block in rollout.blocks]
    for name in {name for block in blocks for name in block.inputs}:
        inputs[name] = torch.cat([block.inputs[name] for block in blocks if name in block.inputs])
    return inputs


def embed(
    model: Qwen2_5_VLForConditionalGeneration, inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Replace the pixels of a batch by embeddings that hold the features of its pictures.

    The model's own code looks for a picture behind every placeholder, also one that it wrote.

    Args:
        model: The policy.
        inputs: What `collate` returns.

    Returns:
        The inputs without pixels, but with `inputs_embeds` (rows, tokens, width).
    """
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    kinds = (
        (1, "pixel_values", "image_grid_thw", model.get_image_features),
        (2, "pixel_values_videos", "video_grid_thw", model.get_video_features),
    )
    for kind, pixels, grid, features_of in kinds:
        if pixels in inputs:
            features = torch.cat(features_of(inputs[pixels], inputs[grid]).pooler_output)
            there = inputs["mm_token_type_ids"][..., None] == kind
            embeds = embeds.masked_scatter(there, features.to(embeds.dtype))
    rest = {name: value for name, value in inputs.items() if not name.startswith("pixel_values")}
    return {**rest, "inputs_embeds": embeds}


class SeededSampling(LogitsProcessor):  # type: ignore[misc]
    """Draws each row's token by the row's own sampler, and leaves `generate` no other choice."""

    def __init__(self, samplers: Sequence[Sampler]) -> None:
        """Prepare to draw.

        Args:
            samplers: One for each row of the batch.
        """
        self.samplers = samplers

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Draw a token for each row, and give it all of the probability.

        Args:
            input_ids: (rows, tokens) so far; not used.
            scores: (rows, vocabulary) logits.
        """
        drawn = draw(scores, self.samplers)
        certain = torch.full_like(scores, -torch.inf)
        certain[torch.arange(len(drawn)), drawn] = 0.0
        return certain


@torch.no_grad()
def _generate(
    model: Qwen2_5_VLForConditionalGeneration,
    encoder: ContextEncoder,
    rollouts: Sequence[Rollout],
    temperature: float,
    max_new_tokens: int,
) -> list[list[int]]:
    """Write the next turn of every rollout, and give its tokens."""
    states = [rollout.state for rollout in rollouts]
    seeds = [turn_seed(state["seed"], len(state["steps"])) for state in states]
    written = model.generate(
        **embed(model, collate(encoder, rollouts, "left")),
        do_sample=False,
        logits_processor=[SeededSampling([Sampler(temperature, seed=seed) for seed in seeds])],
        max_new_tokens=max_new_tokens,
    )
    length = max(len(rollout.token_ids) for rollout in rollouts)
    rows = written[:, length:].tolist()
    end = encoder.processor.tokenizer.eos_token_id
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def _turn(encoder: ContextEncoder, ids: list[int]) -> PolicyTurn:
    tokenizer = encoder.processor.tokenizer
    ended = ids[-1:] == [tokenizer.eos_token_id]
    return PolicyTurn.from_tokens(ids, tokenizer, "stop" if ended else "length")
