"""Right and wrong answers of a sample as tokens, and the context in which the policy answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visreplay.agent.messages import Message
from visreplay.agent.policy.encoder import ContextEncoder
from visreplay.agent.protocols import ToolProtocol
from visreplay.replay_core import Segment
from visreplay.tasks.types import Sample, Task

FORMS = ("<answer>{}</answer>", "\\boxed{{}}")
"""The turns of an answer, with {} in the answer's place; a protocol takes the first that it can
read."""


def answer_form(protocol: ToolProtocol) -> str:
    """Find the form of a turn that gives an answer and nothing else.

    Raises:
        ValueError: The protocol reads none of the known forms.
    """
    for form in FORMS:
        if protocol.read(form.replace("{}", "A", 1)).answer == "A":
            return form
    raise ValueError(
        f"the {protocol.name} protocol has another form of answer: give it with --form"
    )


@dataclass
class WrongAnswers:
    """A source of wrong answers to a task's samples.

    They are the other options of a sample with options, and else the right answers of the samples
    that follow in the task's order, where the first sample follows the last.

    Attributes:
        task: The task.
        seed: Seed of the choice among options.
    """

    task: Task
    seed: int
    _answers: dict[str, str] = field(default_factory=dict)

    def of(self, sample: Sample, count: int) -> list[str]:
        """Find up to `count` different wrong answers.

        Raises:
            ValueError: There is none.
        """
        ids = self.task.sample_ids()
        place = ids.index(sample.sample_id)
        self._answers[sample.sample_id] = sample.answer
        options = sample.facts.get("options")
        if isinstance(options, Mapping) and sample.answer in options:
            others = [letter for letter in options if letter != sample.answer]
            order = np.random.default_rng([self.seed, place]).permutation(len(others))
            return [others[index] for index in order[:count]]
        wrong: list[str] = []
        for sample_id in (*ids[place + 1 :], *ids[:place]):
            if len(wrong) == count:
                break
            answer = self._answer(sample_id)
            if answer not in wrong and not self.task.is_right(sample, answer):
                wrong.append(answer)
        if not wrong:
            raise ValueError(
                f"there is no wrong answer to {sample.sample_id}: all samples of "
                f"{self.task.name} have the same answer"
            )
        return wrong

    def _answer(self, sample_id: str) -> str:
        if sample_id not in self._answers:
            self._answers[sample_id] = self.task.load(sample_id).answer
        return self._answers[sample_id]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Answers to one sample as tokens, the right one first.

    Attributes:
        tokens: The tokens of each turn, `(N,)`.
        shared: Number of first tokens that all of them have in common; they say nothing about the
            answer, and are not counted.
    """

    tokens: list[Tensor]
    shared: int

    @classmethod
    def of(cls, answers: Sequence[str], form: str, tokenizer: Any) -> "Candidates":
        """Encode answers.

        Args:
            answers: Two or more different answers.
            form: The turn, with {} wherever the answer stands.
            tokenizer: The policy's.
        """
        texts = [form.replace("{}", answer) for answer in answers]
        encoded = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        shared = 0
        while all(len(ids) > shared + 1 for ids in encoded):
            if len({ids[shared] for ids in encoded}) > 1:
                break
            shared += 1
        return cls([torch.tensor(ids) for ids in encoded], shared)


def context_before_last_turn(messages: Sequence[Message], encoder: ContextEncoder) -> Segment:
    """Encode a conversation up to the opening of the policy's last turn, with its earlier turns.

    Args:
        messages: The conversation of an episode, whose turns have the tokens that the policy wrote.
        encoder: Encodes what the policy did not write.
    """
    end = max(n for n, message in enumerate(messages) if message["role"] == "assistant")
    segments = []
    start = 0
    for stop, message in enumerate(messages[: end + 1]):
        if message["role"] == "assistant":
            if stop > start:
                segments.append(encoder.encode(messages[:stop], start))
            if stop < end:
                segments.append(Segment.from_ids(message["token_ids"]))
            start = stop + 1
    return join_segments(segments)


def join_segments(segments: Sequence[Segment]) -> Segment:
    """Join segments to one."""
    blocks = []
    length = 0
    for segment in segments:
        blocks += [block.at(block.start + length) for block in segment.blocks]
        length += len(segment)
    return Segment(torch.cat([segment.token_ids for segment in segments]), tuple(blocks))
