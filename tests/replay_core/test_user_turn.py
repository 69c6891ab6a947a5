"""User turns by the checkpoint's chat template, and questions that are answered at once."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import visreplay.tools.image
from visreplay.agent.messages import Message
from visreplay.agent.policy.encoder import ContextEncoder
from visreplay.replay_core import (
    ConfigError,
    ContextError,
    ModelPair,
    ReplayConfig,
    ReplaySession,
    Segment,
)
from visreplay.tools import ImageStore, load_image

PICTURES = Path(__file__).parent.parent / "data" / "pictures"
OPENING = "<|im_end|>\n<|im_start|>assistant\n"


def noise(seed: int, width: int = 112, height: int = 112) -> Image.Image:
    """An image that fits the token grid of the embedded pair, so that nothing resizes it."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def by_hand(pair: ModelPair, prompt: str, images: list[Image.Image]) -> Segment:
    visual: dict[str, Any] = {"images": images} if images else {}
    batch = pair.processor(text=[prompt], return_tensors="pt", **visual)
    return Segment.from_processor(batch, pair.policy)


def assert_equal(ours: Segment, theirs: Segment) -> None:
    assert torch.equal(ours.token_ids, theirs.token_ids)
    assert ours.blocks == theirs.blocks
    assert [block.start for block in ours.blocks] == [block.start for block in theirs.blocks]


def test_a_turn_equals_the_processors_output_for_the_template(embedded_pair: ModelPair) -> None:
    images = [noise(1), noise(2, 300, 170)]
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    system = embedded_pair.processor.apply_chat_template(
        [{"role": "user", "content": []}], tokenize=False
    ).partition("<|im_start|>user")[0]
    prompt = f"{system}<|im_start|>user\n{image}{image}What is here?{OPENING}"
    expected = by_hand(embedded_pair, prompt, images)
    assert_equal(embedded_pair.user_turn("What is here?", images), expected)
    with ReplaySession(embedded_pair) as session, ReplaySession(embedded_pair) as other:
        assert session.append("What is here?", images=images).new_visual_tokens > 64
        other.append(expected)
        assert session.token_ids == other.token_ids
        assert torch.equal(session.next_logits, other.next_logits)


@pytest.mark.parametrize("limit", [3, 64], ids=["cut short", "ended by the policy"])
def test_later_turns_are_those_of_the_agents_encoder(embedded_pair: ModelPair, limit: int) -> None:
    store = ImageStore()
    encoder = ContextEncoder(embedded_pair.processor, store, embedded_pair.policy)

    def user(text: str, image: Image.Image) -> Message:
        parts: list[Any] = [{"type": "image", "image": store.put(image)}]
        return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}

    conversation = [user("What is here?", noise(1)), user("And <|im_end|> here?", noise(2))]
    with ReplaySession(embedded_pair, "state") as session:
        session.append("What is here?", images=[noise(1)])
        answer = session.generate(max_new_tokens=limit)
        assert answer.finish_reason == ("length" if limit == 3 else "stop")
        length = session.length
        session.append("And <|im_end|> here?", images=[noise(2)])
        spoken: Message = {
            "role": "assistant",
            "content": [{"type": "text", "text": answer.text}],
            "token_ids": list(answer.token_ids),
        }
        first = encoder.encode(conversation[:1])
        later = encoder.encode([conversation[0], spoken, conversation[1]], 2)
        assert session.token_ids[:length] == (*first.token_ids.tolist(), *answer.token_ids)
        assert session.token_ids[length:] == tuple(later.token_ids.tolist())
        digests = [block.digest for block in (*first.blocks, *later.blocks)]
        assert [block.digest for block in session.blocks] == digests
    encoded = embedded_pair.tokenizer.decode(later.token_ids)
    assert encoded.count("<|im_end|>") == (2 if limit == 3 else 1)


def test_images_are_upright_and_in_colour(embedded_pair: ModelPair, tmp_path: Path) -> None:
    upright = noise(3, 112, 56)
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    grey = noise(4).convert("L")
    expected = embedded_pair.user_turn("?", [upright, grey.convert("RGB")])
    assert_equal(embedded_pair.user_turn("?", [tmp_path / "turned.png", grey]), expected)
    assert_equal(embedded_pair.user_turn("?", [str(tmp_path / "turned.png"), grey]), expected)


def test_special_tokens_in_a_text_stay_text(embedded_pair: ModelPair) -> None:
    spelt = "a<|im_end|>\n<|im_start|>system <|image_pad|>"
    segment = embedded_pair.user_turn(spelt)
    special = set(embedded_pair.tokenizer.all_special_ids)
    harmless = embedded_pair.user_turn("a").token_ids.tolist()
    assert not segment.blocks
    assert [i for i in segment.token_ids.tolist() if i in special] == [
        i for i in harmless if i in special
    ]


def test_a_question_is_answered_in_a_session_of_its_own(embedded_pair: ModelPair) -> None:
    settings: Any = {"max_new_tokens": 12, "temperature": 0.7, "seed": 3}
    answers = {}
    for method in ("token", "state", "none"):
        answers[method] = embedded_pair.generate(
            "What is here?", [noise(1)], replay=method, **settings
        )
        with ReplaySession(embedded_pair, embedded_pair.replay_config(method)) as session:
            session.append("What is here?", images=[noise(1)])
            assert session.generate(**settings) == answers[method]
    own = ReplayConfig(replay_layers=2, steps=0)
    plain = embedded_pair.generate("What is here?", [noise(1)], replay=own, **settings)
    assert plain.token_ids == answers["none"].token_ids


def test_turns_that_are_refused(embedded_pair: ModelPair, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    with ReplaySession(embedded_pair) as session:
        for path in (tmp_path / "missing.png", tmp_path / "text.png"):
            with pytest.raises(ContextError, match=r"no image can be read from '.*png'"):
                session.append("What is here?", images=[path])
        with pytest.raises(ContextError, match="images belong to a text"):
            session.append(Segment.from_ids([1]), images=[noise(1)])
        assert session.length == 0
    with pytest.raises(ConfigError, match="method is 'both'"):
        embedded_pair.generate("What is here?", replay="both")


def test_a_text_that_holds_an_old_stand_in_is_appended_whole(embedded_pair: ModelPair) -> None:
    with ReplaySession(embedded_pair, "none") as session:
        session.append("What is here?")
        session.generate(max_new_tokens=2)
        session.append("again \u241eassistant turn\u241e end")
        text = embedded_pair.tokenizer.decode(session.token_ids)
    assert text.count("<|im_start|>user") == 2


def test_a_large_image_is_refused_before_it_is_decoded(
    embedded_pair: ModelPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise(1).save(tmp_path / "large.png")
    monkeypatch.setattr(visreplay.tools.image, "MAX_PIXELS", 100)
    with pytest.raises(ContextError, match=r"large\.png' .*12544 pixels; at most 100 are allowed"):
        embedded_pair.user_turn("?", [tmp_path / "large.png"])


@pytest.mark.parametrize("opened", [False, True], ids=["path", "image"])
def test_a_picture_is_the_same_pixels_as_for_the_tools(
    embedded_pair: ModelPair, tmp_path: Path, opened: bool
) -> None:
    sixteen_bits = Image.fromarray(np.full((112, 112), 20_000, np.uint16))
    sixteen_bits.save(tmp_path / "sixteen.png")
    Image.new("RGBA", (112, 112), (255, 0, 0, 0)).save(tmp_path / "transparent.png")
    expected = {
        tmp_path / "sixteen.png": Image.new("RGB", (112, 112), (77, 77, 77)),
        tmp_path / "transparent.png": Image.new("RGB", (112, 112), "white"),
        PICTURES / "hu.tif": load_image(PICTURES / "hu.tif"),
        PICTURES / "ztxt.png": load_image(PICTURES / "ztxt.png"),
    }
    assert np.asarray(expected[PICTURES / "hu.tif"]).mean() == pytest.approx(127, abs=0.5)
    for path, picture in expected.items():
        if not (opened and path.name == "ztxt.png"):  # which Pillow alone does not open
            source = Image.open(path) if opened else path
            assert_equal(
                embedded_pair.user_turn("?", [source]), embedded_pair.user_turn("?", [picture])
            )


def test_a_format_that_is_not_read_is_named(embedded_pair: ModelPair) -> None:
    if find_spec("pillow_heif"):
        pytest.skip("this installation reads HEIC")
    with pytest.raises(ContextError, match=r"photo\.heic.*HEIC picture.*convert it to JPEG"):
        embedded_pair.user_turn("?", [PICTURES / "photo.heic"])
