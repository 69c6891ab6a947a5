"""New checkpoints out of a policy and its base: the base's first layers under it, or their mean.

State replay that replaced every activation would answer a prompt as the graft does, which needs
one model and no replay. Weights are read and given out one file at a time, so that memory stays at
one file; nothing is written here.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from visreplay.replay_core import lora
from visreplay.replay_core.checkpoint import Checkpoint
from visreplay.replay_core.compatibility import architecture, check_alike
from visreplay.replay_core.errors import (
    CheckpointError,
    ConfigError,
    PairMismatchError,
    UnsupportedModelError,
)
from visreplay.replay_core.families.registry import adapter_class
from visreplay.replay_core.weight_files import count_weights

EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"
"""The input embedding and the LM head, by the names of `Weights`."""

AT_ONCE = 2**22
"""Numbers of a tensor that are held in float32 at a time."""

OTHER_FILES = (
    *("generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("chat_template.json", "chat_template.jinja", "processor_config.json"),
    *("preprocessor_config.json", "video_preprocessor_config.json"),
)
"""The files of a checkpoint beside its weights and `config.json`: each may be there or not."""


class Weights:
    """The tensors of a checkpoint, read one at a time.

    Their names are those that all layouts have in common, without the parts that the language
    model lies in: "layers.0.mlp.up_proj.weight", "visual.patch_embed.proj.weight".

    Attributes:
        source: The checkpoint.
        places: By name, the file of each tensor and its name there.
    """

    places: dict[str, tuple[str, str]]

    def __init__(self, source: Checkpoint) -> None:
        """List the tensors.

        Raises:
            CheckpointError: a file is damaged, or there are no weights in safetensors.
        """
        self.source = source
        count_weights(source)
        if source.has(SAFE_WEIGHTS_NAME):
            with self._opened(SAFE_WEIGHTS_NAME) as opened:
                stored = dict.fromkeys(opened.keys(), SAFE_WEIGHTS_NAME)
        else:
            stored = source.read_json(SAFE_WEIGHTS_INDEX_NAME).get("weight_map", {})
        self.places = {
            re.sub(r"^(?:model\.|language_model\.)+", "", name): (file, name)
            for name, file in stored.items()
        }
        if EMBEDDING not in self.places or len(self.places) != len(stored):
            raise CheckpointError(
                f"the checkpoint {source.at!r} holds no weights in safetensors, or they have other "
                "names than those of transformers: convert them (`save_pretrained`)"
            )

    def tensor(self, name: str) -> Tensor:
        """Read a tensor; a head that is not stored is the embedding.

        Raises:
            CheckpointError: its file cannot be read.
        """
        file, stored = self._place(name)
        with self.source.reading(file), self._opened(file) as opened:
            tensor: Tensor = opened.get_tensor(stored)
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """Read the shape of a tensor.

        Raises:
            CheckpointError: its file cannot be read.
        """
        file, stored = self._place(name)
        with self.source.reading(file), self._opened(file) as opened:
            return tuple(opened.get_slice(stored).get_shape())

    def _place(self, name: str) -> tuple[str, str]:
        return self.places.get(name) or self.places[EMBEDDING]

    def _opened(self, file: str) -> Any:
        with self.source.reading(file):
            path = self.source.file(file)
            if path is None:
                raise FileNotFoundError("it is not there")
            return safe_open(path, framework="pt")


@dataclass(frozen=True)
class NewCheckpoint:
    """A checkpoint that is made of a policy and its base, and not written yet.

    Attributes:
        policy: The policy's weights, whose files and names the new ones have.
        tensor: Makes a tensor by its name.
        settings: The content of `config.json`.
        head: Whether a head is written that the policy does not store.
        about: How it is made, as plain JSON values.
    """

    policy: Weights
    tensor: Callable[[str], Tensor]
    settings: Mapping[str, Any]
    head: bool
    about: Mapping[str, Any]

    @property
    def files(self) -> dict[str, list[str]]:
        """The files of weights, and the names of the tensors in each."""
        parts: dict[str, list[str]] = {}
        for name, (file, _) in self.policy.places.items():
            parts.setdefault(file, []).append(name)
        groups = [*parts.values(), *([[HEAD]] if self.head else [])]
        if len(groups) == 1:
            return {SAFE_WEIGHTS_NAME: groups[0]}
        return {
            f"model-{number:05d}-of-{len(groups):05d}.safetensors": group
            for number, group in enumerate(groups, 1)
        }

    def weights(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Make file after file: its name, and its tensors by the policy's names.

        Raises:
            CheckpointError: a file of the policy or of the base cannot be read.
        """
        for file, names in self.files.items():
            yield file, {self._stored(name): self.tensor(name).contiguous() for name in names}

    def index(self, size: int) -> dict[str, Any] | None:
        """Make the index of the files; None where there is a single one.

        Args:
            size: Bytes of all tensors.
        """
        if len(self.files) == 1:
            return None
        places = {self._stored(name): file for file, names in self.files.items() for name in names}
        return {"metadata": {"total_size": size}, "weight_map": places}

    def _stored(self, name: str) -> str:
        if name in self.policy.places:
            return self.policy.places[name][1]
        inner = self.policy.places[EMBEDDING][1].startswith("language_model.model.")
        return f"language_model.{name}" if inner else name


def plan_graft(policy: str, base: str, layers: int, *, vision: bool = True) -> NewCheckpoint:
    """Plan a checkpoint: the base's embedding, visual features and first layers, and the policy.

    Args:
        policy: Folder or hub id of the policy, of which everything else is.
        base: Folder or hub id of the base.
        layers: Number of the base's decoder layers.
        vision: Whether the vision tower is the base's, as in the base that state replay runs; or
            else the policy's.

    Raises:
        CheckpointError: a checkpoint cannot be read, or holds no weights in safetensors.
        ConfigError: there are fewer layers, or the graft of so few would need two vision towers.
        PairMismatchError: the two are not alike.
        UnsupportedModelError: no adapter knows them, or they are quantised or LoRA adapters.
    """
    ours, theirs, config = _read_pair(policy, base)
    depth = config.get_text_config().num_hidden_layers
    if not 1 <= layers <= depth:
        raise ConfigError(
            f"layers is {layers}, but the policy has {depth} decoder layers: choose 1 to {depth}"
        )
    parts = adapter_class(config.model_type).vision_parts
    names = {*ours.places, *theirs.places}
    tower = {name for name in names if vision and name.split(".")[0] in parts}
    first = {name for name in names if _layer(name) in range(layers)}
    taken = {EMBEDDING, *first, *tower}
    _check_common(taken, ours, theirs)
    _check_deep_features(config, layers, tower, ours, theirs)

    def tensor(name: str) -> Tensor:
        mine = ours.tensor(name)
        return theirs.tensor(name).to(mine.dtype) if name in taken else mine

    return NewCheckpoint(
        ours,
        tensor,
        _untied(ours.source),
        head=HEAD not in ours.places,
        about=_about("graft", ours, theirs, layers=layers, vision=vision),
    )


def plan_merge(policy: str, base: str, weight: float) -> NewCheckpoint:
    """Plan a checkpoint whose every tensor is the weighted mean of the base's and the policy's.

    Args:
        policy: Folder or hub id of the policy.
        base: Folder or hub id of the base.
        weight: The weight of the base in the mean, from 0 (the policy) to 1 (the base).

    Raises:
        CheckpointError: As `plan_graft`, and so are the others.
        ConfigError: The weight is out of range.
        PairMismatchError: See there.
        UnsupportedModelError: See there.
    """
    if not 0 <= weight <= 1:
        raise ConfigError(f"weight is {weight}, but must lie in [0, 1], the share of the base")
    ours, theirs, config = _read_pair(policy, base)
    _check_common({*ours.places, *theirs.places} - {HEAD}, ours, theirs)
    tied = getattr(config, "tie_word_embeddings", False) and HEAD not in {
        *ours.places,
        *theirs.places,
    }

    def tensor(name: str) -> Tensor:
        mine = ours.tensor(name)
        return _mean(mine, theirs.tensor(name), weight) if mine.is_floating_point() else mine

    return NewCheckpoint(
        ours,
        tensor,
        ours.source.read_json(CONFIG_NAME) if tied else _untied(ours.source),
        head=not tied and HEAD not in ours.places,
        about=_about("merge", ours, theirs, weight=weight),
    )


def _mean(mine: Tensor, other: Tensor, weight: float) -> Tensor:
    """Compute the weighted mean in float32, a part at a time, and round it once."""
    mean = torch.empty_like(mine)
    parts = (each.flatten().split(AT_ONCE) for each in (mean, mine, other))
    for part, ours, theirs in zip(*parts, strict=True):
        # Exactly the one or the other at the ends of the range.
        part.copy_(torch.lerp(ours.float(), theirs.float(), weight))
    return mean


def _read_pair(policy: str, base: str) -> tuple[Weights, Weights, Any]:
    """Find both checkpoints, compare their configurations, and list their tensors."""
    sources = [Checkpoint.find(name, role) for role, name in enumerate((policy, base))]
    configs = []
    for source in sources:
        if lora.is_adapter(source):
            raise UnsupportedModelError(
                f"{source.name!r} is a LoRA adapter, but weights of a whole model are needed: "
                "merge it into its base (`merge_and_unload`), and save that"
            )
        config = source.config()
        adapter_class(config.model_type)
        if getattr(config, "quantization_config", None):
            raise UnsupportedModelError(
                f"{source.name!r} is quantised, and its numbers cannot be joined with others: give "
                "the checkpoint that it was made of"
            )
        configs.append(config)
    check_alike(architecture(configs[0]), architecture(configs[1]))
    ours, theirs = map(Weights, sources)
    for weights, config in zip((ours, theirs), configs, strict=True):
        if HEAD not in weights.places and not getattr(config, "tie_word_embeddings", False):
            raise CheckpointError(
                f"the checkpoint {weights.source.at!r} lacks the LM head, and its config.json does "
                "not tie it to the embedding: download it again"
            )
    return ours, theirs, configs[0]


def _layer(name: str) -> int | None:
    """Number of the decoder layer that a tensor belongs to; None for all others."""
    layer = re.match(r"layers\.(\d+)\.", name)
    return int(layer[1]) if layer else None


def _check_common(names: set[str], ours: Weights, theirs: Weights) -> None:
    """Check that both have some tensors, of the same shapes.

    Raises:
        PairMismatchError: they have not.
    """
    for name in sorted(names):
        for mine, other in ((ours, theirs), (theirs, ours)):
            if name not in other.places:
                raise PairMismatchError(
                    f"{mine.source.name!r} has a tensor {mine.places[name][1]}, but "
                    f"{other.source.name!r} has none of that name: save both with the same release "
                    "of transformers (`save_pretrained`)"
                )
        if ours.shape(name) != theirs.shape(name):
            raise PairMismatchError(
                f"{ours.places[name][1]} is {ours.shape(name)} in the policy and "
                f"{theirs.shape(name)} in the base: the base must be the model that the policy was "
                "trained from"
            )


def _check_deep_features(
    config: Any, layers: int, tower: set[str], ours: Weights, theirs: Weights
) -> None:
    """Refuse a graft that visual features enter both below and above its edge.

    Qwen3-VL adds some to the outputs of its first layers: the policy's at its own layers, and the
    base's at those of the base. One checkpoint has one vision tower for both.

    Raises:
        ConfigError: there are such features, and the two vision towers differ.
    """
    deep = len(getattr(config.vision_config, "deepstack_visual_indexes", None) or ())
    if layers < deep and not all(
        torch.equal(ours.tensor(name), theirs.tensor(name)) for name in tower
    ):
        raise ConfigError(
            f"layers is {layers}, but visual features enter the first {deep} layers, and the "
            f"vision towers of policy and base differ: choose {deep} layers or more, or keep the "
            "policy's vision tower (vision=False, or --no-vision)"
        )


def _untied(source: Checkpoint) -> dict[str, Any]:
    """Read a configuration, with a head of its own."""
    settings = deepcopy(source.read_json(CONFIG_NAME))
    settings["tie_word_embeddings"] = False
    if isinstance(settings.get("text_config"), dict):
        settings["text_config"]["tie_word_embeddings"] = False
    return settings


def _about(kind: str, ours: Weights, theirs: Weights, **how: Any) -> dict[str, Any]:
    """Tell how a checkpoint is made."""
    return {"made_by": kind, "policy": ours.source.name, "base": theirs.source.name, **how}
