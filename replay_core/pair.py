"""A policy and the base model that it was trained from: load, compare, share memory."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
)

from visreplay.replay_core import lora
from visreplay.replay_core.adapters import ModelAdapter
from visreplay.replay_core.alike import architecture, check_alike, picture_processing
from visreplay.replay_core.errors import UnsupportedModelError
from visreplay.replay_core.families import adapter_for
from visreplay.replay_core.segment import VisualBlock

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ModelPair:
    """A policy with its base, ready for any number of sessions.

    Attributes:
        policy: The model that answers.
        base: The model whose activations are replayed; None for the plain policy alone.
        processor: Makes the inputs of both.
        shares_vision: Whether both have the same visual features, so that they are computed once.
    """

    policy: ModelAdapter
    base: ModelAdapter | None
    processor: Any
    shares_vision: bool

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
            UnsupportedModelError: no adapter knows the models, or the policy is a peft model.
        """
        if not isinstance(policy, PreTrainedModel):
            raise UnsupportedModelError(
                f"the policy is a {type(policy).__name__}, no model of transformers: if it is a "
                "LoRA by peft, use ModelPair.from_peft, which needs no second model"
            )
        if base is not None:
            check_alike(architecture(policy.config), architecture(base.config))
        return cls._shrunk(policy, base, processor, replay_layers)

    @classmethod
    def from_peft(
        cls, adapted: "PeftModel", processor: Any, replay_layers: int | None = None
    ) -> Self:
        """Pair a model under a LoRA adapter with the same model without it.

        There is one set of weights, and the adapter's own: the two models share every tensor of
        the base. The peft model is frozen, and otherwise left alone; enabling or disabling its
        adapter makes no difference to the pair.

        Args:
            adapted: The policy.
            processor: Of the policy.
            replay_layers: As in `of`.

        Raises:
            UnsupportedModelError: no adapter knows the model, or what is beneath the LoRA is not
                the base.
        """
        return cls._shrunk(*lora.split(adapted), processor, replay_layers)

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
        freed = share_tensors(policy, base)
        logger.info("freed %.1f MiB of the base that equal the policy's", freed / 2**20)
        return cls(policy_adapter, base_adapter, processor, shares_vision)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of both."""
        return self.processor.tokenizer

    def features(self, block: VisualBlock) -> tuple[Tensor, Tensor]:
        """Input embeddings `(T, D)` of a visual block, for the policy and for the base."""
        policy_TD = self.policy.features(block)
        if self.base is None or self.shares_vision:
            return policy_TD, policy_TD
        return policy_TD, self.base.features(block)


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
    return ModelPair._shrunk(policy_model, base_model, chosen, replay_layers)


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
    text.layer_types = text.layer_types[:count]


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


def _equal(first: nn.Module | None, second: nn.Module | None) -> bool:
    """Whether two modules hold the same parameters, bit for bit, on whatever device."""
    if first is None or second is None:
        return False
    ours, theirs = dict(first.named_parameters()), dict(second.named_parameters())
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype
        and torch.equal(ours[name], theirs[name].to(ours[name].device))
        for name in ours
    )
