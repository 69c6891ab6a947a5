"""How a turn is decoded: the caller's settings, then the recipe's, then the checkpoint's."""

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import pytest
from openai_served import prompt
from PIL import Image

from visreplay.agent import ReplayChatModel, VisualAgent, get_protocol
from visreplay.agent.chat.chat_policy import ChatPolicy
from visreplay.agent.openai.request_schema import ChatRequest
from visreplay.agent.openai.service import ChatService, ServiceConfig
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.policy.replay_policy import ReplayPolicy
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.serving.limits import ServerLimits
from visreplay.replay_core import Method, ModelPair, ReplayConfig
from visreplay.tools import ImageStore

NEUTRAL = Sampling(0.0, 1.0, 0, 1.0, 2048)
PLAIN = ReplayConfig(Method.NONE)
QWEN2_5: dict[str, Any] = {
    "do_sample": True,
    "temperature": 0.1,
    "top_p": 0.001,
    "top_k": 1,
    "repetition_penalty": 1.05,
}
RECIPE = Sampling(top_p=0.9, max_new_tokens=99)


@pytest.fixture
def published(embedded_pair: ModelPair) -> Iterator[ModelPair]:
    """The embedded pair, with the settings of Qwen2.5-VL-7B's file."""
    assert embedded_pair.base is not None
    for model in (embedded_pair.policy.model, embedded_pair.base.model):
        model.generation_config.update(**QWEN2_5)
    yield embedded_pair
    for model in (embedded_pair.policy.model, embedded_pair.base.model):
        model.generation_config.update(**dict.fromkeys(QWEN2_5))


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("temperature", [-1.0, math.nan, math.inf]),
        ("top_p", [0.0, 1.1, math.nan]),
        ("top_k", [-1]),
        ("repetition_penalty", [0.0, math.nan]),
        ("max_new_tokens", [0, math.nan]),
    ],
)
def test_values_out_of_range(setting: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"{setting} is {value}"):
            Sampling(**{setting: value})


def test_settings_that_are_not_set_are_filled() -> None:
    some = Sampling(temperature=0.5, top_k=3)
    other = Sampling(temperature=0.0, top_p=0.9, max_new_tokens=7)
    assert some.filled(other) == Sampling(0.5, 0.9, 3, None, 7)
    assert some.filled(Sampling(max_new_tokens=5), other).max_new_tokens == 5
    assert Sampling().resolved() == NEUTRAL
    # The top-p of the other belongs to its temperature.
    assert some.resolved(other) == Sampling(0.5, 1.0, 3, 1.0, 7)
    assert [each.greedy for each in (Sampling(), Sampling(1.0), Sampling(1.0, top_k=1))] == [
        *(True, False, True)
    ]


def test_the_order_of_settings(published: ModelPair) -> None:
    policy = ReplayPolicy(published, PLAIN, ImageStore(), recipe_sampling=RECIPE)
    assert policy.resolved() == Sampling(0.1, 0.9, 1, 1.05, 99)
    own = Sampling(temperature=1.0, repetition_penalty=1.0)
    policy = ReplayPolicy(published, PLAIN, ImageStore(), sampling=own, recipe_sampling=RECIPE)
    assert policy.resolved() == Sampling(1.0, 0.9, 0, 1.0, 99)
    assert policy.resolved(Sampling(top_k=5, max_new_tokens=3)) == Sampling(1.0, 0.9, 5, 1.0, 3)
    assert policy.decoding(Sampling(top_k=5))["top_k"] == 5


def test_the_model_that_answers_decides(published: ModelPair) -> None:
    assert published.base is not None
    published.base.model.generation_config.repetition_penalty = 1.2
    swapped = ReplayPolicy(published, replace(PLAIN, swap_roles=True), ImageStore())
    assert swapped.resolved().repetition_penalty == 1.2


def test_records_have_what_was_used(published: ModelPair) -> None:
    protocol = get_protocol("embedded", token_grid(published.processor), ImageStore())
    recipe = replace(protocol.recipe, decoding=RECIPE)
    agent = VisualAgent(published, replace(protocol, recipe=recipe), PLAIN)
    used = Sampling(0.1, 0.9, 1, 1.05, 99)
    assert agent.sampling == agent.with_store(ImageStore()).sampling == used
    state = agent.start("Which character?", images=[Image.new("RGB", (112, 112), "red")])
    *_, end = agent.stream(state)
    assert agent.trajectory(end).settings["sampling"] == asdict(used)
    model = ReplayChatModel(pair=published, replay=PLAIN, top_p=0.5)
    assert model._identifying_params["top_p"] == 0.5
    assert model._identifying_params["repetition_penalty"] == 1.05
    assert model._get_ls_params(repetition_penalty=1.0)["ls_max_tokens"] == 2048
    model.close()


def test_several_answers_to_a_request_are_sampled(published: ModelPair) -> None:
    config = ServiceConfig(published, {"policy": PLAIN}, limits=ServerLimits(max_new_tokens=50))
    chat = ChatPolicy(published, PLAIN)

    def decoding(
        config: ServiceConfig = config, chat: ChatPolicy = chat, **fields: Any
    ) -> Sampling:
        body = {"model": "policy", "messages": prompt(), **fields}
        request = ChatRequest.model_validate(body)
        return chat.policy.resolved(ChatService(config)._sampling(request, chat))

    assert decoding() == Sampling(0.1, 0.001, 1, 1.05, 50)
    assert decoding(n=2) == Sampling(1.0, 1.0, 0, 1.05, 50)
    assert decoding(n=2, temperature=0).temperature == 0
    warm = replace(config, sampling=Sampling(temperature=0.7, top_k=9, max_new_tokens=10))
    assert decoding(warm, n=2) == decoding(warm) == Sampling(0.7, 1.0, 9, 1.05, 10)
    assert decoding(warm, top_k=0, repetition_penalty=1.0) == Sampling(0.7, 1.0, 0, 1.0, 10)
    # The limit of a turn: the recipe's, within the server's, which holds where there is none.
    recipe = replace(chat.protocol.recipe, decoding=Sampling(max_new_tokens=7))
    assert decoding(chat=ChatPolicy(published, PLAIN, recipe=recipe)).max_new_tokens == 7
    recipe = replace(recipe, decoding=Sampling(max_new_tokens=8192))
    assert decoding(chat=ChatPolicy(published, PLAIN, recipe=recipe)).max_new_tokens == 50
    large = replace(config, limits=ServerLimits(max_new_tokens=4096))
    assert decoding(large).max_new_tokens == 4096
