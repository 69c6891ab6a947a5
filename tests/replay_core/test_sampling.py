"""Tokens are drawn with the probabilities of transformers, and by their own seeds alone."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from builders import segment
from torch import Tensor
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from visreplay.replay_core import Batch, ModelPair, ReplaySession
from visreplay.replay_core.sampling import Sampler, draw
from visreplay.tasks.registry import get_task

SETTINGS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.3},
    {"temperature": 1.0, "top_k": 7},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
    {"temperature": 1.3, "top_p": 0.95},
    {"temperature": 1.0, "top_p": 0.05},
    {"temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.3},
    {"temperature": 2.0, "top_k": 100, "top_p": 0.999, "repetition_penalty": 0.7},
]

CONTEXT = [3, 5, 5, 8, 13]


def theirs(scores_V: Tensor, ids: Sequence[int] = CONTEXT, **settings: Any) -> Tensor:
    """The probabilities `(V,)` that transformers draws from."""
    processors = LogitsProcessorList()
    if "repetition_penalty" in settings:
        processors.append(RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]))
    processors.append(TemperatureLogitsWarper(settings["temperature"]))
    if "top_k" in settings:
        processors.append(TopKLogitsWarper(settings["top_k"]))
    if "top_p" in settings:
        processors.append(TopPLogitsWarper(settings["top_p"]))
    scores: Tensor = processors(torch.tensor([ids]), scores_V[None])
    return scores[0].double().softmax(-1)


class At(Sampler):
    """A sampler whose generator gives one number."""

    def __init__(self, number: float, **settings: Any) -> None:
        super().__init__(context_ids=CONTEXT, **settings)
        self.number = number

    def uniform(self) -> float:
        return self.number


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_probabilities_are_those_of_transformers(settings: dict[str, Any]) -> None:
    """Evenly spaced numbers give each token its share."""
    torch.manual_seed(0)
    logits_V = 3 * torch.randn(300)
    count = 4000
    samplers = [At((n + 0.5) / count, **settings) for n in range(count)]
    drawn = torch.tensor(draw(logits_V.expand(count, -1), samplers))
    share_V = torch.bincount(drawn, minlength=300) / count
    expected_V = theirs(logits_V, **settings)
    assert not (share_V[expected_V == 0]).any()
    torch.testing.assert_close(share_V.double(), expected_V, atol=1.01 / count, rtol=0)


@pytest.mark.parametrize("peak", [0.0, 6.0, 12.0])
def test_a_real_vocabulary(peak: float) -> None:
    """Also where the nucleus is larger than the first tokens that are looked at."""
    torch.manual_seed(1)
    logits_KV = 2 * torch.randn(len(SETTINGS), 152_064)
    logits_KV[:, :40] += peak
    for number in (0.0, 0.37, 0.999, 1 - 2**-53):
        samplers = [At(number, **settings) for settings in SETTINGS]
        for row, token in enumerate(draw(logits_KV, samplers)):
            assert token is not None
            probs_V = theirs(logits_KV[row], **SETTINGS[row])
            running_V = probs_V.cumsum(-1)
            before = running_V[token - 1] if token else 0.0
            assert before - 1e-5 <= number <= running_V[token] + 1e-5
            assert probs_V[token] > 0  # a token that is left out is never drawn


def test_tokens_as_probable_as_the_last_one_are_kept() -> None:
    logits_V = torch.tensor([0.0, 2.0, 1.0, 1.0, -1.0])
    for settings in ({"top_k": 2}, {"top_p": 0.6}):
        numbers = [n / 100 for n in range(100)]
        samplers = [At(number, temperature=1.0, **settings) for number in numbers]  # type: ignore[arg-type]
        assert set(draw(logits_V.expand(100, -1), samplers)) == {1, 2, 3}


def test_rows_that_are_no_numbers_have_no_token() -> None:
    settings: list[dict[str, Any]] = [{}, *SETTINGS]
    for bad in (torch.nan, torch.inf):
        logits_KV = torch.randn(3 * len(settings), 1000)
        logits_KV[::3, 700] = bad
        samplers = [At(0.5, **settings[row // 3]) for row in range(len(logits_KV))]
        drawn = draw(logits_KV, samplers)
        assert all(token is None for token in drawn[::3])
        for row, token in enumerate(drawn):
            if row % 3:
                assert [token] == draw(logits_KV[row : row + 1], [samplers[row]])
    assert draw(torch.full((1, 5), -torch.inf), [Sampler()]) == [None]
    # Tokens that a model rules out are no reason to fail.
    assert draw(torch.tensor([[-torch.inf, 0.0]]), [At(0.0, temperature=1.0)]) == [1]


def test_a_row_s_tokens_depend_on_its_own_seed_and_settings_alone() -> None:
    torch.manual_seed(2)
    steps_SKV = 3 * torch.randn(4, len(SETTINGS) + 1, 1500)
    settings: list[dict[str, Any]] = [{"repetition_penalty": 1.2}, *SETTINGS]

    def written(rows: Sequence[int]) -> dict[int, list[int | None]]:
        samplers = [Sampler(seed=row, context_ids=CONTEXT, **settings[row]) for row in rows]
        tokens: dict[int, list[int | None]] = {row: [] for row in rows}
        for logits_KV in steps_SKV:
            for row, sampler, token in zip(
                rows, samplers, draw(logits_KV[[*rows]], samplers), strict=True
            ):
                assert token is not None
                sampler.add(token)
                tokens[row].append(token)
        return tokens

    together = written(range(len(settings)))
    backwards = written(range(len(settings))[::-1])
    alone = {row: written([row])[row] for row in range(len(settings))}
    assert together == backwards == alone


def test_the_penalty_counts_for_tokens_as_they_are_drawn() -> None:
    logits_V = torch.tensor([2.0, 1.9, 1.8, -0.5])
    sampler = Sampler(repetition_penalty=1.2, context_ids=[3])
    drawn = []
    for _ in range(4):
        (token,) = draw(logits_V[None], [sampler])
        assert token is not None
        sampler.add(token)
        drawn.append(token)
    assert drawn == [0, 1, 2, 0]
    assert logits_V.tolist() == pytest.approx([2.0, 1.9, 1.8, -0.5])  # and are left alone


@pytest.mark.parametrize("penalty", [1.05, 1.3])
def test_greedy_decoding_with_a_penalty_is_that_of_transformers(
    embedded_pair: ModelPair, penalty: float
) -> None:
    """With an image in the prompt, whose placeholders count as tokens of the context."""
    sample = get_task("visual-search-medium").sample(3)
    prompt = [{"type": "image"}, {"type": "text", "text": sample.question}]
    processor, model = embedded_pair.processor, embedded_pair.policy.model
    text = processor.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True
    )
    inputs = processor(text=[text], images=list(sample.images), return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    settings: dict[str, Any] = {"max_new_tokens": 40}
    expected, plain = (
        model.generate(**inputs, do_sample=False, repetition_penalty=each, **settings)
        for each in (penalty, 1.0)
    )
    config = model.generation_config
    with ReplaySession(embedded_pair, "none") as session:
        session.append(sample.question, images=sample.images)
        assert session.token_ids == tuple(inputs["input_ids"][0].tolist())
        explicit = session.fork().generate(repetition_penalty=penalty, **settings)
        before = config.repetition_penalty
        config.repetition_penalty = penalty  # as a checkpoint's file says
        try:
            default = session.fork().generate(**settings)
            neutral = session.fork().generate(repetition_penalty=1.0, **settings)
        finally:
            config.repetition_penalty = before
        assert session.fork().generate(**settings) == neutral
    assert explicit.token_ids == default.token_ids == tuple(expected[0, length:].tolist())
    assert neutral.token_ids == tuple(plain[0, length:].tolist())


@pytest.mark.parametrize("penalty", [1.05, 1.3])
def test_a_random_model_with_a_penalty_is_that_of_transformers(
    pair: ModelPair, penalty: float
) -> None:
    """A model whose text repeats itself, so that the penalty changes it early."""
    prompt = segment(4, ("image", (1, 4, 8), 1), 3)
    model = pair.policy.model
    inputs: dict[str, Any] = {"input_ids": prompt.token_ids[None], **prompt.blocks[0].inputs}
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
    expected = model.generate(
        **inputs, do_sample=False, repetition_penalty=penalty, max_new_tokens=30
    )
    with ReplaySession(pair, "none") as session:
        session.append(prompt)
        plain = session.fork().generate(max_new_tokens=30)
        batch = Batch()
        together = session.join(batch, max_new_tokens=30, repetition_penalty=penalty)
        other = session.join(batch, max_new_tokens=30)
        while batch.step():
            pass
    found = tuple(expected[0, len(prompt.token_ids) :].tolist())
    assert tuple(together.ids) == found != plain.token_ids
    assert tuple(other.ids) == plain.token_ids
