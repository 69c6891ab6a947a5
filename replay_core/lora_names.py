"""The module names of LoRA adapters that were saved by transformers up to 4.51.

Its vision-language models called their modules `model.layers` and `visual.blocks`, or
`language_model.model.layers`, where they are `model.language_model.layers` and
`model.visual.blocks` now. transformers renames the weights of whole models as it loads them, and
its table of names serves here for the keys and the settings of an adapter.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from visreplay.replay_core.checkpoint import Checkpoint
from visreplay.replay_core.errors import UnsupportedModelError

if TYPE_CHECKING:
    from peft import LoraConfig


def present_names(
    model: PreTrainedModel, config: "LoraConfig", checkpoint: Checkpoint
) -> tuple["LoraConfig", dict[str, str]]:
    """Translate an adapter to the module names of a model.

    Args:
        model: The model that the adapter is for.
        config: The adapter's settings, which are changed if its names are old ones.
        checkpoint: The adapter.

    Returns:
        The settings, and patterns of keys with their replacements for peft; none if the names
        are the present ones.

    Raises:
        UnsupportedModelError: the model lacks modules that the adapter has weights for.
    """
    from peft import load_peft_weights

    rename = _renaming(model)
    weights = load_peft_weights(checkpoint.at, device="cpu", **checkpoint.hub)
    keys = [key.removeprefix("base_model.model.") for key in weights]
    prefixes = dict(_prefixes(key, rename(key)) for key in keys if rename(key) != key)
    if prefixes:
        _rename_settings(config, keys, rename)
        _check_modules(model, {rename(key).split(".lora_")[0] for key in keys if ".lora_" in key})
    return config, {f"^{re.escape(old)}\\.": f"{new}." for old, new in prefixes.items()}


def _renaming(model: PreTrainedModel) -> Callable[[str], str]:
    """Return the function from a name in an older release to the name in this one."""
    conversions = get_model_conversion_mapping(model)
    renamings = [item for item in conversions if isinstance(item, WeightRenaming)]

    def rename(name: str) -> str:
        renamed: str = rename_source_key(name, renamings, [])[0]
        return renamed

    return rename


def _prefixes(old: str, new: str) -> tuple[str, str]:
    """Return the fronts of two names, without the parts that both end in."""
    before, after = old.split("."), new.split(".")
    while len(before) > 1 and len(after) > 1 and before[-1] == after[-1]:
        before.pop()
        after.pop()
    return ".".join(before), ".".join(after)


def _check_modules(model: PreTrainedModel, modules: set[str]) -> None:
    missing = sorted(modules - {name for name, _ in model.named_modules()})
    if missing:
        raise UnsupportedModelError(
            f"the adapter has weights for {len(missing)} modules that a {type(model).__name__} "
            f"lacks, such as {missing[0]}: give the base that it was trained on"
        )


def _rename_settings(config: Any, keys: list[str], rename: Callable[[str], str]) -> None:
    """Rewrite the settings of an adapter that choose modules by name.

    `target_modules` and `exclude_modules` may be regular expressions on the old names, which
    cannot be translated in general. The weights tell which modules they chose, and those are
    listed instead. Last parts of names ("q_proj") are what they were.
    """
    from peft.utils.other import get_pattern_key

    modules = {key.split(".lora_")[0] for key in keys if ".lora_" in key}
    for field in ("rank_pattern", "alpha_pattern"):
        pattern = getattr(config, field)
        chosen = {module: get_pattern_key(pattern.keys(), module) for module in modules}
        values = {rename(it): pattern[key] for it, key in chosen.items() if key in pattern}
        setattr(config, field, values)
    targets = config.target_modules
    by_last_part = not isinstance(targets, str) and not any("." in target for target in targets)
    if not by_last_part or config.exclude_modules or config.layers_to_transform is not None:
        config.target_modules = {rename(module) for module in modules}
        config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    if config.modules_to_save is not None:
        config.modules_to_save = [rename(name) for name in config.modules_to_save]
