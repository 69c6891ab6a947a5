"""A trial of a pair that was just loaded: whether its files go together, on one small picture.

A configuration, a tokenizer or a chat template may be well-formed and wrong in a way that shows
only when it is used. Whatever goes wrong here is the checkpoint's; later it would be a bug.
"""

from typing import Any

from PIL import Image

from visreplay.replay_core.checkpoint import reason
from visreplay.replay_core.config import Method, ReplayConfig
from visreplay.replay_core.context import Context
from visreplay.replay_core.errors import CheckpointError, MemoryExhaustedError
from visreplay.replay_core.families.adapter import ModelAdapter
from visreplay.replay_core.generation import eos_ids
from visreplay.replay_core.model_run import ActivationRecorder, SingleModelRun, without_autograd
from visreplay.replay_core.pair import ModelPair
from visreplay.replay_core.segment import Segment

PLAIN = ReplayConfig(Method.NONE)


def try_out(pair: ModelPair) -> None:
    """Let each model of a pair see a small picture, through its vision tower and its first layer.

    Nothing of it is kept, and no random number is drawn.

    Args:
        pair: The pair.

    Raises:
        CheckpointError: this does not work.
        MemoryExhaustedError: memory ran out.
    """
    names = " with ".join(name for name in pair.names if name)
    try:
        _check_patches(pair)
        with without_autograd():
            turn = pair.user_turn("?", [Image.new("RGB", (64, 64))])
            Context(pair, PLAIN).check_room(turn.token_ids, turn.blocks)
            _run(pair.policy, pair.policy.features, turn)
            if pair.base is not None and pair.base.depth:
                _run(pair.base, pair.base_features, turn)
        eos_ids(pair.policy.model, pair.tokenizer)
    except MemoryExhaustedError:
        raise
    except Exception as error:  # whatever the values of its files lead to
        raise CheckpointError(
            f"{names} was loaded, but cannot read a small picture ({reason(error)}): correct the "
            "configuration, the tokenizer or the chat template, or download the checkpoint again"
        ) from error


def _check_patches(pair: ModelPair) -> None:
    """Refuse a processor of the Qwen kind that cuts images otherwise than the model reads them."""
    images = pair.processor.image_processor
    if not hasattr(images, "merge_size"):
        return
    vision = pair.policy.model.config.vision_config
    for name, name_in_model in (
        ("patch_size", "patch_size"),
        ("temporal_patch_size", "temporal_patch_size"),
        ("merge_size", "spatial_merge_size"),
    ):
        ours, theirs = getattr(images, name), getattr(vision, name_in_model)
        if ours != theirs:
            raise ValueError(f"{name} is {ours} in the processor, and {theirs} in the model")


def _run(adapter: ModelAdapter, features: Any, turn: Segment) -> None:
    """Run the first decoder layer over a turn, and the LM head on its visual tokens."""
    seen = ActivationRecorder(1)
    run = SingleModelRun(adapter, features, 1, PLAIN)
    run.append(turn, seen)
    if not run.lens.logits(seen.of(0)[-1:]).isfinite().all():
        raise ValueError("its logits are no numbers, or infinite")
