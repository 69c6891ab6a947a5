"""What a model behind a URL is sent, and how what it wrote becomes a turn."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from endpoints import Answer, Json, LittleEndpoint, completion, little_endpoint
from PIL import Image

from visreplay.agent import Message, Sampling, get_protocol
from visreplay.agent.messages import VideoPart, image, text, user
from visreplay.agent.policy.endpoint import Choice, Endpoint, EndpointError
from visreplay.agent.policy.remote_policy import RemotePolicy, ended
from visreplay.agent.policy.sampling import requested
from visreplay.replay_core import ContextError
from visreplay.tools import ImageStore, TokenGrid, zoom

GRID = TokenGrid(min_pixels=56 * 56, max_pixels=112 * 112)
HELLO: list[Message] = [user(text("Hello"))]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def policy_at(server: LittleEndpoint, store: ImageStore | None = None, **more: Any) -> RemotePolicy:
    endpoint = Endpoint(server.url, retries=0)
    return RemotePolicy(endpoint, "some-model", store or ImageStore(), grid=GRID, **more)


def sent(messages: list[Message], store: ImageStore | None = None, **more: Any) -> Json:
    """The body of the request for a turn."""
    with little_endpoint() as server:
        policy_at(server, store, **more).act(messages)
        (body,) = server.requests
    return body


def picture(part: Json) -> Image.Image:
    head, _, data = part["image_url"]["url"].partition(",")
    assert (part["type"], head) == ("image_url", "data:image/png;base64")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


def test_a_conversation_is_sent_in_its_order_with_pictures_on_the_grid() -> None:
    store = ImageStore()
    large, small = noise(300, 200), noise(20, 20, 1)
    messages: list[Message] = [
        {"role": "system", "content": [text("Be "), text("brief.")]},
        user(
            text("One:"), text(" "), image(store.put(large)), text("two:"), image(store.put(small))
        ),
        {"role": "assistant", "content": [text("<tool_call>")], "token_ids": [1, 2, 3]},
        user(text("Error: no")),
    ]
    body = sent(messages, store)
    assert body["model"] == "some-model"
    system, question, turn, observation = body["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert turn == {"role": "assistant", "content": "<tool_call>"}
    assert observation == {"role": "user", "content": "Error: no"}
    one, first, two, second = question["content"]
    assert (one, two) == ({"type": "text", "text": "One: "}, {"type": "text", "text": "two:"})
    assert same(picture(first), zoom(large, grid=GRID)) and picture(first).size == (112, 84)
    assert same(picture(second), zoom(small, grid=GRID)) and picture(second).size == (56, 56)


def test_a_video_is_sent_as_its_frames_after_their_times() -> None:
    store = ImageStore()
    frames = [noise(28, 28, seed) for seed in range(2)]
    video: VideoPart = {
        "type": "video",
        "frames": [store.put(frame) for frame in frames],
        "times": [0.5, 1.25],
    }
    (message,) = sent([user(text("Clip:\n"), video, text("\nWhat?"))], store)["messages"]
    first, one, second, two, last = message["content"]
    assert [part["text"] for part in (first, second, last)] == [
        "Clip:\nFrame at 0.50 s:\n",
        "\nFrame at 1.25 s:\n",
        "\n\nWhat?",
    ]
    # Frames may be smaller than images.
    assert same(picture(one), frames[0]) and same(picture(two), frames[1])


def test_a_turn_is_the_text_of_the_answer() -> None:
    with little_endpoint(Answer(completion("So <answer>B</answer>", "length"))) as server:
        turn = policy_at(server).act(HELLO)
    assert turn.text == "So <answer>B</answer>" and turn.finish_reason == "length"
    assert turn.message == {"role": "assistant", "content": [text(turn.text)]}
    assert turn.replay is None and turn.seconds > 0


def test_only_what_is_set_is_sent() -> None:
    greedy = sent(HELLO, sampling=Sampling(max_new_tokens=7))
    assert greedy.keys() == {"model", "messages", "temperature", "max_tokens"}
    assert (greedy["temperature"], greedy["max_tokens"]) == (0.0, 7)
    sampled = Sampling(0.5, top_p=0.9, top_k=20, repetition_penalty=1.05)
    with little_endpoint() as server:
        policy = policy_at(server, sampling=sampled, stop_strings=("</tool_call>",))
        policy.act(HELLO, seed=11)
        (body,) = server.requests
    names = ("temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed", "stop")
    expected = (0.5, 0.9, 20, 1.05, 2048, 11, ["</tool_call>"])
    assert tuple(body[name] for name in names) == expected
    assert policy.resolved() == Sampling(0.5, 0.9, 20, 1.05, 2048)


def test_the_recipe_decides_on_what_the_caller_leaves_open() -> None:
    recipe = Sampling(temperature=0.7, top_p=0.8, repetition_penalty=1.1, max_new_tokens=64)
    assert requested(Sampling(), recipe) == recipe
    # Its top-p was chosen for its temperature.
    assert requested(Sampling(temperature=1.0), recipe) == Sampling(
        temperature=1.0, repetition_penalty=1.1, max_new_tokens=64
    )
    assert requested(Sampling(), Sampling()) == Sampling(temperature=0.0, max_new_tokens=2048)
    again = requested(Sampling(top_k=3), recipe)
    assert requested(again, recipe) == again


STOPS = ("</tool_call>", "</grounding>")


@pytest.mark.parametrize(
    ("content", "choice", "written"),
    [
        # The endpoint does not say what ended the turn: an open tag does.
        ("<tool_call>{}", {}, "<tool_call>{}</tool_call>"),
        ("<grounding>{}", {}, "<grounding>{}</grounding>"),
        ("<tool_call> or <grounding>{}", {}, "<tool_call> or <grounding>{}</grounding>"),
        ("<answer>B</answer>", {}, "<answer>B</answer>"),
        ("Nothing is open", {}, "Nothing is open"),
        # vLLM and SGLang say it.
        ("{}", {"stop_reason": "</tool_call>"}, "{}</tool_call>"),
        ("<tool_call>{}", {"stop_reason": None}, "<tool_call>{}"),
        ("<tool_call>{}", {"stop_reason": 151645}, "<tool_call>{}"),
        ("<grounding>", {"matched_stop": "</grounding>"}, "<grounding></grounding>"),
        ("<tool_call>{}", {"matched_stop": 151645}, "<tool_call>{}"),
        # The text has it already, or goes on after it.
        ("<tool_call>{}</tool_call>", {}, "<tool_call>{}</tool_call>"),
        ("<tool_call>{}</tool_call>\n<tool_resp", {}, "<tool_call>{}</tool_call>"),
        # The limit of tokens ended it.
        ("<tool_call>{", {"finish_reason": "length"}, "<tool_call>{"),
    ],
)
def test_the_stop_string_that_was_cut_off_is_put_back(
    content: str, choice: Json, written: str
) -> None:
    whole = completion(content, **{"finish_reason": "stop", **choice})["choices"][0]
    assert ended(Choice.model_validate(whole), STOPS) == written


def test_a_stop_string_that_is_no_closing_tag_is_put_back_if_it_is_named() -> None:
    whole = completion("Observation")["choices"][0]
    assert ended(Choice.model_validate(whole), ("END",)) == "Observation"
    named = Choice.model_validate({**whole, "stop_reason": "END"})
    assert ended(named, ("END",)) == "ObservationEND"


def test_a_call_that_an_endpoint_cut_off_is_parsed() -> None:
    """DeepEyes' turns end with their call, whose closing tag no endpoint sends."""
    protocol = get_protocol("deepeyes", GRID, ImageStore())
    call = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 9, 9]}}'
    after = "</tool_call>And then so much that the limit of tokens"
    for answer in (completion(call), completion(call + after, "length")):
        with little_endpoint(Answer(answer)) as server:
            policy = policy_at(server, stop_strings=protocol.stop_strings)
            turn = policy.act(HELLO)
        assert turn.text == f"{call}</tool_call>" and turn.finish_reason == "stop"
        (parsed,) = protocol.read(turn.text).calls
        assert parsed["name"] == "image_zoom_in_tool"


def test_turns_are_written_at_once_up_to_a_bound() -> None:
    with little_endpoint(Answer(completion("Hello."), delay=0.2)) as server:
        policy = policy_at(server, parallel=3, sampling=Sampling(temperature=1.0))
        turns = policy.act_together([(HELLO, seed) for seed in range(7)])
        assert [turn.text for turn in turns] == ["Hello."] * 7
        assert server.most == 3
        assert sorted(body["seed"] for body in server.requests) == list(range(7))


def test_a_turn_that_fails_fails_the_others_too() -> None:
    with little_endpoint(Answer("gone", 500)) as server:
        policy = policy_at(server, parallel=2)
        with pytest.raises(EndpointError, match="status 500"):
            policy.act_together([(HELLO, seed) for seed in range(50)])
        assert len(server.requests) < 50, "those that had not begun were not sent"


def test_a_closed_policy_can_be_used_again() -> None:
    store = ImageStore()
    question = [user(image(store.put(noise(56, 56))), text("What?"))]
    with little_endpoint() as server:
        policy = policy_at(server, store)
        policy.act(question)
        policy.close()
        policy.close()
        policy.act(question)
        first, second = server.requests
    assert first == second


def test_a_conversation_that_nobody_can_answer() -> None:
    with little_endpoint() as server:
        policy = policy_at(server)
        for wrong in ([], [*HELLO, {"role": "assistant", "content": []}]):
            with pytest.raises(ValueError, match="must end with a turn that the policy can answer"):
                policy.act(wrong)
        with pytest.raises(ContextError, match="half of a surrogate pair"):
            policy.act([user(text("\ud800"))])
        assert server.requests == []
