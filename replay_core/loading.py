"""Load a policy and its base, from the package, folders or the Hugging Face hub."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

from visreplay.replay_core import lora
from visreplay.replay_core.checkpoint import Checkpoint
from visreplay.replay_core.compatibility import architecture, check_alike
from visreplay.replay_core.config import Method, ReplayConfig, Teacher
from visreplay.replay_core.decoding import checkpoint_decoding
from visreplay.replay_core.embedded_pair import EMBEDDED_PAIRS
from visreplay.replay_core.errors import ConfigError, UnsupportedModelError
from visreplay.replay_core.families.registry import adapter_class
from visreplay.replay_core.memory import memory_errors
from visreplay.replay_core.pair import ModelPair
from visreplay.replay_core.placement import (
    check_device,
    check_dtype,
    common_dtype,
    default_device,
)
from visreplay.replay_core.processors import choose_processor, set_pixel_budget
from visreplay.replay_core.trial import try_out
from visreplay.replay_core.tuned import tuned_config
from visreplay.replay_core.weight_files import check_size, count_weights


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
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    revision: str | None = None,
    base_revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
    **model_kwargs: Any,
) -> ModelPair:
    """Load a policy and its base, from the package, folders or the Hugging Face hub.

    What can be compared without weights is compared first, and of the base only the layers that
    will be needed are read. A policy that is a LoRA adapter is put onto its base, which is read
    once and serves as both (`ModelPair.from_peft`). What is tolerated in a checkpoint, a processor
    file of an older release for example, is logged once as a warning. Last, the pair is tried out
    on a small picture (`try_out`): a checkpoint that loads and cannot answer is refused here.

    Args:
        policy: Folder or hub id of the model that answers, or of a LoRA adapter. "embedded" is
            the pair that ships with the package; a folder of that name is "./embedded".
        base: Folder or hub id of the model that the policy was trained from. None loads the plain
            policy, or the base that an adapter names, or the embedded policy's base.
        replay: The only way in which the pair will be replayed: no base is loaded where it
            needs none, and no layer that it does not read. None loads the pair for all ways.
        dtype: Data type of the weights of both. "auto" takes the one that the configurations
            name, and the smaller one if they name two.
        device: "auto" takes a GPU if there is one. Not used if there is a `device_map`.
        base_device: Where to put the base, if not where the policy goes. Models that are apart
            share no tensors. Not used for an adapter, whose base is the policy's.
        replay_layers: Number of the base's layers that will be needed; None keeps all.
        processor: Folder or hub id of the processor to use for both. By default it is the
            policy's, and the base's must make the same inputs, up to the pixel budget. An
            adapter without a processor takes the base's.
        min_pixels: Pixels to which smaller images are enlarged. None takes the processor's.
        max_pixels: Pixels to which larger images are shrunk. None takes the processor's.
        revision: Branch, tag or commit of the policy on the hub.
        base_revision: The same of the base. None takes the one that an adapter names, or "main".
        token: Token for the hub; None takes the one of `hf auth login`.
        cache_dir: Folder for files of the hub.
        local_files_only: Take files of the hub from the cache alone.
        **model_kwargs: For `from_pretrained` of the weights: `device_map`, `attn_implementation`
            ("sdpa" by default, which takes no mask for images; "flash_attention_2", "eager"), ...

    Raises:
        CheckpointError: a path that is not there, a hub that does not give a checkpoint, one
            without a processor or a chat template, or files that are damaged or do not belong
            together.
        ConfigError: `replay` needs a base and none is named, or more layers than there are; there
            is no such device; the pixel budget cannot be; or code from the hub would run.
        MemoryExhaustedError: memory ran out.
        PairMismatchError: architecture, vocabulary or image processing differ.
        UnsupportedModelError: no adapter knows the models, they work only with code of their own,
            weights are missing, or a LoRA cannot be taken apart from its base, or takes peft.

    Examples:
        >>> pair = load_pair("embedded", device="cpu")
        >>> pair.names
        ('embedded policy', 'embedded base')
        >>> pair.replay_config("token").replay_layers
        2
    """
    _check_kwargs(model_kwargs)
    hub = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only or None}
    embedded = EMBEDDED_PAIRS.get(policy)
    tuned = {} if embedded is None else embedded.settings
    if base is None and embedded is not None:
        base = policy
    config = None if replay is None else tuned_config(tuned, replay)
    if config is not None and replay_layers is None and not config.swap_roles:
        replay_layers = config.depth
    sources = _find_sources(policy, base, processor, config, revision, base_revision, hub)
    policy_config, base_config = sources.configs()
    _check_layers(policy_config, base_config, config, replay_layers)
    chosen = choose_processor(
        sources.processor, sources.policy, sources.base, policy_config, compare=processor is None
    )
    set_pixel_budget(chosen, min_pixels, max_pixels)
    device = default_device() if device == "auto" else device
    mapped = "device_map" in model_kwargs
    if not mapped:
        check_device("device", device)
    if base_device is not None:
        check_device("base_device", base_device)
    check_dtype(dtype)
    if dtype == "auto":
        dtype = common_dtype(sources.weights, policy_config, sources.base, base_config)
    kwargs = {"dtype": dtype, **model_kwargs}
    with memory_errors():
        model = _load(sources.weights, policy_config, kwargs)
        if not mapped:
            model.to(device)  # type: ignore[arg-type]  # its weights are mapped from the file
        if sources.adapted:
            pair = ModelPair.from_peft(lora.attach(model, sources.policy), chosen, replay_layers)
        else:
            base_model = None
            if sources.base is not None:
                if replay_layers is not None:
                    keep_layers(base_config, replay_layers)
                if base_device is not None:
                    kwargs.pop("device_map", None)
                if dtype == "auto":
                    kwargs["dtype"] = model.dtype
                base_model = _load(sources.base, base_config, kwargs)
            place = base_device or (None if mapped else device)
            pair = ModelPair.assemble(model, base_model, chosen, replay_layers, place)
    names = (sources.policy.name, None if sources.base is None else sources.base.name)
    pair = replace(pair, names=names, tuned=tuned)
    try_out(pair)
    return pair


@dataclass(frozen=True)
class _Sources:
    """The checkpoints that a pair is loaded from.

    Attributes:
        policy: The policy, or a LoRA adapter.
        base: The base; None without one.
        processor: The checkpoint whose processor both models take.
        adapted: Whether the policy is an adapter.
    """

    policy: Checkpoint
    base: Checkpoint | None
    processor: Checkpoint
    adapted: bool

    @property
    def weights(self) -> Checkpoint:
        """The checkpoint of the policy's weights: an adapter's are its base's."""
        if not self.adapted:
            return self.policy
        assert self.base is not None
        return self.base

    def configs(self) -> tuple[Any, Any]:
        """Load the configurations of policy and base, None without a base, and compare them.

        Raises:
            CheckpointError: A configuration, or a file of weights, cannot be used.
            PairMismatchError: The architectures differ.
            UnsupportedModelError: No adapter knows such a model.
        """
        policy = _checked_config(self.weights)
        if self.base is None:
            return policy, None
        base = policy if self.adapted else _checked_config(self.base)
        check_alike(architecture(policy), architecture(base))
        return policy, base


def _find_sources(
    policy: str,
    base: str | None,
    processor: str | None,
    replay: ReplayConfig | None,
    revision: str | None,
    base_revision: str | None,
    hub: dict[str, Any],
) -> _Sources:
    """Find the checkpoints that a pair is loaded from; see `load_pair`."""
    source = Checkpoint.find(policy, 0, revision=revision, **hub)
    adapted = lora.is_adapter(source)
    if replay is not None and not adapted:
        base = _needed_base(replay, base)
    base_source = None
    if base is not None:
        base_source = Checkpoint.find(base, 1, revision=base_revision, **hub)
    elif adapted:
        base_source = lora.find_base(source, base_revision, **hub)
    own = source
    if processor is not None:
        own = Checkpoint.find(processor, 0, **hub)
    elif base_source is not None and adapted and not lora.has_processor(source):
        own = base_source
    return _Sources(source, base_source, own, adapted)


def _checked_config(source: Checkpoint) -> Any:
    """Load the configuration of a model, and look at the files of its weights.

    Raises:
        CheckpointError: the configuration, or a file of weights, cannot be used.
        UnsupportedModelError: no adapter knows such a model.
    """
    stored = count_weights(source)
    config = source.config()
    adapter_class(config.model_type)
    if stored is not None:
        check_size(source, config, stored)
    source.generation_config()
    return config


def _check_kwargs(model_kwargs: dict[str, Any]) -> None:
    """Refuse options that would run code of a checkpoint, or that reach the weights alone."""
    if model_kwargs.pop("trust_remote_code", None):
        raise ConfigError(
            "trust_remote_code is set, but replay knows the layers of a model only by the classes "
            "of transformers, and never runs code of a checkpoint: leave it out"
        )
    if "subfolder" in model_kwargs:
        raise ConfigError(
            f"subfolder is {model_kwargs['subfolder']!r}, but a checkpoint is one folder: download "
            "it, and give the path of that folder"
        )


def _needed_base(replay: ReplayConfig, base: str | None) -> str | None:
    """Return the base if the replay needs one.

    Raises:
        ConfigError: it needs one, and none is named.
    """
    if replay.method is Method.NONE or replay.teacher is not Teacher.BASE:
        return None
    if base is None:
        raise ConfigError(
            f"replay with the method {str(replay.method)!r} needs a base model, but none is named: "
            "give `base`, or replay='none' for the plain policy"
        )
    return base


def _check_layers(
    policy: Any, base: Any, replay: ReplayConfig | None, replay_layers: int | None
) -> None:
    """Refuse more replay layers than the models have, before any weights are read.

    Raises:
        ConfigError: there are fewer, or the base is to keep fewer than `replay` needs.
    """
    depth = policy.get_text_config().num_hidden_layers
    if replay is not None:
        kept = depth if replay_layers is None else min(replay_layers, depth)
        replay.check_depths(depth, None if base is None else kept, None)
    if replay_layers is not None and not 0 <= replay_layers <= depth:
        raise ConfigError(
            f"replay_layers is {replay_layers}, but the policy has {depth} decoder layers: choose "
            f"0 to {depth}"
        )


def load_decoding(policy: str, base: str | None = None, **hub: Any) -> dict[str, Any]:
    """Read how a checkpoint is to be decoded, without loading it (`checkpoint_decoding`).

    Args:
        policy: Folder or hub id of the model that answers, or of a LoRA adapter.
        base: The base of an adapter, whose settings count; None takes the one that it names.
        **hub: `token` and `cache_dir`, as in `load_pair`.

    Raises:
        CheckpointError: a path that is not there, or a hub that does not give the checkpoint.
        UnsupportedModelError: an adapter names no base, or takes peft to load.
    """
    source = Checkpoint.find(policy, 0, **hub)
    if lora.is_adapter(source):
        source = Checkpoint.find(base, 1, **hub) if base else lora.find_base(source, None, **hub)
    settings = source.generation_config()
    return {} if settings is None else checkpoint_decoding(settings)


def _load(source: Checkpoint, config: Any, kwargs: dict[str, Any]) -> PreTrainedModel:
    """Load the weights of a checkpoint; on the CPU they stay in their files until they are used.

    Raises:
        CheckpointError: they cannot be read, or have other sizes than the configuration says.
        UnsupportedModelError: some are missing.
    """
    # transformers looks for an adapter too, and by itself not where the other files are.
    options = {"config": config, "adapter_kwargs": dict(source.hub), "output_loading_info": True}
    chosen = ", ".join(f"{name}={value!r}" for name, value in kwargs.items() if name != "dtype")
    what = f"the weights ({chosen})" if chosen else "the weights"
    with _quiet("transformers.modeling_utils"):
        loaded = source.auto(AutoModelForImageTextToText, what, **options, **kwargs)
    model, info = loaded
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise UnsupportedModelError(
            f"{source.at} lacks {len(missing)} weights of a {type(model).__name__}, such as "
            f"{missing[0]}: they would be random"
        )
    return model  # type: ignore[no-any-return]


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
