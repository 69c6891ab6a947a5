"""Encode messages as the tokens and pixels of a context, one new part at a time.

Only what comes after the last assistant turn is rendered: see `replay_core/chat_template.py`.
"""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from visreplay.agent.messages import Message, VideoPart
from visreplay.replay_core import ContextError, Segment
from visreplay.replay_core.chat_template import render
from visreplay.replay_core.families.qwen import QwenTokens
from visreplay.replay_core.generation import run_to_end
from visreplay.replay_core.segment import VisualTokens
from visreplay.tools import ImageStore, TokenGrid, zoom
from visreplay.tools.types import Size

CHARACTERS_PER_TOKEN = 16
"""A bound: no text but a row of spaces has so many characters a token."""


class ContextEncoder:
    """Encodes the parts of a conversation that the policy reads.

    Args:
        processor: The checkpoint's processor (tokenizer, image and video processor, template).
        store: Resolves the messages' image references.
        tokens: How the model family writes visual tokens (the policy's adapter); None takes
            Qwen2-VL's and Qwen2.5-VL's way.
        lock: Held while the processor is called.
        grid: The budget that images are fitted to, a protocol's; None takes the processor's.
    """

    def __init__(
        self,
        processor: Any,
        store: ImageStore,
        tokens: VisualTokens | None = None,
        lock: AbstractContextManager[Any] | None = None,
        grid: TokenGrid | None = None,
    ) -> None:
        self.processor = processor
        self.tokens = tokens or QwenTokens(
            processor.image_token_id,
            processor.video_token_id,
            processor.image_processor.merge_size,
        )
        self.store = store
        own = token_grid(processor)
        self.grid = own if grid is None else grid
        # Frames of a video may be smaller than images.
        self._frame_grid = replace(self.grid, min_pixels=min(own.min_pixels, self.grid.min_pixels))
        self._lock = lock or nullcontext()

    def encode(self, messages: Sequence[Message], start: int = 0) -> Segment:
        """Encode `messages[start:]`, to be read after `messages[:start]`, up to the next answer.

        Args:
            messages: The conversation; none of `messages[start:]` is the assistant's.
            start: 0, or the index that follows the last assistant message.

        Returns:
            The token ids (with the template's opening of the assistant's turn at the end) and
            the visual blocks of the new part.
        """
        return run_to_end(self.encoding(messages, start))

    def encoding(
        self, messages: Sequence[Message], start: int = 0, room: int | None = None
    ) -> Generator[None, None, Segment]:
        """Encode as `encode` does, and pause after each image and video.

        Args:
            messages: See there.
            start: See there.
            room: How many tokens there is room for; what is more than that is not encoded.

        Returns:
            What `encode` returns, as the value of the generator.

        Raises:
            ContextError: There are more tokens.
        """
        visual_tokens = 0
        images, videos = [], []
        parts: list[VideoPart] = []
        for message in messages[start:]:
            for part in message["content"]:
                if part["type"] == "image":
                    images.append(zoom(self.store.get(part["image"]), grid=self.grid))
                    visual_tokens += self._tokens(images[-1].size)
                elif part["type"] == "video":
                    frames = [
                        zoom(self.store.get(frame), grid=self._frame_grid)
                        for frame in part["frames"]
                    ]
                    videos.append(np.stack([np.asarray(frame) for frame in frames]))
                    parts.append(part)
                    visual_tokens += -(-len(frames) // 2) * self._tokens(frames[0].size)
                else:
                    continue
                _check_room(visual_tokens, room)
                yield
        visual: dict[str, Any] = {}
        if images:
            visual["images"] = images
        if videos:
            visual |= {
                "videos": videos,
                "video_metadata": [_metadata(part["times"]) for part in parts],
                "do_sample_frames": False,
            }
        text = self._without_doubled_tags(render(self.processor, messages, start))
        try:
            with self._lock:
                batch = self.processor(
                    text=[text],
                    do_resize=False,  # every image fits the model's grid already
                    return_tensors="pt",
                    **visual,
                )
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ContextError(
                f"the processor cannot prepare the conversation ({type(error).__name__}: {error}): "
                "the checkpoint's tokenizer, chat template or processor may be damaged, or not "
                "belong together; name another `processor`"
            ) from error
        if "second_per_grid_ts" in batch:
            batch["second_per_grid_ts"] = [
                part.get("step_seconds", seconds)
                for part, seconds in zip(parts, batch["second_per_grid_ts"], strict=True)
            ]
        segment = Segment.from_processor(batch, self.tokens)
        _check_room(len(segment), room)
        return segment

    def _without_doubled_tags(self, text: str) -> str:
        """Take the tags off a video that the processor writes as frames, each between such tags.

        Up to 4.57, transformers put the frames in the place of the whole; 5.24 leaves the tags of
        the template around them, which Qwen3-VL has never read.
        """
        processor = self.processor
        start = getattr(processor, "vision_start_token", None)
        if start is None:
            return text
        video = processor.video_token
        return text.replace(f"{start}{video}{processor.vision_end_token}", video)

    def _tokens(self, size: Size) -> int:
        """Count the visual tokens of an image that fits the grid."""
        return size[0] * size[1] // self.grid.factor**2


def _check_room(tokens: int, room: int | None) -> None:
    if room is not None and tokens > room:
        raise ContextError(
            f"what is new of the conversation has {tokens} tokens or more, but there is room for "
            f"{room}: send less text, or fewer or smaller pictures"
        )


def check_text(messages: Sequence[Message], max_context: int | None) -> None:
    """Refuse a text that cannot be tokenized, or only with effort.

    Args:
        messages: A conversation.
        max_context: Largest number of tokens in it; None leaves it to the model.

    Raises:
        ContextError: The text is far too long, or has a half of a surrogate pair.
    """
    parts = [part for message in messages for part in message["content"]]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    characters = sum(map(len, texts))
    if max_context is not None and characters > CHARACTERS_PER_TOKEN * max_context:
        raise ContextError(
            f"the conversation has {characters} characters; its {max_context} tokens may have "
            f"{CHARACTERS_PER_TOKEN} each: send less text"
        )
    try:
        "".join(texts).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ContextError(
            f"the conversation holds {error.object[error.start]!a}, half of a surrogate pair, "
            "which no text in UTF-8 has: leave it out"
        ) from error


def token_grid(processor: Any) -> TokenGrid:
    """The token grid and pixel budget of a checkpoint's image processor.

    Raises:
        ValueError: it is not of the Qwen kind, which resizes to whole visual tokens.
    """
    images = processor.image_processor
    if not hasattr(images, "merge_size"):
        raise ValueError(
            f"the tools need an image processor that resizes to a grid of visual tokens, as Qwen's "
            f"do, but this one is a {type(images).__name__}: use the replay core by itself"
        )
    return TokenGrid(
        factor=images.patch_size * images.merge_size,
        min_pixels=images.size["shortest_edge"],
        max_pixels=images.size["longest_edge"],
        resample="bicubic" if images.resample == Image.Resampling.BICUBIC else "area",
    )


def _metadata(times: Sequence[float]) -> dict[str, Any]:
    """Describe frames to the video processor by their times.

    It writes a frame's number, divided by the rate, as its time: at one frame a second, the times
    themselves are the numbers. The pace of the frames, from which it computes the seconds of a
    step, is that of `len(times)` out of all frames.
    """
    spacing = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1.0
    length = len(times) * (spacing if spacing > 0 else 1.0)
    return {
        "total_num_frames": length,
        "fps": 1.0,
        "duration": length,
        "frames_indices": list(times),
    }
