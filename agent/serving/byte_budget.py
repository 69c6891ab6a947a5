"""The bytes that a server keeps for all of its clients together."""


class ByteBudget:
    """A limit on bytes that many clients share.

    Args:
        limit: Largest number of bytes.

    Attributes:
        limit: Largest number of bytes.
        held: How many are held.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def share(self) -> "ByteShare":
        """Open the share of one client, which is empty."""
        return ByteShare(self)


class ByteShare:
    """The bytes of one client; those that are left go back at the end of the context."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.held = 0

    def take(self, count: int) -> bool:
        """Take bytes; returns False, and takes none, if all clients together have too many."""
        if self._budget.held + count > self._budget.limit:
            return False
        self._budget.held += count
        self.held += count
        return True

    def give_back(self, count: int | None = None) -> None:
        """Give back some bytes; None gives back all."""
        count = self.held if count is None else count
        self._budget.held -= count
        self.held -= count

    def __enter__(self) -> "ByteShare":
        """Begin to hold bytes."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give back all bytes."""
        self.give_back()
