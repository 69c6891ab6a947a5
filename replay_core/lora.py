"""A policy that is a LoRA adapter: it and its base are one set of weights.

peft's own way to the base, `disable_adapter`, toggles a state of the model: two sessions in two
threads would trip over each other. Here policy and base are instead two trees of modules over the
same tensors. The policy's tree has peft's LoRA layers, the base's has the layers inside them.
"""

import os
import warnings
from collections.abc import Callable
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME
from transformers.utils.peft_utils import find_adapter_config_file

from visreplay.replay_core.checkpoint import Checkpoint
from visreplay.replay_core.errors import CheckpointError, UnsupportedModelError
from visreplay.replay_core.lora_names import present_names
from visreplay.replay_core.weight_files import tensor_shapes

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

WAY_OUT = "or merge it (`merge_and_unload`), and give policy and base as two models"


def split(adapted: "PeftModel") -> tuple[PreTrainedModel, PreTrainedModel]:
    """Split an adapted model into policy and base, without a copy of any tensor.

    LoRA layers on language and vision, with DoRA or rank stabilisation, and fully trained
    modules (`modules_to_save`) are taken apart. The peft model itself is left as it is, and
    whether its adapter is enabled later on makes no difference to the two.

    Args:
        adapted: A model with an active LoRA adapter.

    Returns:
        Policy and base.

    Raises:
        UnsupportedModelError: the weights beneath the adapter are not those of the base, or the
            adapter is not a LoRA.
    """
    _check(adapted)
    model = adapted.get_base_model()
    return _tree(model, _trained), _tree(model, _original)


def _tree(model: Any, inner: Callable[[Any], Any]) -> Any:
    """Build a second tree of modules over the same tensors, with `inner` in place of wrappers."""
    # A deep copy takes whatever its memo holds as copied already: tensors as themselves, and
    # wrappers as a copy of their inner module. Innermost ones first, since they may be nested.
    memo: dict[int, Any] = {id(it): it for it in (*model.parameters(), *model.buffers())}
    for module in reversed(list(model.modules())):
        if inner(module) is not module:
            memo[id(module)] = deepcopy(inner(module), memo)
    return deepcopy(model, memo)


def _trained(module: Any) -> Any:
    """Return the module that the policy runs in place of another: LoRA layers as they are."""
    from peft.utils.other import ModulesToSaveWrapper

    if isinstance(module, ModulesToSaveWrapper):
        trained = dict(module.modules_to_save.items())
        active = (trained[name] for name in module.active_adapters if name in trained)
        return next(active, module.original_module)
    return module


def _original(module: Any) -> Any:
    """Return the module that the base runs in place of another."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if isinstance(module, AuxiliaryTrainingWrapper):
        return module.original_module
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def _check(adapted: "PeftModel") -> None:
    """Refuse adapters whose absence would not leave the base."""
    for name in adapted.active_adapters:
        config: Any = adapted.peft_config[name]
        if config.peft_type != "LORA":
            raise UnsupportedModelError(
                f"the adapter is of type {config.peft_type}, but only LoRA can share its base's "
                f"weights: train a LoRA, {WAY_OUT}"
            )
        _check_config(config)
    status = adapted.get_model_status()
    if status.enabled is not True or status.merged_adapters:
        raise UnsupportedModelError(
            f"the adapter is enabled: {status.enabled}, and merged: {status.merged_adapters}, but "
            "must be enabled and unmerged: call `enable_adapter_layers` and `unmerge_adapter`"
        )
    model: Any = adapted.get_base_model()
    head = model.get_output_embeddings()
    if hasattr(head, "base_layer"):
        raise UnsupportedModelError(
            "the LM head has a LoRA of its own, but replay reads single rows of a plain linear "
            f"one: leave it out of target_modules, train it whole (modules_to_save), {WAY_OUT}"
        )


def _check_config(config: "LoraConfig") -> None:
    if config.bias != "none":
        raise UnsupportedModelError(
            f"the adapter has bias={config.bias!r}: peft then writes trained biases over the "
            f"base's. Load the base a second time, {WAY_OUT}"
        )
    start = str(config.init_lora_weights)
    if start.startswith(("pissa", "corda", "olora", "loftq", "lora_ga")):
        raise UnsupportedModelError(
            f"the adapter has init_lora_weights={start!r}, which changes the weights beneath it: "
            f"convert it (peft's path_initial_model_for_weight_conversion), {WAY_OUT}"
        )
    if config.target_parameters:
        raise UnsupportedModelError(
            f"the adapter has target_parameters={config.target_parameters}, which peft swaps in "
            f"and out at every call: use target_modules, {WAY_OUT}"
        )
    if config.alora_invocation_tokens:
        raise UnsupportedModelError(
            "the adapter is an activated LoRA, which is the policy only behind its "
            f"alora_invocation_tokens {config.alora_invocation_tokens}: train a plain LoRA"
        )


def is_adapter(checkpoint: Checkpoint) -> bool:
    """Tell whether a checkpoint is an adapter and no whole model.

    Raises:
        UnsupportedModelError: it is one, but peft is not installed.
    """
    if checkpoint.read(find_adapter_config_file, CONFIG) is None:
        return False
    if find_spec("peft") is None:
        raise UnsupportedModelError(
            f"{checkpoint.name} is an adapter, which takes peft to load: pip install "
            "'visreplay[lora]'"
        )
    return True


def find_base(checkpoint: Checkpoint, revision: str | None, **hub: Any) -> Checkpoint:
    """Find the base that an adapter was trained on, by the name that it has for it.

    Args:
        checkpoint: The adapter.
        revision: The revision of the base; None takes the adapter's, if it names one.
        **hub: How files are fetched, as in `Checkpoint`.

    Raises:
        CheckpointError: there is none by this name here or on the hub.
        UnsupportedModelError: the adapter names none.
    """
    from peft import PeftConfig

    config: Any = checkpoint.read(PeftConfig.from_pretrained, CONFIG)
    name = config.base_model_name_or_path
    if not isinstance(name, str) or not name:
        raise UnsupportedModelError(
            f"the adapter {checkpoint.name} names {name!r} as its base: give its base yourself "
            "(`base`, or --base)"
        )
    try:
        return Checkpoint.find(name, 1, revision=revision or config.revision, **hub)
    except CheckpointError as error:
        raise CheckpointError(
            f"the adapter {checkpoint.name} names the base {name!r}, perhaps a path of the machine "
            f"that it was trained on: give its base yourself (`base`, or --base). {error}"
        ) from error


def attach(model: PreTrainedModel, checkpoint: Checkpoint) -> "PeftModel":
    """Put an adapter onto a model.

    An adapter that was saved when the modules had other names (transformers up to 4.51) is read
    as one for the present names.

    Args:
        model: The base. It is changed: use the returned model instead.
        checkpoint: The adapter.

    Raises:
        CheckpointError: the adapter cannot be read.
        UnsupportedModelError: the checkpoint lacks weights that its configuration names.
    """
    from peft import PeftConfig, PeftModel

    if os.path.isfile(file := os.path.join(checkpoint.at, WEIGHTS)):
        list(tensor_shapes(Path(file)))
    config = checkpoint.read(PeftConfig.from_pretrained, CONFIG)
    with checkpoint.reading("the adapter"), warnings.catch_warnings():
        config, key_mapping = present_names(model, config, checkpoint)
        warnings.filterwarnings("error", "Found missing adapter keys")
        # peft 0.21 still asks transformers 5.24 by the old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        try:
            # In the base's dtype: only training gains by adapters in float32.
            return PeftModel.from_pretrained(
                model,
                checkpoint.at,
                config=config,
                key_mapping=key_mapping,
                autocast_adapter_dtype=False,
                **checkpoint.hub,
            )
        except UserWarning as warning:
            raise UnsupportedModelError(
                f"{checkpoint.name} does not fit a {type(model).__name__}, and the rest would be "
                f"random. Is this the base that it was trained on? {warning}"
            ) from warning


def has_processor(checkpoint: Checkpoint) -> bool:
    """Tell whether a checkpoint comes with a processor of its own."""
    return any(checkpoint.has(file) for file in (PROCESSOR_NAME, IMAGE_PROCESSOR_NAME))
