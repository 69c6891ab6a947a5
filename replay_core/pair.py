"""A policy and the base model that it was trained from: load, compare, share memory."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
)

from visreplay.replay_core.adapters import Features, ModelAdapter
from visreplay.replay_core.config import ReplayConfig
from visreplay.replay_core.errors import (
    ConfigError,
    PairMismatchError,
    UnsupportedModelError,
)
from visreplay.replay_core.families import adapter_for
from visreplay.replay_core.lens import Lens
from visreplay.replay_core.run import visual_activations
from visreplay.replay_core.segment import Segment, VisualBlock
from visreplay.replay_core.sketch import Sketch

logger = logging.getLogger(__name__)

Facts = dict[str, Any]
"""What must agree between two models, by name."""

FEATURE_FACTS = (
    "image_seq_length",
    "downsample_ratio",
    "image_grid_pinpoints",
    "vision_aspect_ratio",
    "vision_feature_layer",
    "vision_feature_select_strategy",
)
"""What decides, in families that cut pictures into tiles, how many visual tokens there are."""


@dataclass(frozen=True, eq=False)
class ModelPair:
    """A policy with its base, ready for any number of sessions.

    Attributes:
        policy: The model that answers.
        base: The model whose activations are replayed; None for the plain policy alone.
        processor: Makes the inputs of both.
        shares_vision: Whether both have the same visual features, so that they are computed once.
        sketch: Makes entropies cheap; None computes them all exactly. See `sketched`.
    """

    policy: ModelAdapter
    base: ModelAdapter | None
    processor: Any
    shares_vision: bool
    sketch: Sketch | None = None

    @classmethod
    def of(
        cls,
        policy: PreTrainedModel,
        base: PreTrainedModel | None,
        processor: Any,
        replay_layers: int | None = None,
    ) -> Self:
        """Pair two loaded models.

        The base is cut down in place: its decoder layers from `replay_layers` on are dropped,
        tensors that equal the policy's bit for bit become the policy's, and a vision tower that
        equals the policy's is dropped.

        Args:
            policy: The model that answers. It is frozen, and otherwise left alone.
            base: The model that it was trained from.
            processor: Of the policy.
            replay_layers: How many of the base's layers will be needed; None keeps all.

        Raises:
            PairMismatchError: the architectures differ.
            UnsupportedModelError: no adapter knows the models.
        """
        if base is not None:
            check_alike(architecture(policy.config), architecture(base.config))
        return cls._shrunk(policy, base, processor, replay_layers)

    @classmethod
    def _shrunk(
        cls,
        policy: PreTrainedModel,
        base: PreTrainedModel | None,
        processor: Any,
        replay_layers: int | None,
    ) -> Self:
        policy_adapter = adapter_for(policy)
        if base is None:
            return cls(policy_adapter, None, processor, shares_vision=True)
        base_adapter = adapter_for(base)
        if replay_layers is not None:
            base_adapter.keep_layers(replay_layers)
        shares_vision = _equal(policy_adapter.vision, base_adapter.vision)
        if shares_vision:
            base_adapter.drop_vision()
        shared = share_tensors(policy, base)
        logger.info("policy and base share %.1f MiB of tensors", shared / 2**20)
        return cls(policy_adapter, base_adapter, processor, shares_vision)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of both."""
        return self.processor.tokenizer

    def features(self, block: VisualBlock) -> tuple[Features, Features]:
        """What a visual block feeds into the policy and into the base."""
        theirs = self.base_features(block)
        if self.base is None or self.shares_vision:
            return theirs, theirs
        return self.policy.features(block), theirs

    def base_features(self, block: VisualBlock) -> Features:
        """What a visual block feeds into the base, or into a policy without one."""
        if self.base is None or (self.shares_vision and self.policy.vision):
            return self.policy.features(block)
        return self.base.features(block)

    def sketched(
        self, segments: Sequence[Segment], *, layers: int, rank: int, config: ReplayConfig
    ) -> Self:
        """The same pair with entropies that are estimated first, and read exactly where needed.

        Args:
            segments: Sample contexts to fit the sketch on, a few pictures such as will come.
            layers: Layers that will be compared.
            rank: Of the sketch; an eighth of the hidden size serves well. Each of the two models
                takes `rank` numbers more per vocabulary entry.
            config: Chunk sizes.

        Raises:
            ConfigError: there is no base, or the samples are too few for the rank.
        """
        if self.base is None:
            raise ConfigError("a sketch is of base and policy, but the pair has no base")
        policy, base = self.policy, self.base
        sketch = Sketch.fit(
            Lens(base.norm, base.head, config.memory_bytes),
            Lens(policy.norm, policy.head, config.memory_bytes),
            visual_activations(base, segments, self.base_features, layers, config),
            visual_activations(policy, segments, policy.features, layers, config),
            rank,
        )
        return replace(self, sketch=sketch)

    def swapped(self) -> Self:
        """The pair in which the base answers, and the policy is replayed on it.

        Raises:
            ConfigError: there is no base, or it was cut down and cannot answer.
        """
        if self.base is None or self.base.depth < self.policy.depth:
            left = self.base.depth if self.base else 0
            raise ConfigError(
                f"to swap roles the base must answer, but of its {self.policy.depth} layers the "
                f"pair kept {left}: load it with replay_layers=None"
            )
        return replace(self, policy=self.base, base=self.policy, sketch=None)


def load_pair(
    policy: str,
    base: str | None,
    *,
    dtype: torch.dtype | str = "auto",
    device: str = "auto",
    replay_layers: int | None = None,
    processor: str | None = None,
    **model_kwargs: Any,
) -> ModelPair:
    """Load a policy and its base, from folders or from the Hugging Face hub.

    What can be compared without weights is compared first, and of the base only the layers that
    will be needed are read.

    Args:
        policy: Folder or hub id of the model that answers.
        base: The same of the model that it was trained from; None for the plain policy.
        dtype: Of the weights; "auto" takes the checkpoint's.
        device: "auto" takes a GPU if there is one. Not used if there is a `device_map`.
        replay_layers: How many of the base's layers will be needed; None keeps all.
        processor: Folder or hub id of the processor to use for both. By default it is the
            policy's, and the base's must prepare pictures in the same way.
        **model_kwargs: For `from_pretrained`: `device_map`, `attn_implementation`, ...

    Raises:
        PairMismatchError: architecture, vocabulary or picture processing differ.
        UnsupportedModelError: no adapter knows the models, or weights are missing.
    """
    chosen = AutoProcessor.from_pretrained(processor or policy)
    policy_config = AutoConfig.from_pretrained(policy)
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
    policy_model = _load(policy, policy_config, device, kwargs)
    base_model = None
    if base is not None:
        if replay_layers is not None:
            keep_layers(base_config, replay_layers)
        base_model = _load(base, base_config, device, kwargs)
    return ModelPair._shrunk(policy_model, base_model, chosen, replay_layers)


def _load(name: str, config: Any, device: str, kwargs: Facts) -> PreTrainedModel:
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
    """Hide a logger's warnings: here, a table of all the layers that were left out on purpose.

    What else could be in it is an error of ours (`missing_keys`) or of transformers' own.
    """
    noisy = logging.getLogger(name)
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        yield
    finally:
        noisy.setLevel(level)


def keep_layers(config: Any, count: int) -> None:
    """Let a model that is built from this configuration have only `count` decoder layers."""
    text = config.get_text_config()
    text.num_hidden_layers = min(count, text.num_hidden_layers)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:count]


def architecture(config: Any) -> Facts:
    """What must agree so that activations of two models can stand for each other."""
    top = ("model_type", "image_token_id", "video_token_id", *FEATURE_FACTS)
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    grid = ("image_size", "patch_size", "temporal_patch_size", "spatial_merge_size")
    text, vision = config.get_text_config(), getattr(config, "vision_config", None)
    rope = getattr(text, "rope_parameters", None) or {}
    return {
        **_facts("", config, top),
        **_facts("", text, (*sizes, "vocab_size")),
        **{name: rope.get(name) for name in ("rope_theta", "mrope_section")},
        **_facts("vision ", vision, (*grid, "tokens_per_second", "deepstack_visual_indexes")),
    }


def picture_processing(processor: Any) -> Facts:
    """How a processor turns pictures and clips into patches, its pixel budget included."""
    grid = ("patch_size", "temporal_patch_size", "merge_size", "size", "do_resize")
    tiles = ("crop_to_patches", "min_patches", "max_patches", "image_grid_pinpoints", "do_pad")
    colour = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    image, video = (getattr(processor, f"{kind}_processor", None) for kind in ("image", "video"))
    return {
        **_facts("image ", image, grid + tiles + colour),
        **_facts("video ", video, grid + colour),
        **_facts("", processor, ("num_image_tokens", *FEATURE_FACTS)),
    }


def _facts(prefix: str, holder: Any, names: Sequence[str]) -> Facts:
    return {f"{prefix}{name}": _plain(getattr(holder, name, None)) for name in names}


def _plain(value: Any) -> Any:
    """Sequences and mappings of whatever class as tuples and dicts, so that they compare."""
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return tuple(value) if isinstance(value, list | tuple) else value


def check_alike(policy: Facts, base: Facts) -> None:
    """Compare two sets of facts.

    Raises:
        PairMismatchError: names up to three differences, with both values.
    """
    names = [name for name in {**policy, **base} if policy.get(name) != base.get(name)]
    if names:
        shown = "; ".join(
            f"{name} is {policy.get(name)} in the policy and {base.get(name)} in the base"
            for name in names[:3]
        )
        raise PairMismatchError(
            f"policy and base differ in {len(names)} place(s): {shown}. The base must be the "
            "model that the policy was trained from"
        )


def share_tensors(policy: nn.Module, base: nn.Module) -> int:
    """Let the base use the policy's parameters wherever its own are equal bit for bit.

    Only parameters on the same device can be shared.

    Returns:
        Bytes that became free.
    """
    ours = dict(policy.named_parameters(remove_duplicate=False))
    freed: dict[int, int] = {}
    for name, theirs in list(base.named_parameters(remove_duplicate=False)):
        twin = ours.get(name)
        if twin is None or twin is theirs or twin.device != theirs.device:
            continue
        if twin.dtype == theirs.dtype and torch.equal(twin, theirs):
            owner, _, leaf = name.rpartition(".")
            setattr(base.get_submodule(owner), leaf, twin)
            freed[theirs.data_ptr()] = theirs.nbytes
    return sum(freed.values())


def _equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    """Whether two models hold the same weights, bit for bit, on whatever device."""
    return (
        bool(ours)
        and ours.keys() == theirs.keys()
        and all(
            ours[name].dtype == theirs[name].dtype
            and torch.equal(ours[name], theirs[name].to(ours[name].device))
            for name in ours
        )
    )
