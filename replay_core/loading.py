"""Load a policy and its base, from the package, folders or the Hugging Face hub."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    PreTrainedModel,
)

from visreplay.replay_core import lora
from visreplay.replay_core.compatibility import architecture, check_alike, image_processing
from visreplay.replay_core.config import Method, ReplayConfig, Teacher, tuned_config
from visreplay.replay_core.decoding import checkpoint_decoding
from visreplay.replay_core.embedded_pair import EMBEDDED_PAIRS
from visreplay.replay_core.errors import CheckpointError, ConfigError, UnsupportedModelError
from visreplay.replay_core.pair import ModelPair


def load_pair(
    policy: str,
    base: str | None = None,
    *,
    replay: ReplayConfig | Method | str | None = None,
    dtype: torch.dtype | str = "auto",
    device: str = "auto",
    base_device: str | None = None,
    replay_layers: int | None = None,
    processor: str | None = None,
    **model_kwargs: Any,
) -> ModelPair:
    """Load a policy and its base, from the package, folders or the Hugging Face hub.

    What can be compared without weights is compared first, and of the base only the layers that
    will be needed are read. A policy that is a LoRA adapter is put onto its base, which is read
    once and serves as both (`ModelPair.from_peft`).

    Args:
        policy: Folder or hub id of the model that answers, or of a LoRA adapter. "embedded" is
            the pair that ships with the package; a folder of that name is "./embedded".
        base: Folder or hub id of the model that the policy was trained from. None loads the plain
            policy, or the base that an adapter names, or the embedded policy's base.
        replay: The only way in which the pair will be replayed: no base is loaded where it
            needs none, and no layer that it does not read. None loads the pair for all ways.
        dtype: Data type of the weights; "auto" takes the checkpoint's.
        device: "auto" takes a GPU if there is one. Not used if there is a `device_map`.
        base_device: Where to put the base, if not where the policy goes. Models that are apart
            share no tensors. Not used for an adapter, whose base is the policy's.
        replay_layers: Number of the base's layers that will be needed; None keeps all.
        processor: Folder or hub id of the processor to use for both. By default it is the
            policy's, and the base's must prepare images in the same way. An adapter without a
            processor takes the base's.
        **model_kwargs: For `from_pretrained`: `device_map`, `attn_implementation` ("sdpa" by
            default, which takes no mask for images; "flash_attention_2", "eager"), ...

    Raises:
        CheckpointError: a path that is not there, or a hub that does not give a checkpoint.
        ConfigError: `replay` needs a base and none is named, or there is no such device.
        PairMismatchError: architecture, vocabulary or image processing differ.
        UnsupportedModelError: no adapter knows the models, weights are missing, or a LoRA cannot
            be taken apart from its base, or takes peft to load.

    Examples:
        >>> pair = load_pair("embedded", device="cpu")
        >>> pair.names
        ('embedded policy', 'embedded base')
        >>> pair.replay_config("token").replay_layers
        2
    """
    embedded = EMBEDDED_PAIRS.get(policy)
    tuned = {} if embedded is None else embedded.settings
    if base is None and embedded is not None:
        base = policy
    policy_at, policy_name = _locate(policy, role=0)
    adapted = lora.is_adapter(policy_at)
    if replay is not None:
        config = tuned_config(tuned, replay)
        if replay_layers is None and not config.swap_roles:
            replay_layers = config.depth
        plain = config.method is Method.NONE or config.teacher is not Teacher.BASE
        base = None if plain and not adapted else base
        if not plain and not adapted and base is None:
            raise ConfigError(
                f"replay with the method {str(config.method)!r} needs a base model, but none is "
                "named: give `base`, or replay='none' for the plain policy"
            )
    if adapted:
        base = base or lora.base_of(policy_at)
    if processor is not None:
        processor, _ = _locate(processor, role=0)
    base_at, base_name = (None, None) if base is None else _locate(base, role=1)
    weights = policy_at
    if adapted:
        assert base_at is not None
        weights = base_at
        if not lora.has_processor(policy_at):
            processor = processor or base_at
    policy_config = _read(AutoConfig, weights)
    chosen = _read(AutoProcessor, processor or policy_at)
    base_config = None
    if base_at is not None:
        base_config = _read(AutoConfig, base_at)
        check_alike(architecture(policy_config), architecture(base_config))
        base_processor = _read(AutoProcessor, base_at)
        check_alike(chosen.tokenizer.get_vocab(), base_processor.tokenizer.get_vocab())
        if processor is None:
            check_alike(image_processing(chosen), image_processing(base_processor))
    device = _default_device() if device == "auto" else device
    if "device_map" not in model_kwargs:
        _check_device(device)
    if base_device is not None:
        _check_device(base_device)
    kwargs = {"dtype": dtype, **model_kwargs}
    policy_model = _load(weights, policy_config, device, kwargs)
    if adapted:
        pair = ModelPair.from_peft(lora.attach(policy_model, policy_at), chosen, replay_layers)
    else:
        base_model = None
        if base_at is not None:
            if replay_layers is not None:
                keep_layers(base_config, replay_layers)
            if base_device is not None:
                kwargs.pop("device_map", None)
            base_model = _load(base_at, base_config, base_device or device, kwargs)
        pair = ModelPair.assemble(policy_model, base_model, chosen, replay_layers)
    return replace(pair, names=(policy_name, base_name), tuned=tuned)


def load_decoding(policy: str, base: str | None = None) -> dict[str, Any]:
    """Read how a checkpoint is to be decoded, without loading it (`checkpoint_decoding`).

    Args:
        policy: Folder or hub id of the model that answers, or of a LoRA adapter.
        base: The base of an adapter, whose settings count; None takes the one that it names.

    Raises:
        CheckpointError: a path that is not there, or a hub that does not give the checkpoint.
        UnsupportedModelError: an adapter names no base, or takes peft to load.
    """
    name, _ = _locate(policy, role=0)
    if lora.is_adapter(name):
        name, _ = _locate(base or lora.base_of(name), role=1)
    try:
        return checkpoint_decoding(GenerationConfig.from_pretrained(name))
    except OSError:  # there is no such file, and the model is loaded without it
        return {}


def _default_device() -> str:
    """Return the name of a GPU, if there is one, or else of the CPU."""
    accelerators = {"cuda": torch.cuda, "mps": torch.backends.mps}
    return next((name for name, kind in accelerators.items() if kind.is_available()), "cpu")


def _check_device(device: str) -> None:
    """Refuse a device that is not there, before any weights are read.

    Raises:
        ConfigError: torch cannot put a tensor there.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"device is {device!r}, which cannot be used ({reason}): use 'auto', 'cpu', or a GPU "
            "that is there, such as 'cuda:0'"
        ) from error


def _locate(name: str, role: int) -> tuple[str, str]:
    """Find a checkpoint.

    Args:
        name: The name of an embedded pair, a folder or a hub id.
        role: Which checkpoint of an embedded pair: 0 the policy, 1 the base.

    Returns:
        Its folder or hub id, and what records call it.

    Raises:
        CheckpointError: a path that is not there, or a hub that does not give the checkpoint.
    """
    embedded = EMBEDDED_PAIRS.get(name)
    if embedded is not None:
        return str((embedded.policy, embedded.base)[role]), embedded.names[role]
    folder = os.path.expanduser(name)
    if not os.path.isdir(folder):
        if name.startswith(("./", "../", "/", "~")) or name.endswith(("/", os.sep)):
            raise CheckpointError(
                f"there is no folder {name!r}, and a checkpoint that is written as a path must be "
                "one: correct the path, or give a Hugging Face id (owner/name) or 'embedded'"
            )
        _check_hub(name)
    return folder, name


def _check_hub(name: str) -> None:
    """Ask the hub for a checkpoint once: transformers would try for minutes.

    Raises:
        CheckpointError: the hub cannot be reached, or does not give the checkpoint.
    """
    files = ("config.json", "adapter_config.json")
    try:
        if any(isinstance(try_to_load_from_cache(name, file), str) for file in files):
            return
        get_hf_file_metadata(hf_hub_url(name, files[0]))
    except EntryNotFoundError:
        return  # an adapter has no configuration of a model
    except Exception as error:  # of the network, the hub's answer, or the form of the name
        raise _refusal(name, error) from error


def _read(auto_class: Any, name: str) -> Any:
    """Load the processor or the configuration of a checkpoint.

    Raises:
        CheckpointError: it cannot be read.
        UnsupportedModelError: transformers does not know such a model.
    """
    try:
        return auto_class.from_pretrained(name)
    except (OSError, ValueError) as error:
        empty = os.path.isdir(name) and not os.path.isfile(os.path.join(name, "config.json"))
        if isinstance(error, OSError) or auto_class is not AutoConfig or empty:
            raise _refusal(name, error) from error
        reason = str(error).strip().splitlines()[0]
        raise UnsupportedModelError(f"transformers cannot read {name!r}: {reason}") from error


def _refusal(name: str, error: Exception) -> CheckpointError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if os.path.isdir(name):
        way_out = "give the folder of a whole checkpoint"
    else:
        way_out = (
            "no such folder is here, so it was looked for on the Hugging Face hub. Check the name "
            "and the network, log in if the model is gated (`hf auth login`), or give a folder"
        )
    return CheckpointError(f"cannot read the checkpoint {name!r} ({reason}): {way_out}")


def _load(name: str, config: Any, device: str, kwargs: dict[str, Any]) -> PreTrainedModel:
    try:
        with _quiet("transformers.modeling_utils"):
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                name, config=config, output_loading_info=True, **kwargs
            )
    except OSError as error:
        raise _refusal(name, error) from error
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

    Anything else in it would raise an error of ours (`missing_keys`) or of transformers'. The
    logger keeps its level, since transformers prints another table at a higher one.
    """
    noisy = logging.getLogger(name)
    before, noisy.disabled = noisy.disabled, True
    try:
        yield
    finally:
        noisy.disabled = before


def keep_layers(config: Any, count: int) -> None:
    """Limit a configuration to `count` decoder layers."""
    text = config.get_text_config()
    text.num_hidden_layers = min(count, text.num_hidden_layers)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:count]
