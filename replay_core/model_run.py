"""The run of one model over a context."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from visreplay.replay_core.cache import KVCache
from visreplay.replay_core.config import ReplayConfig
from visreplay.replay_core.families.adapter import Features, ModelAdapter, Visitor
from visreplay.replay_core.lens import Lens
from visreplay.replay_core.memory import memory_errors
from visreplay.replay_core.segment import Segment, VisualBlock


class ModelRun:
    """A model and its cache.

    Attributes:
        adapter: The model.
        lens: The logit lens of the model.
        cache: Keys and values so far, of the layers that run.
    """

    def __init__(self, adapter: ModelAdapter, depth: int, config: ReplayConfig) -> None:
        """Start with an empty cache.

        Args:
            adapter: The model.
            depth: Number of its first layers that run.
            config: Settings, of which the chunk sizes count here.
        """
        self.adapter = adapter
        self.lens = Lens(adapter.norm, adapter.head, config.memory_bytes)
        self.cache = KVCache(depth)
        self._config = config

    def advance(
        self,
        features: Features,
        positions_3T: Tensor,
        visit: Visitor | None = None,
        *,
        whole: bool = False,
    ) -> Tensor:
        """Run over new positions.

        Args:
            features: Their input features.
            positions_3T: Their rotary positions.
            visit: A visitor, which may replace every layer's output.
            whole: Take them at once, whatever `query_chunk` says.

        Returns:
            The output of the last layer, `(T, D)`, as of `ModelAdapter.run`.
        """
        chunk = None if whole else self._config.query_chunk
        return self.adapter.run(features, positions_3T, self.cache, visit=visit, chunk=chunk)

    def prefix(self, length: int) -> "ModelRun":
        """Fork the run as it was after `length` positions, or as it is if it is shorter."""
        run = ModelRun(self.adapter, 0, self._config)
        run.cache = self.cache.prefix(min(length, self.cache.length))
        return run


class ActivationRecorder:
    """A visitor that keeps the activations of every layer."""

    def __init__(self, depth: int) -> None:
        """Prepare for a number of layers."""
        self._chunks: list[list[Tensor]] = [[] for _ in range(depth)]

    def __call__(self, layer: int, rows: slice, hidden_TD: Tensor) -> None:
        """Keep one layer's activations for one chunk of positions."""
        self._chunks[layer].append(hidden_TD)

    @property
    def hidden(self) -> list[Tensor]:
        """Activations `(T, D)`, layer by layer."""
        return [self.of(layer) for layer in range(len(self._chunks))]

    def of(self, layer: int) -> Tensor:
        """Return the activations `(T, D)` of one layer. Its chunks are joined once."""
        if len(self._chunks[layer]) > 1:
            self._chunks[layer] = [torch.cat(self._chunks[layer])]
        return self._chunks[layer][0]


class SingleModelRun(ModelRun):
    """The run of a model alone over whole segments: no other model, no replay."""

    def __init__(
        self,
        adapter: ModelAdapter,
        features: Callable[[VisualBlock], Features],
        depth: int,
        config: ReplayConfig,
    ) -> None:
        """Start with an empty cache.

        Args:
            adapter: The model.
            features: Computes the features of a visual block: the own tower may be dropped.
            depth: Number of its first layers that run.
            config: Settings, of which the chunk sizes count here.
        """
        super().__init__(adapter, depth, config)
        self._features = features
        self._position = 0

    @torch.no_grad()
    @memory_errors()
    def append(self, segment: Segment, visit: Visitor) -> None:
        """Run over new tokens, with a visitor at the visual ones."""
        for ids_T, block in segment.pieces():
            if block is None:
                positions_3T = self.adapter.text_positions(len(ids_T), self._position)
                self.advance(self.adapter.embed(ids_T), positions_3T)
                self._position += len(ids_T)
            else:
                positions_3T = self.adapter.block_positions(block, self._position)
                self.advance(self._features(block), positions_3T, visit)
                self._position += self.adapter.extent(block)


def visual_activations(
    adapter: ModelAdapter,
    segments: Iterable[Segment],
    features: Callable[[VisualBlock], Features],
    layers: int,
    config: ReplayConfig,
) -> list[Tensor]:
    """Compute the outputs `(N, D)` of a model's first layers at all visual tokens of some contexts.

    Args:
        adapter: The model.
        segments: The contexts, each one segment.
        features: Computes the features of a visual block.
        layers: Number of layers.
        config: Settings, of which the chunk sizes count here.
    """
    recorder = ActivationRecorder(layers)
    for segment in segments:
        SingleModelRun(adapter, features, layers, config).append(segment, recorder)
    return recorder.hidden


@contextmanager
def without_autograd() -> Iterator[None]:
    """Turn gradients off, and inference mode too; tell of too little memory in one line.

    Tensors that are made inside a caller's inference mode could not be used for the gradients of
    token replay.

    Raises:
        MemoryExhaustedError: memory ran out.
    """
    with memory_errors(), torch.inference_mode(False), torch.no_grad():
        yield
