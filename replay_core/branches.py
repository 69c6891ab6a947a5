"""Several continuations of one context, decoded as a batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from visreplay.replay_core.context import Context


class Branches:
    """K continuations of one context, a token each at a time, as one batch.

    The context was read and replayed once; the batch holds its keys and values K times.
    """

    def __init__(self, trunk: Context, count: int) -> None:
        """Stand at the end of the trunk."""
        self._trunk = trunk
        self._policy, last_1D = trunk.policy_end()
        self._cache = self._policy.cache.repeated(count)
        # What the policy's last layer put out of each one's tokens; the newest are not seen yet.
        self._outputs: list[Tensor] = [last_1D.expand(count, -1)]
        self._ids: list[list[int]] = [[] for _ in range(count)]

    def next_logits(self) -> Tensor:
        """Logits `(K, V)` of the next token of each, in float32."""
        seen = len(self._outputs) - 1
        if len(self._ids[0]) > seen:
            newest_K = torch.tensor([ids[-1] for ids in self._ids])
            position = self._trunk.position() + seen
            self._outputs.append(self._policy.adapter.decode(newest_K, position, self._cache))
        return self._policy.lens.logits(self._outputs[-1])

    def extend(self, ids: Sequence[int]) -> None:
        """Give each its next token."""
        for branch, token_id in zip(self._ids, ids, strict=True):
            branch.append(token_id)

    def context(self, index: int, length: int) -> Context:
        """One of them as a context of its own, with its first `length` new tokens."""
        outputs = [output_KD[index : index + 1] for output_KD in self._outputs[1 : length + 1]]
        seen = len(self._trunk.ids) + len(outputs)
        cache = self._policy.cache.extended(self._cache, index, seen)
        return self._trunk.continued(self._ids[index][:length], cache, outputs)
