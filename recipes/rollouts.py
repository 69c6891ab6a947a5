"""Many episodes in lockstep: the agent's own loop and tools, with batched generation.

The agent runs one episode with caches and replay; training needs a hundred at a time and neither.
So the turns come from `generate` over a padded batch, and everything between the turns is
`visreplay.agent.episode.loop`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from visreplay.agent.episode.loop import Loop, apply
from visreplay.agent.messages import Message
from visreplay.agent.policy.encoder import ContextEncoder
from visreplay.agent.policy.replay_policy import PolicyTurn
from visreplay.agent.state import EpisodeState
from visreplay.replay_core import VisualBlock


@dataclass
class Rollout:
    """An episode that is being played.

    Attributes:
        state: The agent's state.
        token_ids: The context so far.
        generated: Which of the tokens the model wrote.
        blocks: The pictures and clips in the context.
    """

    state: EpisodeState
    token_ids: list[int] = field(default_factory=list)
    generated: list[bool] = field(default_factory=list)
    blocks: list[VisualBlock] = field(default_factory=list)

    def read(self, encoder: ContextEncoder) -> None:
        """Take in what is new in the conversation."""
        messages = self.state["messages"]
        wrote = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        segment = encoder.encode(messages, wrote[-1] + 1 if wrote else 0)
        self.token_ids += segment.token_ids.tolist()
        self.generated += [False] * len(segment)
        self.blocks += segment.blocks

    def fork(self) -> "Rollout":
        """A rollout that goes on from here by itself."""
        return replace(
            self,
            token_ids=[*self.token_ids],
            generated=[*self.generated],
            blocks=[*self.blocks],
        )


def play(
    model: Qwen2_5_VLForConditionalGeneration,
    encoder: ContextEncoder,
    loop: Loop,
    starts: Iterable[EpisodeState],
    *,
    group: int = 1,
    temperature: float = 1.0,
    max_new_tokens: int = 96,
) -> list[Rollout]:
    """Play `group` episodes from each start, to their ends, in one batch a step.

    Sampling draws from torch's global generator; temperature 0 is greedy.
    """
    rollouts = []
    for start in starts:
        first = Rollout(start)
        first.read(encoder)
        rollouts += [first, *(first.fork() for _ in range(group - 1))]
    running = rollouts
    while running:
        turns = _generate(model, encoder, running, temperature, max_new_tokens)
        for rollout, ids in zip(running, turns, strict=True):
            rollout.token_ids += ids
            rollout.generated += [True] * len(ids)
            turn = _turn(encoder, ids)
            rollout.state = apply(rollout.state, loop.after_turn(rollout.state, turn))
            if not rollout.state["stop_reason"]:
                rollout.state = apply(rollout.state, loop.after_call(rollout.state))
        running = [rollout for rollout in running if not rollout.state["stop_reason"]]
        for rollout in running:
            rollout.read(encoder)
    return rollouts


def collate(
    encoder: ContextEncoder, rollouts: Sequence[Rollout], side: Literal["left", "right"]
) -> dict[str, Tensor]:
    """The model's inputs for a batch of rollouts, padded on one side."""
    pad = encoder.processor.tokenizer.pad_token_id
    ids = [torch.tensor(rollout.token_ids) for rollout in rollouts]
    input_ids = torch.nn.utils.rnn.pad_sequence(
        ids, batch_first=True, padding_value=pad, padding_side=side
    )
    mask = [torch.ones(len(row), dtype=torch.long) for row in ids]
    inputs: dict[str, Any] = {
        "input_ids": input_ids,
        "attention_mask": torch.nn.utils.rnn.pad_sequence(mask, True, 0, side),
        "mm_token_type_ids": (input_ids == encoder.tokens.image_token_id).int()
        + 2 * (input_ids == encoder.tokens.video_token_id).int(),
    }
    blocks = [block for rollout in rollouts for block in rollout.blocks]
    for name in {name for block in blocks for name in block.inputs}:
        inputs[name] = torch.cat([block.inputs[name] for block in blocks if name in block.inputs])
    return inputs


@torch.no_grad()
def _generate(
    model: Qwen2_5_VLForConditionalGeneration,
    encoder: ContextEncoder,
    rollouts: Sequence[Rollout],
    temperature: float,
    max_new_tokens: int,
) -> list[list[int]]:
    inputs = collate(encoder, rollouts, "left")
    sampling = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    # A placeholder that the model writes is no picture, but the model's own code takes it for one.
    placeholders = [encoder.tokens.image_token_id, encoder.tokens.video_token_id]
    written = model.generate(
        **inputs, **sampling, suppress_tokens=placeholders, max_new_tokens=max_new_tokens
    )
    rows = written[:, inputs["input_ids"].shape[1] :].tolist()
    end = encoder.processor.tokenizer.eos_token_id
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def _turn(encoder: ContextEncoder, ids: list[int]) -> PolicyTurn:
    tokenizer = encoder.processor.tokenizer
    text = tokenizer.decode(ids, skip_special_tokens=True)
    message: Message = {
        "role": "assistant",
        "content": [{"type": "text", "text": text}],
        "token_ids": ids,
    }
    finish = "stop" if ids[-1:] == [tokenizer.eos_token_id] else "length"
    return PolicyTurn(text, message, finish, None, 0.0)
