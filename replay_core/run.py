"""One model on its way through a context."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from visreplay.replay_core.adapters import ModelAdapter, Visitor
from visreplay.replay_core.cache import KVCache
from visreplay.replay_core.config import ReplayConfig
from visreplay.replay_core.lens import Lens
from visreplay.replay_core.segment import Segment, VisualBlock


class Run:
    """A model with the cache that it leaves behind.

    Attributes:
        adapter: The model.
        lens: The way from its activations to logits.
        cache: Keys and values of the layers that run, so far.
    """

    def __init__(self, adapter: ModelAdapter, depth: int, config: ReplayConfig) -> None:
        """Start at the beginning.

        Args:
            adapter: The model.
            depth: How many of its first layers run.
            config: Chunk sizes.
        """
        self.adapter = adapter
        self.lens = Lens(adapter.norm, adapter.head, config.memory_bytes)
        self.cache = KVCache(depth)
        self._config = config

    def advance(
        self,
        embeds_TD: Tensor,
        positions_3T: Tensor,
        visit: Visitor | None = None,
        *,
        whole: bool = False,
    ) -> Tensor:
        """Run over new positions; returns what `ModelAdapter.run` does.

        Args:
            embeds_TD: Their input embeddings.
            positions_3T: Their rotary positions.
            visit: Sees, and may replace, every layer's output.
            whole: Take them at once, whatever `query_chunk` says.
        """
        chunk = None if whole else self._config.query_chunk
        return self.adapter.run(embeds_TD, positions_3T, self.cache, visit=visit, chunk=chunk)

    def prefix(self, length: int) -> "Run":
        """The run as it was after `length` positions, if it has come that far."""
        run = Run(self.adapter, 0, self._config)
        run.cache = self.cache.prefix(min(length, self.cache.length))
        return run


@torch.no_grad()
def visit_blocks(
    run: Run,
    segments: Iterable[Segment],
    features: Callable[[VisualBlock], Tensor],
    visit: Visitor,
) -> None:
    """Let a fresh run of one model alone see segments, and show its visual blocks to a visitor.

    Args:
        run: Of the model; it need not be the one of a session.
        segments: One context.
        features: Input embeddings `(T, D)` of a block.
        visit: Sees every layer's output at the visual tokens.
    """
    adapter, position = run.adapter, 0
    for ids_T, block in (piece for segment in segments for piece in segment.pieces()):
        if block is None:
            positions_3T = adapter.text_positions(len(ids_T), position)
            run.advance(adapter.embed(ids_T), positions_3T)
            position += len(ids_T)
        else:
            positions_3T = adapter.block_positions(block, position)
            run.advance(features(block), positions_3T, visit)
            position += adapter.extent(block)


def visual_activations(
    adapter: ModelAdapter,
    segments: Iterable[Segment],
    features: Callable[[VisualBlock], Tensor],
    layers: int,
    config: ReplayConfig,
) -> list[Tensor]:
    """Outputs `(N, D)` of a model's first layers at all visual tokens of some contexts.

    Args:
        adapter: The model.
        segments: Each is a context of its own.
        features: Input embeddings of a block.
        layers: How many layers.
        config: Chunk sizes.
    """
    kept: list[list[Tensor]] = [[] for _ in range(layers)]

    def keep(layer: int, rows: slice, hidden_TD: Tensor) -> None:
        kept[layer].append(hidden_TD)

    for segment in segments:
        visit_blocks(Run(adapter, layers, config), [segment], features, keep)
    return [torch.cat(chunks) for chunks in kept]
