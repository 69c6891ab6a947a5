"""The embedded pair's tokenizer, processor and untrained model: real classes, tiny sizes."""

import json
from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    AddedToken,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
TAGS = ["think", "tool_call", "tool_response", "answer"]
"""Tags of turns and observations, one token each, as in the tokenizers of the 7B policies."""

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% for part in message.content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' -%}<|vision_start|><|video_pad|><|vision_end|>
{%- else -%}{{ part.text }}{%- endif -%}
{%- endfor -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""

FAST_ROTATIONS = 6
LOOK_BACK_STRENGTH = 5.0
"""With 6 of a head's 16 rotations at this strength, most of its attention is on one token."""

ROPE_THETA = 300.0
"""A compromise for a tiny model: slow rotations match content at a distance (with 30 it never
learned to look up a word in a list), fast ones distinguish neighbours."""

OVERVIEW_PIXELS = 224 * 224
MIN_PIXELS = 56 * 56


def build_tokenizer(corpus: Iterable[str], vocabulary_size: int) -> Qwen2Tokenizer:
    """Train a byte-level BPE on the corpus; every other text becomes tokens for its bytes."""
    learner = Tokenizer(BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tags = [tag for name in TAGS for tag in (f"<{name}>", f"</{name}>")]
    added = len(SPECIAL_TOKENS) + len(tags)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - added,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(corpus, trainer)

    model = json.loads(learner.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=SPECIAL_TOKENS[1:],
    )
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    return tokenizer


def build_processor(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLProcessor:
    """Build the processor: 28 pixels a token, at most 64 tokens an image."""
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            size={"shortest_edge": MIN_PIXELS, "longest_edge": OVERVIEW_PIXELS}
        ),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(
            size={"shortest_edge": MIN_PIXELS, "longest_edge": OVERVIEW_PIXELS},
            cap_pixels_per_frame=False,
        ),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """Build an untrained model: language model 4 layers of 128, vision tower 2 layers of 128."""

    def token(text: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(text))

    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "initializer_range": 0.06,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": ROPE_THETA,
                "mrope_section": [4, 6, 6],
            },
            "bos_token_id": None,
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": 2,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "out_hidden_size": 128,
            "fullatt_block_indexes": [1],
            "window_size": 112,
            "tokens_per_second": 1,
            "initializer_range": 0.06,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    _look_back(model)
    model.generation_config.eos_token_id = token("<|im_end|>")
    model.generation_config.pad_token_id = token("<|endoftext|>")
    return model


@torch.no_grad()
def _look_back(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Let the first layer's first two heads start with their attention one and two tokens back.

    To copy the token after an earlier occurrence of a word, a model must first learn to mark each
    token with the one before it. From random weights, that takes a tiny model thousands of steps.
    A bias `b` on the keys and `b` turned back by an angle of `offset` tokens on the queries makes
    rotary attention peak `offset` tokens back, whatever the tokens are. Training may undo it.
    """
    decoder = model.model.language_model
    attention, size = decoder.layers[0].self_attn, decoder.layers[0].self_attn.head_dim
    angles = decoder.rotary_emb.inv_freq[:FAST_ROTATIONS]
    fast = slice(0, FAST_ROTATIONS)
    attention.k_proj.bias[fast] = LOOK_BACK_STRENGTH
    for head, offset in enumerate((1, 2)):
        bias = attention.q_proj.bias.view(-1, 2, size // 2)[head]
        bias[0, fast] = LOOK_BACK_STRENGTH * torch.cos(offset * angles)
        bias[1, fast] = -LOOK_BACK_STRENGTH * torch.sin(offset * angles)
