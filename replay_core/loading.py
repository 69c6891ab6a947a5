"""Load a policy and its base from folders or from the Hugging Face hub."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
)

from visreplay.replay_core import lora
from visreplay.replay_core.compatibility import architecture, check_alike, picture_processing
from visreplay.replay_core.config import Method, ReplayConfig, Teacher
from visreplay.replay_core.errors import UnsupportedModelError
from visreplay.replay_core.pair import ModelPair


def load_pair(
    policy: str,
    base: str | None = None,
    *,
    dtype: torch.dtype | str = "auto",
    device: str = "auto",
    base_device: str | None = None,
    replay_layers: int | None = None,
    processor: str | None = None,
    **model_kwargs: Any,
) -> ModelPair:
    """Load a policy and its base, from folders or from the Hugging Face hub.

    What can be compared without weights is compared first, and of the base only the layers that
    will be needed are read. A policy that is a LoRA adapter is put onto its base, which is read
    once and serves as both (`ModelPair.from_peft`).

    Args:
        policy: Folder or hub id of the model that answers, or of a LoRA adapter.
        base: The same of the model that it was trained from; None for the plain policy, or for
            the base that an adapter names.
        dtype: Of the weights; "auto" takes the checkpoint's.
        device: "auto" takes a GPU if there is one. Not used if there is a `device_map`.
        base_device: Where to put the base, if not where the policy goes. Models that are apart
            share no tensors. Not used for an adapter, whose base is the policy's.
        replay_layers: How many of the base's layers will be needed; None keeps all.
        processor: Folder or hub id of the processor to use for both. By default it is the
            policy's, and the base's must prepare pictures in the same way. An adapter without a
            processor takes the base's.
        **model_kwargs: For `from_pretrained`: `device_map`, `attn_implementation`, ...

    Raises:
        PairMismatchError: architecture, vocabulary or picture processing differ.
        UnsupportedModelError: no adapter knows the models, weights are missing, or a LoRA cannot
            be taken apart from its base, or takes peft to load.
    """
    adapted = lora.is_adapter(policy)
    weights = policy
    if adapted:
        base = weights = base or lora.base_of(policy)
        if not lora.has_processor(policy):
            processor = processor or base
    chosen = AutoProcessor.from_pretrained(processor or policy)
    policy_config = AutoConfig.from_pretrained(weights)
    base_config = None
    if base is not None:
        base_config = AutoConfig.from_pretrained(base)
        check_alike(architecture(policy_config), architecture(base_config))
        base_processor = AutoProcessor.from_pretrained(base)
        check_alike(chosen.tokenizer.get_vocab(), base_processor.tokenizer.get_vocab())
        if processor is None:
            check_alike(picture_processing(chosen), picture_processing(base_processor))
    if device == "auto":
        accelerators = {"cuda": torch.cuda, "mps": torch.backends.mps}
        device = next((name for name, kind in accelerators.items() if kind.is_available()), "cpu")
    kwargs = {"dtype": dtype, **model_kwargs}
    policy_model = _load(weights, policy_config, device, kwargs)
    if adapted:
        return ModelPair.from_peft(lora.attach(policy_model, policy), chosen, replay_layers)
    base_model = None
    if base is not None:
        if replay_layers is not None:
            keep_layers(base_config, replay_layers)
        if base_device is not None:
            kwargs.pop("device_map", None)
        base_model = _load(base, base_config, base_device or device, kwargs)
    return ModelPair.assemble(policy_model, base_model, chosen, replay_layers)


def load_for(config: ReplayConfig, policy: str, base: str | None, **options: Any) -> ModelPair:
    """Load what a way of replaying needs: no base where it uses none, no layer that it never reads.

    Args:
        config: How to replay.
        policy: As in `load_pair`.
        base: As in `load_pair`; an adapter's is loaded in any case.
        **options: As in `load_pair`.

    Raises:
        PairMismatchError: As `load_pair`.
        UnsupportedModelError: As `load_pair`.
    """
    plain = config.method is Method.NONE or config.teacher is not Teacher.BASE
    if plain and not lora.is_adapter(policy):
        base = None
    layers = None if config.swap_roles else config.depth
    return load_pair(policy, base, replay_layers=layers, **options)


def _load(name: str, config: Any, device: str, kwargs: dict[str, Any]) -> PreTrainedModel:
    with _quiet("transformers.modeling_utils"):
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            name, config=config, output_loading_info=True, **kwargs
        )
    model, info = loaded
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise UnsupportedModelError(
            f"{name} lacks {len(missing)} weights of a {type(model).__name__}, such as "
            f"{missing[0]}: they would be random"
        )
    placed: PreTrainedModel = model if "device_map" in kwargs else model.to(device)
    return placed


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence a logger: here, a table of all the layers that were left out on purpose.

    What else could be in it is an error of ours (`missing_keys`) or of transformers' own. The
    logger keeps its level, since transformers takes a higher one as a wish for another table.
    """
    noisy = logging.getLogger(name)
    before, noisy.disabled = noisy.disabled, True
    try:
        yield
    finally:
        noisy.disabled = before


def keep_layers(config: Any, count: int) -> None:
    """Let a model that is built from this configuration have only `count` decoder layers."""
    text = config.get_text_config()
    text.num_hidden_layers = min(count, text.num_hidden_layers)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:count]
