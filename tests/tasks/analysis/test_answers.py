from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from visreplay.agent import VisualAgent, get_protocol
from visreplay.agent.policy.encoder import ContextEncoder, token_grid
from visreplay.replay_core import ModelPair, ReplaySession
from visreplay.tasks.analysis.answers import (
    Candidates,
    WrongAnswers,
    answer_form,
    context_before_last_turn,
)
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Sample
from visreplay.tools import ImageStore, TokenGrid


@dataclass
class Questions:
    """A task of given answers."""

    answers: Sequence[str]
    facts: Mapping[str, object]
    name: str = "questions"

    def sample_ids(self) -> list[str]:
        return [str(number) for number in range(len(self.answers))]

    def load(self, sample_id: str) -> Sample:
        answer = self.answers[int(sample_id)]
        return Sample(sample_id, "?", answer, video=Path("v.mp4"), facts=self.facts)

    def is_right(self, sample: Sample, answer: str | None) -> bool:
        return answer is not None and sample.answer.lower() == answer.lower()


def test_wrong_answers_are_the_other_options() -> None:
    options = dict.fromkeys("ABCDE", "")
    task = Questions("BBBBBBBB", {"options": options})
    wrong = WrongAnswers(task, seed=0)
    found = [wrong.of(task.load(sample_id), 2) for sample_id in task.sample_ids()]
    assert all(len(set(each)) == 2 and set(each) <= set("ACDE") for each in found)
    assert {letter for each in found for letter in each} == set("ACDE")
    assert found == [WrongAnswers(task, seed=0).of(task.load(i), 2) for i in task.sample_ids()]
    assert set(wrong.of(task.load("0"), 9)) == set("ACDE")


def test_wrong_answers_are_those_of_the_samples_behind() -> None:
    task = Questions(["red", "Red", "blue", "blue", "green"], {})
    wrong = WrongAnswers(task, seed=0)
    assert wrong.of(task.load("0"), 3) == ["blue", "green"]
    assert wrong.of(task.load("2"), 2) == ["green", "red"]
    assert wrong.of(task.load("4"), 1) == ["red"]
    same = Questions(["x", "X"], {})
    with pytest.raises(ValueError, match="same answer"):
        WrongAnswers(same, seed=0).of(same.load("0"), 1)


@pytest.mark.parametrize(
    ("protocol", "form"),
    [
        ("deepeyes", "<answer>{}</answer>"),
        ("video-r1", "<answer>{}</answer>"),
        ("boxed", "\\boxed{{}}"),
        ("embedded", "<answer>{}</answer>"),
    ],
)
def test_the_form_of_an_answer_is_one_that_the_protocol_reads(protocol: str, form: str) -> None:
    grid = TokenGrid(28, 28 * 28, 1000 * 28 * 28)
    found = answer_form(get_protocol(protocol, grid, ImageStore()))
    assert found == form


def test_tokens_that_all_answers_share_are_not_counted(embedded_pair: ModelPair) -> None:
    tokenizer = embedded_pair.tokenizer
    found = Candidates.of(["L", "J"], "<think>it shows {}</think><answer>{}</answer>", tokenizer)
    for answer, ids in zip("LJ", found.tokens, strict=True):
        assert tokenizer.decode(ids[: found.shared]).strip() == "<think>it shows"
        assert tokenizer.decode(ids[found.shared :]) == f"{answer}</think><answer>{answer}</answer>"
    # One answer may be the beginning of another: each keeps a token.
    short = Candidates.of(["1", "12"], "{}", tokenizer)
    assert all(len(ids) > short.shared for ids in short.tokens)


def test_the_context_is_the_one_that_the_policy_answered_in(embedded_pair: ModelPair) -> None:
    task = get_task("visual-search-medium")
    sample = task.load(task.sample_ids()[0])
    protocol = get_protocol("embedded", token_grid(embedded_pair.processor), ImageStore())
    agent = VisualAgent(embedded_pair, protocol, "none")
    messages = agent.run(sample.question, images=sample.images).messages
    *_, last = messages
    assert len(messages) == 4 and last["role"] == "assistant"
    encoder = ContextEncoder(embedded_pair.processor, agent.store, embedded_pair.policy)
    segment = context_before_last_turn(messages, encoder)
    assert [block.length for block in segment.blocks] == [64, 36]
    with ReplaySession(embedded_pair, "none") as session:
        session.append(segment)
        assert list(session.generate(max_new_tokens=30).token_ids) == last["token_ids"]
