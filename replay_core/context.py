"""A context as both models have seen it, and the step that lengthens it.

`Context` is the state behind a session: the tokens, up to three runs over them, and what replay
found out about every visual block. A fork is cheap, since caches share their past.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visreplay.replay_core.adapters import ModelAdapter, Visitor
from visreplay.replay_core.cache import KVCache, Rows
from visreplay.replay_core.config import Method, ReplayConfig, Threshold
from visreplay.replay_core.errors import ContextError
from visreplay.replay_core.lens import Lens
from visreplay.replay_core.pair import ModelPair
from visreplay.replay_core.replay import (
    Divergence,
    Reader,
    StateReplay,
    entropy_limits,
    in_turn,
    low_entropy,
    token_replay,
)
from visreplay.replay_core.segment import Kind, VisualBlock


@dataclass(frozen=True, eq=False)
class BlockRecord:
    """What replay saw and did on one visual block.

    Attributes:
        start: Index of its first token in the context.
        length: Number of its visual tokens.
        kind: "image" or "video".
        digest: Hash of its content.
        extent: Rotary positions that it takes up.
        entropy_LT: The base's entropies in nats; no layers under method "none".
        low_entropy_LT: The low-entropy sets.
        kl_before: Mean divergence of the plain policy from the base on them, in nats; None where
            there is nothing to compare.
        kl_after: The same, of the policy after replay.
        kl_path: The same before every step of token replay.
    """

    start: int
    length: int
    kind: Kind
    digest: str
    extent: int
    entropy_LT: Tensor
    low_entropy_LT: Tensor
    kl_before: float | None = None
    kl_after: float | None = None
    kl_path: tuple[float, ...] = ()

    @property
    def stop(self) -> int:
        """Index behind its last token."""
        return self.start + self.length


class Run:
    """One model on its way through the context, with the cache that it leaves behind."""

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
        deep: Sequence[Tensor] = (),
    ) -> Tensor:
        """Run over new positions; returns what `ModelAdapter.run` does."""
        chunk = self._config.query_chunk
        return self.adapter.run(
            embeds_TD, positions_3T, self.cache, deep=deep, visit=visit, chunk=chunk
        )

    def prefix(self, length: int) -> "Run":
        """The run as it was after `length` positions, if it has come that far."""
        run = Run(self.adapter, 0, self._config)
        run.cache = self.cache.prefix(min(length, self.cache.length))
        return run


@dataclass(frozen=True, eq=False)
class _Piece:
    """New tokens, ready to run: a stretch of text or one visual block.

    Attributes:
        block: The visual block; None for text.
        policy_TD: The policy's input embeddings, before any replay.
        base_TD: The base's.
        positions_3T: The rotary positions of both.
        policy_deep: What enters the policy behind its first layers (`Features.deep`).
        base_deep: The same of the base.
    """

    block: VisualBlock | None
    policy_TD: Tensor
    base_TD: Tensor
    positions_3T: Tensor
    policy_deep: Sequence[Tensor] = ()
    base_deep: Sequence[Tensor] = ()


class Context:
    """Tokens, runs and records. After an exception it is of no use: work on a fork.

    Attributes:
        ids: Every token so far.
        records: Every visual block so far.
    """

    def __init__(self, pair: ModelPair, config: ReplayConfig) -> None:
        """Start with an empty context."""
        self.ids: list[int] = []
        self.records: list[BlockRecord] = []
        self._pair = pair
        self._config = config
        # Each run may lag behind `ids` by generated tokens, which it sees when it is needed next.
        # Base and plain policy stop at the last layer that is compared; only state replay needs
        # the plain policy, and the method "none" neither.
        self._policy = Run(pair.policy, pair.policy.depth, config)
        self._base = Run(pair.base or pair.policy, config.depth, config)
        self._plain = Run(pair.policy, config.depth, config)
        # What the policy's last layer put out, so that logits can be had at any length.
        self._final = Rows(axis=0)

    def prefix(self, length: int | None = None) -> "Context":
        """The first `length` tokens (default: all) as a context of their own, without a copy.

        Raises:
            ContextError: `length` is out of range, or inside a visual block.
        """
        length = len(self.ids) if length is None else length
        if not 0 <= length <= len(self.ids):
            raise ContextError(f"cannot crop a context of {len(self.ids)} tokens to {length}")
        for record in self.records:
            if record.start < length < record.stop:
                raise ContextError(
                    f"{length} lies inside the {record.kind} at tokens {record.start} to "
                    f"{record.stop - 1}: a visual block is kept or dropped as a whole"
                )
        other = Context(self._pair, self._config)
        other.ids = self.ids[:length]
        other.records = [record for record in self.records if record.stop <= length]
        other._policy = self._policy.prefix(length)
        other._base = self._base.prefix(length)
        other._plain = self._plain.prefix(length)
        other._final = self._final.prefix(min(length, len(self._final)))
        return other

    def position(self, length: int | None = None) -> int:
        """The rotary position of a text token behind the first `length` tokens (default: all)."""
        length = len(self.ids) if length is None else length
        before = [record for record in self.records if record.stop <= length]
        return length + sum(record.extent - record.length for record in before)

    def next_logits(self) -> Tensor:
        """Logits `(V,)` of the next token, in float32."""
        self._catch_up(self._policy)
        return self._policy.lens.logits(self._final.data[-1:])[0]

    def append(self, ids_T: Tensor, block: VisualBlock | None = None) -> BlockRecord | None:
        """Append a stretch of text or one visual block, with replay.

        Returns:
            What happened on the block; None for text.
        """
        self._catch_up(self._policy)
        piece = self._embed(ids_T, block)
        match self._config.method:
            case Method.NONE:
                record = self._append_plainly(piece)
            case Method.TOKEN:
                record = self._append_with_token_replay(piece)
            case Method.STATE:
                record = self._append_with_state_replay(piece)
        self.ids.extend(ids_T.tolist())
        if record is not None:
            self.records.append(record)
        return record

    def _append_plainly(self, piece: _Piece) -> BlockRecord | None:
        self._prefill(piece.policy_TD, piece.positions_3T, deep=piece.policy_deep)
        return self._record(piece.block, torch.zeros(0, len(piece.policy_TD)))

    def _append_with_token_replay(self, piece: _Piece) -> BlockRecord | None:
        self._catch_up(self._base)
        if piece.block is None:
            self._base.advance(piece.base_TD, piece.positions_3T)
            self._prefill(piece.policy_TD, piece.positions_3T)
            return None
        base = Reader(self._base.lens, self._config.depth, top_k=self._config.top_k)
        self._base.advance(piece.base_TD, piece.positions_3T, base, piece.base_deep)
        after = Divergence(
            self._policy.lens, base.targets, low_entropy(base.entropy_LT, self._config)
        )
        edited_TD, kl_path = token_replay(
            self._policy.adapter,
            after,
            piece.policy_TD,
            piece.positions_3T,
            self._policy.cache,
            self._config,
            piece.policy_deep,
        )
        self._prefill(edited_TD, piece.positions_3T, after, piece.policy_deep)
        kl_before = kl_path[0] if kl_path else after.mean()
        return self._record(piece.block, base.entropy_LT, after, kl_before, kl_path)

    def _append_with_state_replay(self, piece: _Piece) -> BlockRecord | None:
        config, lens = self._config, self._policy.lens
        self._catch_up(self._base)
        self._catch_up(self._plain)
        top_k = None if piece.block is None else config.top_k
        base = Reader(self._base.lens, config.depth, top_k=top_k, keep_hidden=True)
        self._base.advance(piece.base_TD, piece.positions_3T, base, piece.base_deep)
        plain = Reader(lens, config.depth)
        before = after = None
        if piece.block is not None:
            before = Divergence(lens, base.targets, low_entropy(base.entropy_LT, config))
            after = before.fresh()
        inputs, deep = (piece.policy_TD, piece.positions_3T), piece.policy_deep
        self._plain.advance(*inputs, in_turn(plain, before), deep)
        edit = StateReplay.of(base, plain, self._state_limits(piece.block, base.entropy_LT))
        self._prefill(*inputs, in_turn(edit, after), deep)
        if before is None or after is None:
            return None
        return self._record(piece.block, base.entropy_LT, after, before.mean())

    def _state_limits(self, block: VisualBlock | None, entropy_LT: Tensor) -> Tensor | None:
        """Limits of state replay for new positions, in nats; None replaces nothing.

        One limit per layer holds for text and visual positions alike, as in the published table.
        A limit that is taken from a visual block holds for the text behind it, up to the next
        one; text before the first block is left alone. So a position's limit depends on nothing
        behind its block, nor on how the tokens were split into segments.
        """
        if block is not None or self._config.threshold is Threshold.ABSOLUTE:
            return entropy_limits(entropy_LT, self._config)
        if self.records:
            return entropy_limits(self.records[-1].entropy_LT, self._config)
        return None

    def _embed(self, ids_T: Tensor, block: VisualBlock | None) -> _Piece:
        """Input embeddings and positions of what comes next."""
        policy, start = self._pair.policy, self.position()
        if block is not None:
            ours, theirs = self._pair.features(block)
            positions_3T = policy.block_positions(block, start)
            embeds = (ours.embeds_TD, theirs.embeds_TD)
            return _Piece(block, *embeds, positions_3T, ours.deep, theirs.deep)
        embeds = (policy.embed(ids_T), self._base.adapter.embed(ids_T))
        return _Piece(None, *embeds, policy.text_positions(len(ids_T), start))

    def _catch_up(self, run: Run) -> None:
        """Let a run see the tokens that were generated since it was needed last."""
        seen = run.cache.length
        if seen == len(self.ids):
            return
        embeds_TD = run.adapter.embed(torch.tensor(self.ids[seen:]))
        positions_3T = run.adapter.text_positions(len(embeds_TD), self.position(seen))
        if run is self._policy:
            self._prefill(embeds_TD, positions_3T)
        else:
            run.advance(embeds_TD, positions_3T)

    def _prefill(
        self,
        embeds_TD: Tensor,
        positions_3T: Tensor,
        visit: Visitor | None = None,
        deep: Sequence[Tensor] = (),
    ) -> None:
        """Run the policy itself, all layers, over new positions."""
        self._final.append(self._policy.advance(embeds_TD, positions_3T, visit, deep))

    def _record(
        self,
        block: VisualBlock | None,
        entropy_LT: Tensor,
        after: Divergence | None = None,
        kl_before: float | None = None,
        kl_path: Sequence[float] = (),
    ) -> BlockRecord | None:
        if block is None:
            return None
        return BlockRecord(
            start=len(self.ids),
            length=block.length,
            kind=block.kind,
            digest=block.digest,
            extent=self._pair.policy.extent(block),
            entropy_LT=entropy_LT.cpu(),
            low_entropy_LT=(after.low_LT if after else entropy_LT.bool()).cpu(),
            kl_before=kl_before,
            kl_after=after.mean() if after else None,
            kl_path=tuple(kl_path),
        )
