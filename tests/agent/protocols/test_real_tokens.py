"""What policies read, token by token, with the tokenizers and templates of real checkpoints.

The expected ids are the tokenizer's, of a text that is spelled out here from the tags that the
checkpoints' own code writes. Nothing of ours renders it, and it is tokenized as a whole: were there
a seam between two parts that changes a token, the ids would differ.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conversations import CLIP, call, grounding, noise
from real_checkpoints import processor as real_processor
from scripted import ScriptedPolicy

from visreplay.agent import Loop, Question, Recipe, build_graph, get_protocol, load_recipe
from visreplay.agent.policy.encoder import ContextEncoder, token_grid
from visreplay.agent.state import observations
from visreplay.replay_core import ConfigError
from visreplay.tools import ImageStore

USER, ASSISTANT, END = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n"
DEFAULT_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


@pytest.fixture(scope="module")
def qwen25(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return real_processor(tmp_path_factory.mktemp("qwen2.5"), "qwen2.5-vl-7b")


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return real_processor(tmp_path_factory.mktemp("qwen3"), "qwen3-vl-8b")


def picture(tokens: int) -> str:
    return f"<|vision_start|>{'<|image_pad|>' * tokens}<|vision_end|>"


def video(tokens: int) -> str:
    return f"<|vision_start|>{'<|video_pad|>' * tokens}<|vision_end|>"


def read(
    processor: Any,
    recipe: Recipe,
    question: str | Question,
    *turns: str,
    size: tuple[int, int] = (140, 112),
    clip: bool = False,
) -> tuple[list[int], list[int]]:
    """The ids of a whole conversation as ours, and the visual tokens of each block in it."""
    protocol = get_protocol(recipe, token_grid(processor), ImageStore())
    reference = protocol.store.put(noise(0, *size))
    start = Loop(protocol).start(
        question, images=[] if clip else [reference], video=str(CLIP) if clip else None
    )
    policy: Any = ScriptedPolicy(turns)
    state: Any = build_graph(policy, protocol).invoke(start)
    assert state["stop_reason"] == "answered"
    assert (
        len(observations(state))
        + sum(use["error"] is not None for step in state["steps"] for use in step["tool_calls"])
        + sum(step["error"] is not None for step in state["steps"])
        == len(turns) - 1
    )
    encoder = ContextEncoder(processor, protocol.store, grid=protocol.grid)
    ids: list[int] = []
    blocks: list[int] = []
    begin = 0
    for at, message in enumerate(state["messages"]):
        if message["role"] == "assistant":
            segment = encoder.encode(state["messages"][:at], begin)
            ids += segment.token_ids.tolist()
            ids += processor.tokenizer.encode(message["content"][0]["text"])
            blocks += [block.length for block in segment.blocks]
            begin = at + 1
    return ids, blocks


def own(recipe: str, **texts: str) -> Recipe:
    """A recipe with a checkpoint's own texts: as a user's file has them."""
    shipped = load_recipe(recipe)
    return replace(shipped, texts=replace(shipped.texts, **texts))


def test_deepeyes(qwen25: Any) -> None:
    suffix = "\nThink first, then answer. Format:  <think>...</think>  <answer>...</answer> "
    turns = (
        "<think>Small.</think>" + call("image_zoom_in_tool", bbox_2d=[0, 0, 56, 56]),
        "<think>Again.</think>" + call("image_zoom_in_tool", bbox_2d=[900, 0, 999, 9]),
        "<think>Stop.</think><answer>A</answer>",
    )
    recipe = own("deepeyes", system="# Tools\nYou may call.", suffix=suffix)
    question = Question("Which sign?", {"A": "Stop", "B": "Go"})
    ids, blocks = read(qwen25, recipe, question, *turns)
    error = "Error: the box [900, 0, 999, 9] lies outside the image; x goes from 0 to 140 and y "
    expected = (
        f"<|im_start|>system\n# Tools\nYou may call.{END}{USER}{picture(20)}"
        f"Question: Which sign?\nOptions: \nA. Stop\nB. Go\n\n{suffix}{END}{ASSISTANT}"
        # The suffix stands within the tags again.
        f"{turns[0]}{END}{USER}<tool_response>{picture(4)}{suffix}</tool_response>{END}{ASSISTANT}"
        f"{turns[1]}{END}{USER}{error}from 0 to 112{END}{ASSISTANT}{turns[2]}"
    )
    assert blocks == [20, 4]
    assert ids == qwen25.tokenizer.encode(expected)


def test_mini_o3(qwen25: Any) -> None:
    crop = "After Action {action}, Observation {observation}:\n{image}.\nContinue."
    turns = (
        "<think>A sign.</think>" + grounding(0, 0, 0.5, 0.5),
        "<think>And?</think>" + grounding(0, 0, 1, 1, source="observation_7"),
        "<think>Yes.</think>" + grounding(0, 0, 1, 1, source="observation_1"),
        "<think>Clear.</think><answer>Stop</answer>",
    )
    recipe = own("mini-o3", system="Look.", crop=crop, error="ERROR. {error}\nFix it.")
    ids, blocks = read(qwen25, recipe, "What is it?", *turns, size=(420, 336))
    error = "ERROR. source is 'observation_7'; there are original_image, observation_1\nFix it."
    expected = (
        # A newline follows the picture.
        f"<|im_start|>system\nLook.{END}{USER}{picture(180)}\nWhat is it?{END}{ASSISTANT}"
        f"{turns[0]}{END}{USER}After Action 0, Observation 1:\n{picture(blocks[1])}.\nContinue."
        f"{END}{ASSISTANT}{turns[1]}{END}{USER}{error}{END}{ASSISTANT}"
        f"{turns[2]}{END}{USER}After Action 2, Observation 2:\n{picture(blocks[2])}.\nContinue."
        f"{END}{ASSISTANT}{turns[3]}"
    )
    assert blocks[0] == 180 and min(blocks) * 28 * 28 >= 40_000
    assert ids == qwen25.tokenizer.encode(expected)


def test_pixel_reasoner(qwen25: Any) -> None:
    turns = (
        "Closer.\n" + call("crop_image_normalized", bbox_2d=[0.2, 0.2, 0.5, 0.5], target_image=1),
        call("crop_image_normalized", bbox_2d=[0.2, 0.2, 0.5, 0.5], target_image=9),
        r"It is \boxed{A}.",
    )
    texts = {"crop": "\nHere (Image Size: {width}x{height}):{image}", "suffix": "\n\nThink."}
    recipe = own("pixel-reasoner", system="S", **texts)
    ids, blocks = read(qwen25, recipe, "What?", *turns, size=(560, 560))
    expected = (
        f"<|im_start|>system\nS{END}{USER}{picture(400)}What?\n\nThink.{END}{ASSISTANT}"
        # 0.3 and a tenth of the image on both sides are 280 px: enlarged to 256 tokens.
        f"{turns[0]}{END}{USER}\nHere (Image Size: 448x448):{picture(256)}{END}{ASSISTANT}"
        f"{turns[1]}{END}{USER}\nExecution error:\ntarget_image is 9; the images are numbered "
        f"from 1 to 2\n{END}{ASSISTANT}{turns[2]}"
    )
    assert blocks == [400, 256]
    assert ids == qwen25.tokenizer.encode(expected)


def test_pixel_reasoner_frames(qwen25: Any) -> None:
    turns = ("Look.\n" + call("select_frames", target_frames=[3, 5]), r"\boxed{B}")
    frames = "\nFrames (Frame Size: {width}x{height}, Numbered {first} to {last}):{images}"
    recipe = own("pixel-reasoner", system="S", frames=frames, suffix="")
    ids, (overview, first, second) = read(qwen25, recipe, "What?", *turns, clip=True)
    expected = (
        f"<|im_start|>system\nS{END}{USER}{video(overview)}What?{END}{ASSISTANT}{turns[0]}{END}{USER}"
        f"\nFrames (Frame Size: 644x280, Numbered 1 to 2):{picture(first)}{picture(second)}"
        f"{END}{ASSISTANT}{turns[1]}"
    )
    # As images of their own, frames are enlarged to 256 tokens, as any image is.
    assert first == second == 25 * 11 and overview == 8 * 23 * 10
    assert ids == qwen25.tokenizer.encode(expected)


def test_video_r1(qwen25: Any) -> None:
    turn = "<think>They ride.</think><answer>A</answer>"
    recipe = replace(own("video-r1", suffix="\nThink."), endings={"options": " One letter."})
    question = Question("What is it?", {"A": "bikes", "B": "cars"})
    ids, (overview,) = read(qwen25, recipe, question, turn, clip=True)
    expected = (
        # Without a system message, the template has one of its own.
        f"{DEFAULT_SYSTEM}{USER}{video(overview)}What is it?Options:\nA. bikes\nB. cars\n"
        f"\nThink. One letter.{END}{ASSISTANT}{turn}"
    )
    assert overview % 8 == 0 and overview // 8 * 28 * 28 <= 200_704
    assert ids == qwen25.tokenizer.encode(expected)


def test_mm_eureka(qwen25: Any) -> None:
    turn = r"<think>Half.</think><answer>\boxed{2}</answer>"
    ids, blocks = read(qwen25, own("mm-eureka", system="Solve."), "Find x.", turn, size=(1120, 896))
    assert blocks[0] * 28 * 28 <= 501_760
    expected = (
        f"<|im_start|>system\nSolve.{END}{USER}{picture(blocks[0])}Find x.{END}{ASSISTANT}{turn}"
    )
    assert ids == qwen25.tokenizer.encode(expected)


def test_qwen3_vl(qwen3: Any) -> None:
    def zoom(index: int, bbox: list[int]) -> str:
        return call("image_zoom_in_tool", bbox_2d=bbox, label="x", img_idx=index)

    turns = (
        zoom(0, [0, 0, 500, 500]) + "\n" + zoom(0, [500, 500, 1000, 1000]),
        zoom(2, [0, 0, 500, 500]),  # the second result
        zoom(4, [0, 0, 500, 500]),
        "It says Stop.",
    )
    protocol = get_protocol("qwen3-vl", token_grid(qwen3), ImageStore())
    reference = protocol.store.put(noise(0, 640, 512))
    policy: Any = ScriptedPolicy(turns)
    state: Any = build_graph(policy, protocol).invoke(
        Loop(protocol).start("What?", images=[reference])
    )
    first, second, third = observations(state)
    assert (first["source"], third["source"]) == (reference, second["images"][0])
    ids, blocks = [], []
    encoder = ContextEncoder(qwen3, protocol.store, grid=protocol.grid)
    begin = 0
    for at, message in enumerate(state["messages"]):
        if message["role"] == "assistant":
            segment = encoder.encode(state["messages"][:at], begin)
            ids += segment.token_ids.tolist()
            ids += qwen3.tokenizer.encode(message["content"][0]["text"])
            blocks += [block.length for block in segment.blocks]
            begin = at + 1
    signature = json.dumps(protocol.own_tools[0])
    system = (
        "# Tools\n\nYou can call functions to help with the user's question.\n\nTheir signatures "
        f"are given within <tools></tools> XML tags:\n<tools>\n{signature}\n</tools>\n\nTo call "
        "one, write a JSON object with its name and arguments within <tool_call></tool_call> XML "
        'tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
        "</tool_call>"
    )
    shown = [f"<tool_response>\n{picture(tokens)}\n</tool_response>" for tokens in blocks[1:]]
    error = "Tool Execution Error img_idx is 4; the images are numbered from 0 to 3"
    expected = (
        f"<|im_start|>system\n{system}{END}{USER}{picture(320)}What?{END}{ASSISTANT}"
        f"{turns[0]}{END}{USER}{shown[0]}\n{shown[1]}{END}{ASSISTANT}"
        f"{turns[1]}{END}{USER}{shown[2]}{END}{ASSISTANT}"
        f"{turns[2]}{END}{USER}<tool_response>\n{error}\n</tool_response>{END}{ASSISTANT}{turns[3]}"
    )
    assert blocks[0] == 320 and min(blocks) >= 256
    assert ids == qwen3.tokenizer.encode(expected)


@pytest.mark.parametrize("name", ["qwen25", "qwen3"])
def test_hermes(request: pytest.FixtureRequest, name: str) -> None:
    processor = request.getfixturevalue(name)
    side = token_grid(processor).factor
    turns = (
        call("crop", bbox_2d=[0, 0, 10 * side, 10 * side]),
        call("zoom", bbox_2d=[0, 0, 9, 9], image=7),
        "<answer>Stop</answer>",
    )
    recipe = own("hermes", system="S", suffix=" Answer.")
    ids, blocks = read(processor, recipe, "What?", *turns, size=(16 * side, 12 * side))
    error = "image is 7; the images are numbered from 1 to 2"
    expected = (
        f"<|im_start|>system\nS{END}{USER}Image 1 ({16 * side} x {12 * side} px):\n{picture(192)}\n"
        f"What? Answer.{END}{ASSISTANT}{turns[0]}{END}{USER}<tool_response>\n"
        f"Image 2 ({10 * side} x {10 * side} px):\n{picture(100)}\n</tool_response>{END}"
        f"{ASSISTANT}{turns[1]}{END}{USER}<tool_response>\nError: {error}\n</tool_response>{END}"
        f"{ASSISTANT}{turns[2]}"
    )
    assert blocks == [192, 100]
    assert ids == processor.tokenizer.encode(expected)


def test_a_turn_that_was_generated_to_its_end_goes_on_with_one_newline(qwen25: Any) -> None:
    """The end token is in the context already: neither twice, nor left out."""
    encoder = ContextEncoder(qwen25, ImageStore())
    ended = qwen25.tokenizer.encode("Yes.<|im_end|>")
    for token_ids in (ended, ended[:-1]):
        messages: Any = [
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
            {"role": "user", "content": [{"type": "text", "text": "b"}]},
        ]
        messages[1]["token_ids"] = token_ids
        ids = [
            *encoder.encode(messages[:1]).token_ids.tolist(),
            *token_ids,
            *encoder.encode(messages, 2).token_ids.tolist(),
        ]
        expected = f"{DEFAULT_SYSTEM}{USER}a{END}{ASSISTANT}Yes.{END}{USER}b{END}{ASSISTANT}"
        assert ids == qwen25.tokenizer.encode(expected)


def test_a_prompts_file_ends_without_its_newline(qwen25: Any, tmp_path: Path) -> None:
    from visreplay.tasks.commands.options import EpisodeOptions

    (tmp_path / "suffix.txt").write_text("\nThink first. \n", "utf-8")
    options: Any = EpisodeOptions(None, None, user_suffix=tmp_path / "suffix.txt")  # type: ignore[arg-type]
    recipe = options.worded(load_recipe("deepeyes"))
    assert recipe.texts.suffix == "\nThink first. "
    assert recipe.expects == ("system",)


def test_a_prompts_file_may_begin_with_the_mark_of_windows_but_must_be_text(tmp_path: Path) -> None:
    from visreplay.tasks.commands.options import EpisodeOptions

    path = tmp_path / "suffix.txt"
    options: Any = EpisodeOptions(None, None, user_suffix=path)  # type: ignore[arg-type]
    path.write_bytes("\ufeffDécris.\r\n".encode())
    assert options.worded(load_recipe("deepeyes")).texts.suffix == "Décris."
    path.write_bytes("Décris.".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"suffix\.txt' cannot be read as UTF-8"):
        options.worded(load_recipe("deepeyes"))
