"""The model families that have an adapter, and the choice of a model's adapter."""

from transformers import PreTrainedModel

from visreplay.replay_core.errors import UnsupportedModelError
from visreplay.replay_core.families.adapter import ModelAdapter
from visreplay.replay_core.families.internvl import InternVLAdapter
from visreplay.replay_core.families.llava_onevision import LlavaOnevisionAdapter
from visreplay.replay_core.families.qwen import Qwen2VLAdapter, Qwen3VLAdapter, Qwen25VLAdapter

ADAPTERS: list[type[ModelAdapter]] = [
    Qwen2VLAdapter,
    Qwen25VLAdapter,
    Qwen3VLAdapter,
    InternVLAdapter,
    LlavaOnevisionAdapter,
]
"""The families that `adapter_for` knows; append your own."""


def adapter_for(model: PreTrainedModel) -> ModelAdapter:
    """Wrap a model in the adapter of its family.

    Raises:
        UnsupportedModelError: no adapter lists the model's type.
    """
    return adapter_class(model.config.model_type)(model)


def adapter_class(model_type: str) -> type[ModelAdapter]:
    """Return the adapter of the family that a type of models belongs to.

    Raises:
        UnsupportedModelError: no adapter lists the type.
    """
    for adapter in ADAPTERS:
        if model_type in adapter.model_types:
            return adapter
    known = ", ".join(sorted(name for adapter in ADAPTERS for name in adapter.model_types))
    members = ", ".join(sorted(ModelAdapter.__abstractmethods__))
    raise UnsupportedModelError(
        f"no adapter for model type {model_type!r} (known: {known}): subclass ModelAdapter with "
        f"model_types and {members}, and append it to "
        "visreplay.replay_core.families.registry.ADAPTERS"
    )
