"""Clients of the doors do not notice who writes: answers are those of the embedded engine."""

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from on_vllm import SCENES, samples
from openai import OpenAI
from openai_served import client_of, number, service
from served import served

from visreplay.agent.langchain.chat_model import ReplayChatModel
from visreplay.agent.openai.routes import openai_app
from visreplay.agent.vllm.writer import VllmWriter
from visreplay.replay_core import ModelPair


@pytest.fixture
def client(embedded_pair: ModelPair, writer: VllmWriter) -> Iterator[OpenAI]:
    with (
        served(openai_app(service(embedded_pair, writer=writer))) as address,
        client_of(address) as client,
    ):
        yield client


@pytest.fixture
def embedded(embedded_pair: ModelPair) -> Iterator[OpenAI]:
    with served(openai_app(service(embedded_pair))) as address, client_of(address) as client:
        yield client


def ask(client: OpenAI, which: int = 0, **options: Any) -> Any:
    return client.chat.completions.create(
        model="policy+replay",
        messages=number(which),  # type: ignore[arg-type]
        **{"temperature": 0, **options},
    )


def test_an_answer_and_its_log_probabilities(client: OpenAI, embedded: OpenAI) -> None:
    ours, theirs = (ask(each, logprobs=True, top_logprobs=2) for each in (embedded, client))
    assert theirs.choices[0].message.content == ours.choices[0].message.content
    assert theirs.usage == ours.usage
    for one, other in zip(
        theirs.choices[0].logprobs.content, ours.choices[0].logprobs.content, strict=True
    ):
        assert one.token == other.token
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


def test_a_stream_with_a_stop_string(client: OpenAI, embedded: OpenAI) -> None:
    def text(of: OpenAI) -> str:
        pieces = ask(of, stream=True, stop=[" so"])
        return "".join(piece.choices[0].delta.content or "" for piece in pieces)

    assert text(client) == text(embedded)


def test_several_answers_of_one_question(client: OpenAI) -> None:
    first, again = (ask(client, n=4, temperature=1.5, seed=3) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) > 1


def test_a_client_that_leaves_ends_its_turn(client: OpenAI) -> None:
    with ask(client, stream=True) as stream:
        next(iter(stream))
    assert ask(client).choices[0].message.content


def test_a_chat_model(embedded_pair: ModelPair, writer: VllmWriter) -> None:
    sample = samples(SCENES, 1)[0]
    replies = []
    for engine in (None, writer):
        model = ReplayChatModel(
            pair=embedded_pair, replay="state", protocol="embedded", max_tokens=96, writer=engine
        )
        question = [model.image(sample.images[0]), {"type": "text", "text": sample.question}]
        replies.append(model.invoke([HumanMessage(question)]).content)  # type: ignore[arg-type]
    assert replies[0] == replies[1]
