"""A policy and the base model that it was trained from: load, compare, share memory."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Self, Unpack

from PIL import Image
from transformers import PreTrainedModel

from visreplay.replay_core import lora
from visreplay.replay_core.chat_template import load_image, render_user_turn
from visreplay.replay_core.compatibility import architecture, check_alike
from visreplay.replay_core.config import Method, ReplayConfig
from visreplay.replay_core.decoding import Decoding
from visreplay.replay_core.errors import ConfigError, UnsupportedModelError
from visreplay.replay_core.families.adapter import Features, ModelAdapter
from visreplay.replay_core.families.registry import adapter_for
from visreplay.replay_core.generation import Generation
from visreplay.replay_core.lens import Lens
from visreplay.replay_core.model_run import visual_activations
from visreplay.replay_core.segment import Segment, VisualBlock
from visreplay.replay_core.sharing import equal_tensors, share_tensors
from visreplay.replay_core.sketch import Sketch
from visreplay.replay_core.tuned import tuned_config

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ModelPair:
    """A policy with its base, ready for any number of sessions.

    Attributes:
        policy: The model that answers.
        base: The model whose activations are replayed; None for the plain policy alone.
        processor: The processor that makes the inputs of both.
        shares_vision: Whether both have the same visual features, so that they are computed once.
        sketch: Estimates entropies at low cost; None computes all of them exactly. See `sketched`.
        names: What records call policy and base.
        tuned: Settings of replay that were tuned for the pair, by method. See `replay_config`.
        lock: Held while the processor is called: not every processor is safe in two threads.

    Examples:
        >>> from PIL import Image
        >>> from visreplay.replay_core import load_pair
        >>> pair = load_pair("embedded", device="cpu")
        >>> image = Image.new("RGB", (224, 224), "red")
        >>> answer = pair.generate("What is here?", images=[image], max_new_tokens=8)
        >>> len(answer.token_ids), answer.finish_reason
        (8, 'length')
    """

    policy: ModelAdapter
    base: ModelAdapter | None
    processor: Any
    shares_vision: bool
    sketch: Sketch | None = None
    names: tuple[str, str | None] = ("policy", "base")
    tuned: Mapping[Method, ReplayConfig] = field(default_factory=dict, repr=False)
    lock: AbstractContextManager[Any] = field(default_factory=Lock, repr=False)

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
            processor: The policy's processor.
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
        return cls.assemble(policy, base, processor, replay_layers)

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
            processor: The policy's processor.
            replay_layers: As in `of`.

        Raises:
            UnsupportedModelError: no adapter knows the model, or the weights beneath the LoRA are
                not those of the base.
        """
        return cls.assemble(*lora.split(adapted), processor, replay_layers)

    @classmethod
    def assemble(
        cls,
        policy: PreTrainedModel,
        base: PreTrainedModel | None,
        processor: Any,
        replay_layers: int | None,
        base_device: str | None = None,
    ) -> Self:
        """Pair two models whose architectures are known to be alike; otherwise as `of`.

        Args:
            policy: As in `of`.
            base: As in `of`.
            processor: As in `of`.
            replay_layers: As in `of`.
            base_device: Where to move what is kept of the base; None leaves it where it is.
        """
        policy_adapter = adapter_for(policy)
        if base is None:
            return cls(policy_adapter, None, processor, shares_vision=True, names=("policy", None))
        base_adapter = adapter_for(base)
        if replay_layers is not None:
            base_adapter.keep_layers(replay_layers)
        shares_vision = equal_tensors(policy_adapter.vision, base_adapter.vision)
        if shares_vision:
            base_adapter.drop_vision()
        freed = share_tensors(policy, base, base_device)
        logger.info("freed %.1f MiB of the base that equal the policy's", freed / 2**20)
        return cls(policy_adapter, base_adapter, processor, shares_vision)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of both."""
        return self.processor.tokenizer

    def replay_config(
        self, replay: ReplayConfig | Method | str = Method.TOKEN, **changes: Any
    ) -> ReplayConfig:
        """Return the settings of a way of replaying this pair.

        Args:
            replay: "token", "state" or "none", whose settings are those that were tuned for the
                pair, or else the defaults of `ReplayConfig`; or complete settings.
            **changes: Fields of `ReplayConfig` to set otherwise.

        Raises:
            ConfigError: there is no such method, or a setting is out of range.
        """
        return tuned_config(self.tuned, replay, **changes)

    def user_turn(
        self,
        text: str,
        images: Sequence[Image.Image | str | Path] = (),
        *,
        context_ids: Sequence[int] = (),
    ) -> Segment:
        """Encode a user turn by the chat template, up to the opening of the assistant's turn.

        Special tokens that the text spells out are broken up, and stay text.

        Args:
            text: The text of the turn.
            images: Images of PIL, or paths of image files; they come before the text.
            context_ids: The tokens of the context that the turn will be appended to. Only what
                follows them is encoded: the end of the assistant's turn, if it is not there yet,
                and the user's turn.

        Raises:
            ContextError: an image cannot be read, or the template drops turns.
        """
        loaded = [load_image(image) for image in images]
        prompt = render_user_turn(self.processor, text, len(loaded), context_ids)
        visual = {"images": loaded} if loaded else {}
        with self.lock:
            batch = self.processor(text=[prompt], return_tensors="pt", **visual)
        return Segment.from_processor(batch, self.policy)

    def generate(
        self,
        text: str,
        images: Sequence[Image.Image | str | Path] = (),
        *,
        replay: ReplayConfig | str = "token",
        max_new_tokens: int = 512,
        **decoding: Unpack[Decoding],
    ) -> Generation:
        """Answer one question, in a session of its own.

        Args:
            text: The question; the checkpoint's chat template is applied.
            images: Images of PIL, or paths of image files; they come before the text.
            replay: How to replay, as in `replay_config`.
            max_new_tokens: Number of tokens to write at most.
            **decoding: As in `Decoding`.

        Raises:
            ConfigError: a setting is out of range, or does not fit the pair.
            ContextError: an image cannot be read, or the model has too few positions.
        """
        from visreplay.replay_core.session import ReplaySession  # which imports this module

        with ReplaySession(self, replay) as session:
            session.append(text, images=images)
            return session.generate(max_new_tokens=max_new_tokens, **decoding)

    def features(self, block: VisualBlock) -> tuple[Features, Features]:
        """Compute what a visual block feeds into the policy and into the base."""
        theirs = self.base_features(block)
        if self.base is None or self.shares_vision:
            return theirs, theirs
        return self.policy.features(block), theirs

    def base_features(self, block: VisualBlock) -> Features:
        """Compute what a visual block feeds into the base, or into a policy without one."""
        if self.base is None or (self.shares_vision and self.policy.vision):
            return self.policy.features(block)
        return self.base.features(block)

    def sketched(
        self, segments: Sequence[Segment], *, layers: int, rank: int, config: ReplayConfig
    ) -> Self:
        """Return the pair with a sketch: entropies are estimated, and exact only where needed.

        Args:
            segments: Sample contexts to fit the sketch on, with a few images of the usual kind.
            layers: Number of layers that will be compared.
            rank: Rank of the sketch; an eighth of the hidden size serves well. Each of the two
                models takes `rank` numbers more per vocabulary entry.
            config: Settings, of which the chunk sizes count here.

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
        """Return the pair in which the base answers, and the policy is replayed on it.

        Raises:
            ConfigError: there is no base, or it was cut down and cannot answer.
        """
        if self.base is None or self.base.depth < self.policy.depth:
            left = self.base.depth if self.base else 0
            raise ConfigError(
                f"to swap roles the base must answer, but of its {self.policy.depth} layers the "
                f"pair kept {left}: load it with replay_layers=None"
            )
        names = (self.names[1] or "base", self.names[0])
        return replace(self, policy=self.base, base=self.policy, sketch=None, names=names)
