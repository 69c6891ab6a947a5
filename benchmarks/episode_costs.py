"""The work of an episode in closed form: FLOPs, bytes and calls, where they decide.

What a worker of visreplay does with new tokens, part by part and for each method, as
`replay_core/methods.py` does it. `tests/benchmarks/test_episode_costs.py` holds the sums to what
torch counts in sessions of small models.

Axes: L layers, T new tokens, S tokens before them, D hidden size, V vocabulary, K top entries.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from math import ceil
from typing import Literal

from published import visual_grid
from sizes import Sizes

from visreplay.replay_core import Method, ReplayConfig

NUMBER = 2
"""Bytes of a number in bfloat16."""

WINDOW = 64
"""Patches of a window in the vision tower: 8 x 8 of 14 pixels."""

PATCH_VALUES = 3 * 2 * 14 * 14
"""Values of a patch: three colours of two frames."""

LAYER_CALLS, BLOCK_CALLS = 9.0, 4.0
"""Calls of a decoder layer, and of a block of the vision tower beside attention.

A call is what attention over one window takes of Python's time. Both fit what `gpu.py` measured.
"""

CHUNK = ReplayConfig().query_chunk


@dataclass(frozen=True)
class Work:
    """Work of one kind.

    Attributes:
        flops: Floating-point operations, nearly all of them in products of matrices.
        traffic: Bytes that move between a GPU and its memory, beside those of such products.
        calls: Calls by which Python starts it, where they may take longer than the GPU does.
    """

    flops: float = 0.0
    traffic: float = 0.0
    calls: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        """Add up both."""
        return Work(
            self.flops + other.flops, self.traffic + other.traffic, self.calls + other.calls
        )

    def __mul__(self, factor: float) -> "Work":
        """Do it several times."""
        return Work(factor * self.flops, factor * self.traffic, factor * self.calls)


Parts = dict[str, Work]
"""Work by its part: "tower", "policy", "base", "plain", "lens", "divergence", "steps"."""


@dataclass(frozen=True)
class Piece:
    """New tokens of one kind.

    Attributes:
        kind: Text, a picture, or text that the engine wrote and the worker reads again.
        tokens: T.
        before: S.
        limited: Whether a picture lies before them, whose entropy limits hold for text, too.
    """

    kind: Literal["text", "picture", "generated"]
    tokens: int
    before: int
    limited: bool


@dataclass(frozen=True)
class Episode:
    """One question about a picture, in tokens.

    Attributes:
        picture: Rows and columns of the picture's visual tokens.
        prompt: Tokens before the picture: the system prompt with the tool.
        question: Tokens behind it.
        crop: Rows and columns of a crop's visual tokens.
        observation: Tokens around a crop.
        generated: Tokens that a turn generates.
        turns: Turns; each but the last asks for one crop.
    """

    picture: tuple[int, int] = field(default_factory=lambda: visual_grid(7680, 4320))
    prompt: int = 350
    question: int = 100
    crop: tuple[int, int] = (32, 32)
    observation: int = 60
    generated: int = 128
    turns: int = 3

    def pieces(self) -> list[list[Piece]]:
        """List what a worker reads in each turn."""
        rows, columns = self.picture
        new = [("text", self.prompt), ("picture", rows * columns), ("text", self.question)]
        later = [
            ("generated", self.generated),
            ("picture", self.crop[0] * self.crop[1]),
            ("text", self.observation),
        ]
        turns: list[list[Piece]] = []
        length, limited = 0, False
        for turn in (new, *[later] * (self.turns - 1)):
            turns.append([])
            for kind, tokens in turn:
                turns[-1].append(Piece(kind, tokens, length, limited))  # type: ignore[arg-type]
                length += tokens
                limited |= kind == "picture"
        return turns

    def contexts(self) -> list[int]:
        """List the tokens before each turn's first generated one."""
        return [turn[-1].before + turn[-1].tokens for turn in self.pieces()]


@dataclass(frozen=True)
class Terms:
    """What the work depends on beside sizes and settings.

    Attributes:
        share: Positions of a set, as a share of the tokens: low entropies.
        sketch: Rank of the sketch, as a share of the hidden size; None reads all entropies exactly.
        base_again: Share of the base's entropies that are read exactly too, with a sketch.
        policy_again: The same of the policy's at the low positions.
        shares_tower: Whether both models have one vision tower.
        recompute: Whether the steps of token replay compute activations again.
        skips: Whether attention skips the products that causality excludes, as flash attention on
            a GPU does, and torch on a CPU does not.
        by_window: Whether the vision tower calls attention for each window, as transformers does
            with `sdpa`; with flash attention it is one call.
    """

    share: float = 0.4
    sketch: float | None = None
    base_again: float = 0.204
    policy_again: float = 0.066
    shares_tower: bool = False
    recompute: bool = True
    skips: bool = True
    by_window: bool = True


class Costs:
    """The work of a pair with one method.

    Args:
        sizes: The sizes of both models.
        method: The method.
        terms: What else it depends on.
        steps: Steps of token replay; None takes the default's most.
    """

    def __init__(
        self, sizes: Sizes, method: Method, terms: Terms = Terms(), steps: int | None = None
    ) -> None:
        self.sizes, self.method, self.terms = sizes, method, terms
        config = ReplayConfig(
            method, replay_layers=sizes.replay_layers, state_layers=sizes.state_layers
        )
        self.depth, self.top_k = config.depth, min(config.top_k, sizes.vocabulary)
        self.steps = config.steps if steps is None else steps

    def episode(self, episode: Episode) -> list[list[Parts]]:
        """List what a worker does with the pieces of each turn."""
        return [list(map(self.append, turn)) for turn in episode.pieces()]

    def append(self, piece: Piece) -> Parts:
        """Sum up what a worker does with new tokens."""
        parts: Parts = {"policy": self.layers(self.sizes.layers, piece)}
        if piece.kind == "picture":
            # Without replay no base is loaded.
            own = self.method is not Method.NONE and not self.terms.shares_tower
            parts["tower"] = self.tower(piece.tokens) * (2 if own else 1)
        if self.method is not Method.NONE:
            parts["base"] = self.layers(self.depth, piece)
        if self.method in (Method.STATE, Method.FEATURE):
            parts["plain"] = self.layers(self.depth, piece)
        reads = piece.kind == "picture" or (
            self.method is Method.STATE and piece.kind == "text" and piece.limited
        )
        return add_up([parts, *(self._replay(piece) if reads else ())])

    def _replay(self, piece: Piece) -> Iterator[Parts]:
        """Sum up what a method does beside the runs."""
        low = self.terms.share * piece.tokens
        match self.method:
            case Method.TOKEN:
                yield {"lens": self.lens(piece.tokens, targets=True) * self.depth}
                yield {"steps": self.step(piece) * self.steps}
                yield {"divergence": self.divergence(low) * self.depth}
            case Method.STATE if self.terms.sketch and piece.kind == "picture":
                cheap = self.lens(piece.tokens + low, rank=self.terms.sketch)
                again = self.terms.base_again * piece.tokens + self.terms.policy_again * low
                yield {"lens": (cheap + self.lens(again)) * self.depth}
            case Method.STATE:
                # The divergence before and after is for the report on a picture.
                reported = piece.kind == "picture"
                both = self.lens(piece.tokens, targets=reported) + self.lens(low)
                yield {"lens": both * self.depth}
                yield {"divergence": self.divergence(low) * (2 * self.depth * reported)}
            case Method.FEATURE:
                yield {"lens": self.lens(piece.tokens, targets=True) * self.depth}
                yield {"divergence": self.divergence(low) * 2}

    def layers(self, depth: int, piece: Piece) -> Work:
        """Run the first layers over new tokens."""
        pairs = attended(piece.tokens, piece.before, skips=self.terms.skips)
        linear = 2.0 * piece.tokens * layer_weights(self.sizes)
        calls = LAYER_CALLS * ceil(piece.tokens / CHUNK)
        return Work(linear + 4.0 * pairs * self.sizes.hidden, calls=calls) * depth

    def tower(self, tokens: int) -> Work:
        """Run the vision tower over a picture of so many visual tokens."""
        full = full_blocks(self.sizes)
        blocks = self.sizes.vision_layers
        windows = ceil(4 * tokens / WINDOW) if self.terms.by_window else 1
        calls = full + (blocks - full) * windows + BLOCK_CALLS * blocks
        return Work(tower_flops(self.sizes, tokens), calls=calls)

    def step(self, piece: Piece) -> Work:
        """Run the first layers there and back, and the divergence with its gradient.

        Gradients of inputs alone cost what the way there does, and twice as much in attention;
        flash attention computes the products of queries and keys once more. What is computed again
        ends before the last product of a layer, whose output nobody needs.
        """
        forward = self.layers(self.depth, piece)
        pairs = attended(piece.tokens, piece.before, skips=self.terms.skips)
        more = (6.0 if self.terms.skips else 4.0) * pairs * self.sizes.hidden
        divergence = self.divergence(self.terms.share * piece.tokens, gradient=True)
        last = 2.0 * piece.tokens * self.sizes.hidden * self.sizes.inner
        runs = 2 + self.terms.recompute
        # All positions at once. The way back starts twice as many kernels as the way there.
        calls = LAYER_CALLS * (runs + 1)
        flops = runs * forward.flops / self.depth + more - self.terms.recompute * last
        return (Work(flops, calls=calls) + divergence) * self.depth

    def lens(self, rows: float, *, rank: float | None = None, targets: bool = False) -> Work:
        """Read entropies of one layer.

        A logit is written by the head, copied to float32, and passed over for the maximum, the
        difference, the exponential and two sums; the search for the top entries passes over it six
        times more.

        Args:
            rows: Number of positions.
            rank: Rank of the sketch, as a share of the hidden size; None reads with the whole head.
            targets: Whether the top entries are found too.
        """
        hidden, vocabulary = self.sizes.hidden, self.sizes.vocabulary
        width = hidden if rank is None else rank * hidden
        flops = 2.0 * width * (vocabulary + (hidden if rank else 0))
        traffic = vocabulary * (2 * NUMBER + 36 + (24 if targets else 0))
        read = Work(flops, traffic) * rows
        return read + self.divergence(rows) if targets else read

    def divergence(self, rows: float, *, gradient: bool = False) -> Work:
        """Multiply positions with K rows of the head each, which are gathered for them."""
        entries = rows * self.top_k * self.sizes.hidden
        # Gathered, read, widened to float32, and read by the product.
        traffic = entries * (3 * NUMBER + 8 + (4 if gradient else 0))
        return Work(2.0 * entries * (2 if gradient else 1), traffic)


def add_up(several: Iterator[Parts] | list[Parts]) -> Parts:
    """Add up work by its parts."""
    total: Parts = {}
    for parts in several:
        for name, work in parts.items():
            total[name] = total.get(name, Work()) + work
    return total


def total(parts: Parts) -> Work:
    """Add up all parts."""
    return sum(parts.values(), Work())


def attended(tokens: int, before: int, *, skips: bool) -> float:
    """Count the pairs of a token and one that it attends to."""
    return tokens * (before + (tokens + 1) / 2) if skips else float(tokens * (before + tokens))


def layer_weights(sizes: Sizes) -> int:
    """Count the weights of a decoder layer's products."""
    keys = sizes.hidden // sizes.heads * sizes.kv_heads
    return 2 * sizes.hidden * (sizes.hidden + keys) + 3 * sizes.hidden * sizes.inner


@cache
def full_blocks(sizes: Sizes) -> int:
    """Count the blocks of the vision tower that attend to the whole picture."""
    return len(sizes.config().vision_config.fullatt_block_indexes)


def tower_flops(sizes: Sizes, tokens: int) -> float:
    """Compute the FLOPs of the vision tower over a picture of so many visual tokens."""
    wide, patches = sizes.vision_hidden, 4 * tokens
    merged = 4 * wide
    full = full_blocks(sizes)
    block = 2.0 * (4 * wide**2 + 3 * wide * sizes.vision_inner)
    seen = full * patches + (sizes.vision_layers - full) * min(WINDOW, patches)
    per_patch = 2.0 * PATCH_VALUES * wide + sizes.vision_layers * block + 4.0 * seen * wide
    return patches * per_patch + tokens * 2.0 * (merged**2 + merged * sizes.hidden)


def kv_bytes(sizes: Sizes, layers: int | None = None) -> int:
    """Compute the bytes of keys and values of a token."""
    layers = sizes.layers if layers is None else layers
    return layers * 2 * sizes.kv_heads * (sizes.hidden // sizes.heads) * NUMBER
