"""Tasks of Inspect that show the solver at its limits, one evaluation each."""

from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import Sample, json_dataset
from inspect_ai.model import (
    ChatMessageUser,
    ContentVideo,
    GenerateConfig,
    get_model,
)
from inspect_ai.scorer import exact
from inspect_ai.solver import system_message

from visreplay.agent.inspect.registry import agent


def first(data: str) -> Sample:
    return json_dataset(data)[0]


def one(sample: Sample, max_steps: int | None = None, **options: Any) -> Task:
    limits = {} if max_steps is None else {"max_steps": max_steps}
    return Task(dataset=[sample], **{"solver": agent(**limits), "scorer": exact(), **options})


@task
def steps(data: str) -> Task:
    return one(first(data), max_steps=1)


@task
def turn_tokens(data: str) -> Task:
    return one(first(data), config=GenerateConfig(max_tokens=4))


@task
def three_messages(data: str) -> Task:
    return one(first(data), message_limit=3)


@task
def four_messages(data: str) -> Task:
    return one(first(data), message_limit=4)


@task
def all_tokens(data: str) -> Task:
    return one(first(data), token_limit=100)


@task
def epochs(data: str) -> Task:
    config = GenerateConfig(temperature=1.5, seed=5)
    return one(first(data), max_steps=2, epochs=4, config=config)


@task
def choices(data: str) -> Task:
    sample = first(data)
    sample.choices = ["red", "blue"]
    return one(sample, max_steps=1)


@task
def two_messages(data: str) -> Task:
    return one(first(data), solver=[system_message("Be brief."), agent()])


@task
def sent_video(data: str) -> Task:
    video = ContentVideo(video="data:video/mp4;base64,AAAA", format="mp4")
    return one(Sample(input=[ChatMessageUser(content=[video])], target="L"))


@task
def another_model(data: str) -> Task:
    return one(first(data), model=get_model("mockllm/model"))


@task
def several_answers(data: str) -> Task:
    return one(first(data), config=GenerateConfig(num_choices=2))
