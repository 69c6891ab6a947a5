"""Load a policy and its base, from the package, folders or the Hugging Face hub."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, GenerationConfig, PreTrainedModel

from visreplay.replay_core import lora
from visreplay.replay_core.checkpoint import Checkpoint
from visreplay.replay_core.compatibility import architecture, check_alike
from visreplay.replay_core.config import Method, ReplayConfig, Teacher, tuned_config
from visreplay.replay_core.decoding import checkpoint_decoding
from visreplay.replay_core.embedded_pair import EMBEDDED_PAIRS
from visreplay.replay_core.errors import ConfigError, UnsupportedModelError
from visreplay.replay_core.pair import ModelPair
from visreplay.replay_core.processors import choose_processor, set_pixel_budget

logger = logging.getLogger(__name__)


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
    file of an older release for example, is logged once as a warning.

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
        CheckpointError: a path that is not there, a hub that does not give a checkpoint, or one
            without a processor or a chat template.
        ConfigError: `replay` needs a base and none is named, or more layers than there are; there
            is no such device; the pixel budget cannot be; or code from the hub would run.
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
    _check_kwargs(model_kwargs)
    hub = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only or None}
    embedded = EMBEDDED_PAIRS.get(policy)
    tuned = {} if embedded is None else embedded.settings
    if base is None and embedded is not None:
        base = policy
    source = Checkpoint.find(policy, 0, revision=revision, **hub)
    adapted = lora.is_adapter(source)
    config = None if replay is None else tuned_config(tuned, replay)
    if config is not None:
        if replay_layers is None and not config.swap_roles:
            replay_layers = config.depth
        if not adapted:
            base = _needed_base(config, base)
    if adapted and base is None:
        base, trained_on = lora.base_of(source)
        base_revision = base_revision or trained_on
    base_source = None
    if base is not None:
        base_source = Checkpoint.find(base, 1, revision=base_revision, **hub)
    weights = source
    processor_source = source if processor is None else Checkpoint.find(processor, 0, **hub)
    if adapted:
        assert base_source is not None
        weights = base_source
        if processor is None and not lora.has_processor(source):
            processor_source = base_source
    policy_config = weights.config()
    base_config = None if base_source is None else base_source.config()
    if base_config is not None:
        check_alike(architecture(policy_config), architecture(base_config))
    _check_layers(policy_config, base_config, config, replay_layers)
    chosen = choose_processor(
        processor_source, source, base_source, policy_config, compare=processor is None
    )
    set_pixel_budget(chosen, min_pixels, max_pixels)
    device = _default_device() if device == "auto" else device
    if "device_map" not in model_kwargs:
        _check_device(device)
    if base_device is not None:
        _check_device(base_device)
    _check_dtype(dtype)
    if dtype == "auto":
        dtype = _common_dtype(weights, policy_config, base_source, base_config)
    kwargs = {"dtype": dtype, **model_kwargs}
    policy_model = _load(weights, policy_config, kwargs)
    if "device_map" not in kwargs:
        policy_model.to(device)  # type: ignore[arg-type]  # its weights are mapped from the file
    if adapted:
        pair = ModelPair.from_peft(lora.attach(policy_model, source), chosen, replay_layers)
    else:
        base_model = None
        place = None if "device_map" in kwargs and base_device is None else base_device or device
        if base_source is not None:
            if replay_layers is not None:
                keep_layers(base_config, replay_layers)
            if base_device is not None:
                kwargs.pop("device_map", None)
            if dtype == "auto":
                kwargs["dtype"] = policy_model.dtype
            base_model = _load(base_source, base_config, kwargs)
        pair = ModelPair.assemble(policy_model, base_model, chosen, replay_layers, place)
    names = (source.name, None if base_source is None else base_source.name)
    return replace(pair, names=names, tuned=tuned)


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


def _common_dtype(
    policy: Checkpoint, policy_config: Any, base: Checkpoint | None, base_config: Any
) -> torch.dtype | str:
    """Choose one data type for both models by their configurations.

    The optimiser's copy of a policy is often saved in float32 beside a base in bfloat16. Of two
    types the smaller one is taken, and of two of one size the base's: equal tensors are then
    shared, and memory is what it is for one model.

    Returns:
        The data type, or "auto" if none is named.
    """
    ours = _named_dtype(policy_config)
    theirs = ours if base_config is None else _named_dtype(base_config)
    if ours is None or theirs is None:
        return ours or theirs or "auto"
    common = theirs if theirs.itemsize <= ours.itemsize else ours
    if ours != theirs and base is not None:
        kinds = [str(kind).removeprefix("torch.") for kind in (ours, theirs, common)]
        logger.warning(
            "%s is in %s and %s in %s: both are loaded in %s",
            *(policy.name, kinds[0], base.name, kinds[1], kinds[2]),
        )
    return common


def _named_dtype(config: Any) -> torch.dtype | None:
    """Return the data type that a configuration names; some name it for the text model alone."""
    dtype: torch.dtype | str | None = config.dtype or config.get_text_config().dtype
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


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
        named, revision = lora.base_of(source) if base is None else (base, None)
        source = Checkpoint.find(named, 1, revision=revision, **hub)
    try:
        return checkpoint_decoding(source.read(GenerationConfig))
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


def _check_dtype(dtype: torch.dtype | str) -> None:
    """Refuse the name of a data type that torch does not have, before any weights are read.

    Raises:
        ConfigError: there is no such type.
    """
    named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype != "auto" and not isinstance(named, torch.dtype):
        raise ConfigError(
            f"dtype is {dtype!r}, but must be 'auto' or a type of torch, such as 'bfloat16'"
        )


def _load(source: Checkpoint, config: Any, kwargs: dict[str, Any]) -> PreTrainedModel:
    """Load the weights of a checkpoint; on the CPU they stay in their files until they are used."""
    # transformers looks for an adapter too, and by itself not where the other files are.
    options = {"config": config, "adapter_kwargs": dict(source.hub), "output_loading_info": True}
    try:
        with _quiet("transformers.modeling_utils"):
            loaded: Any = source.read(AutoModelForImageTextToText, **options, **kwargs)
    except (OSError, SafetensorError) as error:
        raise source.refusal(error) from error
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
