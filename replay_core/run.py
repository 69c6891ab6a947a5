"""One model on its way through a context."""

from torch import Tensor

from visreplay.replay_core.adapters import ModelAdapter, Visitor
from visreplay.replay_core.cache import KVCache
from visreplay.replay_core.config import ReplayConfig
from visreplay.replay_core.lens import Lens


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
