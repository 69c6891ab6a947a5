"""Text that is decoded token by token is the text of the whole."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from visreplay.agent.chat.text_stream import TextStream
from visreplay.replay_core import EMBEDDED

WORDS = "the cat, 你好 мир café 😀😃 👩‍👩‍👧 नमस्ते \ufffd\n  é "
SPECIAL = ["<unk>", "<s>", "</s>"]


def byte_level() -> PreTrainedTokenizerFast:
    """Trained on few words: many characters are two to four tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([WORDS] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>")


def sentencepiece() -> PreTrainedTokenizerFast:
    """Spaces belong to words, the first one is left out, and rare characters are bytes."""
    words = ["\u2581", "\u2581the", "the", "\u2581cat", "cat", ",", "é", "\u2581\u2581"]
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    vocabulary = [(piece, -10.0 if piece.startswith("<") else -2.0) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(vocabulary, 0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>")


TOKENIZERS: dict[str, Any] = {
    "embedded": AutoTokenizer.from_pretrained(EMBEDDED / "policy"),
    "byte level": byte_level(),
    "sentencepiece": sentencepiece(),
    "python": ByT5Tokenizer(),
}


def streamed(tokenizer: Any, ids: list[int]) -> str:
    stream = TextStream(tokenizer)
    return "".join(map(stream.push, ids)) + stream.finish()


def whole(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return text


@pytest.mark.parametrize("name", ["embedded", "byte level", "python"])
@given(st.data())
@settings(deadline=None, max_examples=150)
def test_any_tokens_are_decoded_as_the_whole(name: str, data: st.DataObject) -> None:
    """Whatever they are: half of a character, bytes that no text has, special tokens."""
    tokenizer = TOKENIZERS[name]
    every = range(len(tokenizer))
    broken = [token for token in every if "\ufffd" in tokenizer.decode([token])] or every
    tokens = st.sampled_from(every) | st.sampled_from(broken)
    ids = data.draw(st.lists(tokens, max_size=40) | st.lists(st.sampled_from(broken), max_size=40))
    assert streamed(tokenizer, ids) == whole(tokenizer, ids)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(st.lists(st.text() | st.sampled_from(WORDS), max_size=20).map("".join))
@example("  the cat   the")
@example(WORDS)
@settings(deadline=None, max_examples=80)
def test_any_text_is_decoded_as_the_whole(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    if name == "sentencepiece":  # the sign itself, as bytes, cannot be told from broken ones
        text = text.replace("\ufffd", "")
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert streamed(tokenizer, ids) == whole(tokenizer, ids)
    stream = TextStream(tokenizer)
    text = "".join(map(stream.push, ids)) + stream.finish()
    assert stream.tokens_in(0) == 0
    assert stream.tokens_in(len(text)) <= len(ids)
    for characters in range(1, len(text) + 1):
        spelled = whole(tokenizer, ids[: stream.tokens_in(characters)])
        assert len(spelled) >= characters and spelled[: characters - 1] == text[: characters - 1]


@given(st.lists(st.integers(3, len(TOKENIZERS["sentencepiece"]) - 1), max_size=40))
@settings(deadline=None, max_examples=150)
def test_broken_bytes_do_not_end_a_stream(ids: list[int]) -> None:
    """The whole makes all bytes of a broken run unreadable, also those that were a character."""
    tokenizer = TOKENIZERS["sentencepiece"]
    words = tokenizer.encode("the cat", add_special_tokens=False)
    text = streamed(tokenizer, [*words, *ids, *words])
    assert text.startswith("the cat") and text.endswith(" the cat")


def test_a_character_comes_when_it_is_complete() -> None:
    tokenizer = TOKENIZERS["byte level"]
    ids = [tokenizer.convert_tokens_to_ids(token) for token in "ðŁĺĤ"]
    assert tokenizer.decode(ids) == "😂"
    stream = TextStream(tokenizer)
    end = tokenizer.eos_token_id
    assert [stream.push(token) for token in [*ids[:2], end, *ids[2:], ids[0], end]] == [
        *[""] * 4,
        "😂",
        "",
        "",
    ]
    assert stream.finish() == "\ufffd"
    assert [stream.tokens_in(n) for n in range(3)] == [0, 5, 6]  # not the end of the turn


@pytest.mark.parametrize("name", TOKENIZERS)
def test_no_token_is_held_for_ever(name: str) -> None:
    """Neither bytes without a character, nor tokens without text, are decoded again and again."""
    tokenizer = TOKENIZERS[name]
    for token in range(len(tokenizer)):
        stream = TextStream(tokenizer)
        for _ in range(20):
            stream.push(token)
            assert len(stream._held) <= 16
