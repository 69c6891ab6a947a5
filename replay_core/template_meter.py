"""The meter of a chat template: what it runs and makes is counted, up to a limit.

The counting is put into the template's syntax tree. A loop or a macro counts the nodes of its body
each time that it runs, whatever makes a new value counts its size, and whatever goes through a
value counts its items.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.visitor import NodeTransformer

MAX_NODES, NODES_A_MESSAGE = 5_000_000, 20_000
"""Nodes of the template's syntax tree that may be run: in all, and more for each message."""

MAX_SIZE, COPIES = 20_000_000, 50
"""Characters that may be made: in all, and how often more the conversation may be copied."""

ITEM = 50
"""The weight of an item of a list, in characters."""
_SHARE = 1000
"""A node may look at all of the largest value; that costs this much less than to copy it."""

_SEARCH = 10
"""To look through a text costs this much less than to copy it."""
CALL = 10
"""A call takes as long as so many nodes."""
MAX_NESTING = 30
"""Blocks within one another."""


class TemplateLimitError(TemplateError):
    """A chat template does more than chat templates need to do."""


class Meter:
    """The work and the memory that are left to a template in one rendering."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        messages = len(variables.get("messages") or ())
        self.nodes = MAX_NODES + NODES_A_MESSAGE * messages
        self.size = float("inf")
        self.largest = self.size_of(variables)
        self.size = MAX_SIZE + (COPIES + messages) * self.largest

    def run(self, count: int) -> None:
        """Count nodes that are run.

        Raises:
            TemplateLimitError: They are too many.
        """
        self._count(count)
        self._spend(count * self.largest // _SHARE)

    def called(self, *values: Any) -> None:
        """Count a call of a filter, a test, a function or a method.

        Args:
            *values: All that it may look through.
        """
        self.run(1)
        self._count(CALL * (1 + len(values)))
        for value in values:
            self.searched(value)

    def searched(self, value: Any) -> Any:
        """Count a value in which something is looked for."""
        if isinstance(value, str):
            self._spend(len(value) // _SEARCH)
            return value
        return value if isinstance(value, Mapping) else self.walked(value)

    def walked(self, value: Any, weight: int = 1) -> Any:
        """Count the items of a value that are gone through one by one, now or later.

        Args:
            value: The value; a generator is counted while it is gone through.
            weight: The nodes that an item costs.
        """
        if isinstance(value, Collection):
            self._count(len(value) * weight)
            return value
        return self._each(value, weight) if isinstance(value, Iterator) else value

    def _each(self, items: Iterable[Any], weight: int) -> Iterator[Any]:
        for item in items:
            self._count(weight)
            yield item

    def _count(self, count: int) -> None:
        self.nodes -= count
        if self.nodes < 0:
            raise TemplateLimitError("it runs for too long")

    def make(self, size: int) -> None:
        """Count the characters of a value that is made.

        Raises:
            TemplateLimitError: They are too many.
        """
        self._spend(size)
        if size > self.largest:
            self.largest = size

    def made(self, value: Any) -> Any:
        """Count a value with all that is in it."""
        self.make(self.size_of(value))
        return value

    def text_of(self, value: Any) -> str:
        """Convert a value to text, and count it; what is text already is not made."""
        return value if isinstance(value, str) else str(self.made(value))

    def _spend(self, size: int) -> None:
        self.size -= size
        if self.size < 0:
            raise TemplateLimitError("it makes too much text")

    def size_of(self, value: Any) -> int:
        """Count the characters and items of a value, with all that is in it.

        Raises:
            TemplateLimitError: They are more than may be made.
        """
        size, left = 0, [value]
        while left:
            each = left.pop()
            if isinstance(each, str):
                size += len(each)
            elif isinstance(each, Mapping):
                left += [*each, *each.values()]
            elif isinstance(each, list | tuple):
                left += each
            size += ITEM
            if size > self.size:
                raise TemplateLimitError("it makes too large a value")
        return size


METER: ContextVar[Meter] = ContextVar("meter")
"""The meter of the template that is being rendered."""


class Counting(NodeTransformer):
    """Put the counting into a template's syntax tree."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """Count the runs of a loop, and the items that its condition leaves out."""
        test = node.test
        self._counted(node)
        if test is not None and node.test is not None:
            weight = 1 + sum(1 for _ in test.find_all(nodes.Node))
            counted = nodes.Not(_run(weight, node.lineno), lineno=node.lineno)  # it gives None
            node.test = nodes.And(counted, node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        """Count the calls of a macro."""
        return self._counted(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        """Count the calls of a block."""
        return self._counted(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """Count a text that is joined."""
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_joined")

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        """Count a slice."""
        self.generic_visit(node)
        return _filtered(node, "_cut") if isinstance(node.arg, nodes.Slice) else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """Count the searches in a value."""
        self.generic_visit(node)
        for operand in node.ops:
            if operand.op in ("in", "notin"):
                operand.expr = _filtered(operand.expr, "_searched")
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        """Count a list."""
        return self._literal(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        """Count a mapping."""
        return self._literal(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        """Count a tuple, unless it is assigned to."""
        return self._literal(node) if node.ctx == "load" else node

    def _literal(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        inside = node.find_all(nodes.Expr)
        constant = all(isinstance(each, nodes.Const | nodes.List | nodes.Tuple) for each in inside)
        return node if constant else _filtered(node, "_made")

    def _counted(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        weight = 1 + sum(1 for each in node.body for _ in each.find_all(nodes.Node))
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_run(weight, node.lineno), lineno=node.lineno))
        return node


def check_nesting(tree: nodes.Template) -> None:
    """Refuse blocks within blocks that would take minutes to compile.

    Raises:
        TemplateLimitError: They are too deep.
    """
    level: list[tuple[nodes.Node, int]] = [(tree, 0)]
    while level:
        node, depth = level.pop()
        if depth > MAX_NESTING:
            raise TemplateLimitError(f"it has more than {MAX_NESTING} blocks within one another")
        inner = depth + isinstance(node, nodes.For | nodes.If | nodes.Macro | nodes.CallBlock)
        level += [(child, inner) for child in node.iter_child_nodes()]


def _run(count: int, lineno: int) -> nodes.Filter:
    return _filtered(nodes.Const(count, lineno=lineno), "_run")


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
