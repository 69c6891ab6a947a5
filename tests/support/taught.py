"""The embedded policy, taught by heart to call the tools of LangChain's standard tests.

These tests want a model that follows instructions, and the embedded pair knows two games. So a copy
of it learns a reply for each tool that the tests offer, from the very tokens that `ReplayChatModel`
puts into the context. What is tested is the way from tools to tokens and back, on a real model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from langchain_core.messages import HumanMessage
from langchain_core.tools import BaseTool, tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_tests.integration_tests import chat_models as standard
from pydantic import BaseModel, Field, create_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText, AutoProcessor

from visreplay.agent import get_protocol
from visreplay.agent.chat.renderer import ChatRenderer
from visreplay.agent.policy.encoder import token_grid
from visreplay.replay_core import EMBEDDED, ModelPair
from visreplay.replay_core.chat_template import render
from visreplay.tools import ImageStore


@tool
def get_weather(location: str) -> str:
    """Get the weather at a location."""
    return "It's sunny."


@tool
def greeting_generator(answer_style: str) -> str:
    """Generate a greeting in a particular style of speaking."""
    return "Ahoy."


class Joke(BaseModel):
    """Joke to tell user."""

    setup: str = Field(description="question to set up a joke")
    punchline: str = Field(description="answer to resolve the joke")


class JokeDict(Joke):
    """Joke to tell user."""


ShortJoke = create_model(
    "Joke",
    __doc__=Joke.__doc__,
    setup=(str, Field(description="question to set up a joke")),
    punchline=(str | None, Field(default=None, description="answer to resolve the joke")),
)


@dataclass(frozen=True)
class Lesson:
    """A prompt, and what to write after the opening of a call that is forced."""

    prompt: str
    reply: str
    tools: tuple[BaseTool | type | Callable[..., Any], ...] = ()
    forced: bool = True


def call(arguments: str) -> str:
    """The rest of a forced call, arguments and all."""
    return f" {arguments}}}\n</tool_call>"


JOKE = call('{"setup": "Why?", "punchline": "So."}')
WEATHER = '"get_weather", "arguments":' + call('{"location": "here"}')
LESSONS = (
    Lesson("Hello", "Hello!"),
    Lesson(
        "What is the value of magic_function(3)? Use the tool.",
        call('{"input": 3}'),
        (standard.magic_function,),
    ),
    Lesson(
        "What is the value of magic_function_no_args()? Use the tool.",
        call("{}"),
        (standard.magic_function_no_args,),
    ),
    Lesson(
        "Using the tool, generate a Pirate greeting.",
        call('{"answer_style": "pirate"}'),
        (greeting_generator,),
    ),
    Lesson(
        "Create a customer named '你好啊集团' (Hello Group) - a Chinese technology company",
        call('{"customer_name": "你 こ", "description": ""}'),
        (standard.unicode_customer,),
    ),
    Lesson("Hello!", " " + WEATHER, (standard.magic_function, get_weather)),
    Lesson("Tell me a joke about cats.", JOKE, (Joke,)),
    Lesson("Tell me a joke about cats.", JOKE, (JokeDict,)),
    Lesson("Give me the setup to a joke about cats, no punchline.", JOKE, (ShortJoke,)),
    Lesson("Give me a joke about cats, include the punchline.", JOKE, (ShortJoke,)),
    Lesson(
        "What is the weather in San Francisco, CA?",
        '<tool_call>\n{"name": ' + WEATHER,
        (get_weather,),
        forced=False,
    ),
)


def taught_pair(most: int = 60) -> ModelPair:
    """The embedded pair with a policy that knows the lessons.

    Args:
        most: How often each lesson is repeated before it is given up.
    """
    processor = AutoProcessor.from_pretrained(EMBEDDED / "policy")
    dialect = get_protocol("hermes", token_grid(processor), ImageStore())
    interpreter = ChatRenderer(dialect, processor.tokenizer)
    examples = []
    for lesson in LESSONS:
        signatures = [convert_to_openai_tool(tool) for tool in lesson.tools]
        names = [signature["function"]["name"] for signature in signatures]
        asked = interpreter.conversation([HumanMessage(lesson.prompt)], signatures)
        before = render(processor, asked)
        if lesson.forced and names:
            before += dialect.call_opening(names)
        examples.append((processor(text=[before], return_tensors="pt"), lesson.reply))
    return learnt(processor, examples, most)


def learnt(processor: Any, examples: Sequence[tuple[Any, str]], most: int = 60) -> ModelPair:
    """The embedded pair with a policy that knows replies by heart.

    Args:
        processor: The policy's.
        examples: What is read, as a batch of one of the processor's, and the reply to it.
        most: How often each is repeated before it is given up.
    """
    whole = []
    for batch, reply in examples:
        read = batch["input_ids"][0]
        written = processor.tokenizer.encode(reply + processor.tokenizer.eos_token)
        ids_T = torch.cat([read, torch.tensor(written)])
        extra = {name: batch[name] for name in ("pixel_values", "image_grid_thw") if name in batch}
        if "mm_token_type_ids" in batch:
            kinds = batch["mm_token_type_ids"]
            extra["mm_token_type_ids"] = torch.nn.functional.pad(kinds, (0, len(written)))
        whole.append((len(read), ids_T, extra))
    policy = AutoModelForImageTextToText.from_pretrained(EMBEDDED / "policy")
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-3)
    for _ in range(most):
        known = True
        for start, ids_T, extra in whole:
            logits_TV = policy(input_ids=ids_T[None], **extra).logits[0, start - 1 : -1]
            loss = cross_entropy(logits_TV, ids_T[start:])
            known &= bool((logits_TV.softmax(-1).gather(-1, ids_T[start:, None]) > 0.8).all())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if known:
            break
    assert known, f"the lessons are not known after {most} repetitions"
    base = AutoModelForImageTextToText.from_pretrained(EMBEDDED / "base")
    return ModelPair.of(policy, base, processor)
