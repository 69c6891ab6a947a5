"""The memory of a session: tensors that only grow, and key/value caches made of them.

Attention is causal, so nothing that was written about a position ever changes. `GrowingTensor`
turns that into a data structure: appending is amortised O(new rows), and a prefix or a second
view of the same rows costs nothing, because no row is ever written twice.
"""

import threading
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin


class _Storage:
    """A tensor with spare room behind its last row, shared by any number of `GrowingTensor`."""

    def __init__(self, data: Tensor) -> None:
        self.data = data
        self._used = 0
        self._lock = threading.Lock()

    def claim(self, start: int, stop: int, axis: int) -> bool:
        """Reserve rows `start .. stop - 1`, if they are free and there is room for them."""
        with self._lock:
            free = self._used == start and stop <= self.data.shape[axis]
            if free:
                self._used = stop
        return free


class GrowingTensor:
    """A tensor that grows along one axis, and whose past can be shared.

    Examples:
        >>> import torch
        >>> rows = GrowingTensor(axis=0)
        >>> _ = rows.append(torch.zeros(3, 8))
        >>> fork = rows.prefix(2)       # shares the memory of the first two rows
        >>> _ = fork.append(torch.ones(1, 8))
        >>> len(rows), len(fork)
        (3, 3)
    """

    def __init__(self, axis: int) -> None:
        """Start empty; shape, dtype and device come with the first rows.

        Args:
            axis: The axis that grows, counted from the front or the back.
        """
        self._axis = axis
        self._length = 0
        self._storage: _Storage | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return self._length

    @property
    def memory(self) -> dict[int, int]:
        """Bytes of the storage that holds the rows, spare room included, by its identity."""
        storage = self._storage
        return {} if storage is None else {id(storage): storage.data.nbytes}

    @property
    def data(self) -> Tensor:
        """All rows so far, as a view (`length` entries on the growing axis)."""
        if self._storage is None:
            raise IndexError("no rows have been appended yet")
        return self._storage.data.narrow(self._axis, 0, self._length)

    def append(self, new: Tensor) -> Tensor:
        """Add rows, without their autograd history, and return all rows as a view."""
        stop = self._length + new.shape[self._axis]
        storage = self._storage
        if storage is None or not storage.claim(self._length, stop, self._axis):
            storage = self._reserve(new, stop)
        count = new.shape[self._axis]
        storage.data.narrow(self._axis, self._length, count).copy_(new.detach())
        self._storage, self._length = storage, stop
        return self.data

    def prefix(self, length: int) -> "GrowingTensor":
        """Fork the first `length` rows, in the same memory."""
        if not 0 <= length <= self._length:
            raise IndexError(
                f"a prefix of {length} rows is longer than the {self._length} rows there are"
            )
        rows = GrowingTensor(self._axis)
        rows._length, rows._storage = length, self._storage
        return rows

    def _reserve(self, new: Tensor, stop: int) -> _Storage:
        """Move to a new storage that holds `stop` rows and some more."""
        shape = list(new.shape)
        # An eighth of spare room: few copies while decoding, little memory without use.
        shape[self._axis] = stop + max(64, stop // 8)
        storage = _Storage(new.new_empty(shape))
        storage.claim(0, stop, self._axis)
        if self._length:
            storage.data.narrow(self._axis, 0, self._length).copy_(self.data)
        return storage


class _KVLayer(CacheLayerMixin):
    """Keys and values of one decoder layer, each `(1, heads, T, head_dim)`.

    Sliding-window layers are kept in full: the mask does the windowing, and a cache that has
    forgotten its past could not be cropped.
    """

    is_sliding = False
    is_croppable = False  # in place; see KVCache.prefix

    def __init__(
        self, keys: GrowingTensor | None = None, values: GrowingTensor | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.key_rows = GrowingTensor(axis=-2) if keys is None else keys
        self.value_rows = GrowingTensor(axis=-2) if values is None else values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: a `GrowingTensor` starts by itself."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append the new keys and values and return all of them."""
        return self.key_rows.append(key_states), self.value_rows.append(value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return length and offset of the keys that `query_length` new positions attend to."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Return the number of positions so far."""
        return len(self.key_rows)

    def get_max_length(self) -> int:
        """Return -1, which means no maximum in transformers."""
        return -1

    def prefix(self, length: int) -> "_KVLayer":
        return _KVLayer(self.key_rows.prefix(length), self.value_rows.prefix(length))

    @classmethod
    def gathered(cls, rows: Sequence[tuple[Tensor, Tensor]]) -> "_KVLayer":
        layer = cls()
        longest = max(keys.shape[-2] for keys, _ in rows)
        layer.update(
            *(
                torch.cat([nn.functional.pad(x, (0, 0, longest - x.shape[-2], 0)) for x in column])
                for column in zip(*rows, strict=True)
            )
        )
        return layer

    def extended(self, other: "_KVLayer", row: int, count: int) -> "_KVLayer":
        layer = self.prefix(len(self.key_rows))
        layer.update(*other.ends(row, count))
        return layer

    def ends(self, row: int, count: int) -> tuple[Tensor, Tensor]:
        """Return the last `count` keys and values of a row of a batch."""
        start = len(self.key_rows) - count
        keys, values = (rows.data[row : row + 1, :, start:] for rows in self.rows)
        return keys, values

    @property
    def rows(self) -> tuple[GrowingTensor, GrowingTensor]:
        return self.key_rows, self.value_rows


class _FrozenLayer(_KVLayer):
    """A layer that attention reads but does not write."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Return all keys and values, the new ones with their gradient, but do not keep these."""
        if not len(self.key_rows):
            return key_states, value_states
        return (
            torch.cat([self.key_rows.data, key_states], dim=-2),
            torch.cat([self.value_rows.data, value_states], dim=-2),
        )


class KVCache(Cache):
    """Key/value cache of the first `layers` decoder layers, for transformers' attention.

    Unlike `DynamicCache` it grows without copying itself at every token, and shares its past with
    its prefixes and forks (`prefix`).
    """

    def __init__(self, layers: int | Sequence[_KVLayer]) -> None:
        """Create an empty cache for a number of layers, or wrap existing layers."""
        if isinstance(layers, int):
            layers = [_KVLayer() for _ in range(layers)]
        self._own_layers = list(layers)
        super().__init__(layers=list(layers))

    @property
    def depth(self) -> int:
        """Number of decoder layers."""
        return len(self._own_layers)

    @property
    def length(self) -> int:
        """Number of positions so far."""
        return self._own_layers[0].get_seq_length() if self._own_layers else 0

    @property
    def memory(self) -> dict[int, int]:
        """Bytes of each storage, as of `GrowingTensor.memory`."""
        rows = (rows for layer in self._own_layers for rows in layer.rows)
        return {key: size for each in rows for key, size in each.memory.items()}

    def stretch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Copy the keys and values `(L, T, H, D)` of positions `start` to `stop - 1`."""
        keys, values = zip(*(layer.rows for layer in self._own_layers), strict=True)
        return tuple(  # type: ignore[return-value]
            torch.stack([rows.data[0, :, start:stop].transpose(0, 1) for rows in column])
            for column in (keys, values)
        )

    def prefix(self, length: int) -> "KVCache":
        """Fork the first `length` positions, in the same memory.

        Both may go on growing, independently of each other.
        """
        return KVCache([layer.prefix(length) for layer in self._own_layers])

    def regroup(self, parts: Sequence[tuple["KVCache", int, int]]) -> None:
        """Become a batch, in memory of its own, of rows that end together.

        Shorter rows begin with zeros. One layer after the other is replaced, so that only one is in
        memory twice.

        Args:
            parts: For each new row a cache (maybe this one), the index of the row in it, and the
                number of its last positions to take.
        """
        depth = parts[0][0].depth if parts else 0
        for n in range(depth):
            rows = [cache._own_layers[n].ends(row, count) for cache, row, count in parts]
            layer = _KVLayer.gathered(rows)
            self._own_layers[n : n + 1], self.layers[n : n + 1] = [layer], [layer]
            del rows
        del self._own_layers[depth:], self.layers[depth:]

    def extended(self, batch: "KVCache", row: int, count: int) -> "KVCache":
        """Fork the cache, with the last `count` positions of one row of a batch behind it."""
        layers = zip(self._own_layers, batch._own_layers, strict=True)
        return KVCache([layer.extended(other, row, count) for layer, other in layers])

    def frozen(self, depth: int) -> "KVCache":
        """Make a read-only view of the first `depth` layers: a forward pass leaves it as it is."""
        layers = self._own_layers[:depth]
        return KVCache([_FrozenLayer(layer.key_rows, layer.value_rows) for layer in layers])
