"""Memory and time of an episode on H100s: what fits, how long it takes, and how many go at once.

Workers of visreplay read and replay; engines write the turns. A worker's layers lie on its GPUs one
after the other (`device_map`), so that one of them works at a time; an engine splits every layer
(tensor parallelism).
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil

from episode_costs import NUMBER, Costs, Episode, Terms, Work, kv_bytes, layer_weights
from memory_counted import GIB, estimate, weights
from sizes import Sizes

from visreplay.replay_core import Method, ReplayConfig

SPARE = 9 / 8
"""Room of a growing cache, as a share of what it holds (`replay_core/cache.py`)."""

LEAST = 4
"""Conversations that a worker or an engine must have room for."""

MOST = 64
"""Turns that are written at once (`agent/vllm/writer.py`)."""


@dataclass(frozen=True)
class Card:
    """A GPU as its maker describes it.

    Attributes:
        flops: Products of bfloat16 a second, without sparsity.
        bandwidth: Bytes a second between it and its memory.
        memory: Bytes of memory.
        bus: Bytes a second between it and the machine's memory, in one direction.
        reserved: Bytes that CUDA's libraries and the allocator take.
    """

    flops: float = 989e12
    bandwidth: float = 3.35e12
    memory: float = 80e9
    bus: float = 64e9
    reserved: float = 2.0 * GIB


H100 = Card()
"""H100 SXM: PCIe 5.0 x16 to the machine (as it is quoted)."""

H200 = replace(H100, bandwidth=4.8e12, memory=141e9)


@dataclass(frozen=True)
class Shares:
    """How much of what is published is reached. All of it is assumed.

    Attributes:
        compute: Share of the peak in products of matrices, other work around them included.
        traffic: Share of the bandwidth where bytes decide.
        decoding: The same while an engine decodes.
        bus: Share of the bus, from and to memory that is not pinned.
        write: Bytes a second that a worker writes into files in memory.
        read: Bytes a second that an engine reads from them.
        call: Seconds of Python for a call (`episode_costs.LAYER_CALLS`).
        latency: Seconds of an exchange between the GPUs of an engine; two for each layer.
    """

    compute: float = 0.4
    traffic: float = 0.5
    decoding: float = 0.6
    bus: float = 0.3
    write: float = 1e9
    read: float = 2e9
    call: float = 80e-6
    latency: float = 15e-6


LIKELY = Shares()
LOW = Shares(0.2, 0.25, 0.4, 0.1, 0.5e9, 1e9, 120e-6, 30e-6)
HIGH = Shares(0.6, 0.8, 0.8, 0.8, 4e9, 8e9, 40e-6, 8e-6)


@dataclass(frozen=True)
class Rate:
    """What some GPUs do.

    Attributes:
        hourly: Episodes an hour; 0 where it does not fit.
        workers: Number of workers.
        engines: Number of engines; 0 with one worker: both share one GPU.
        batch: Turns that an engine writes at once.
        busy: Share of the time that the engines work.
    """

    hourly: float
    workers: int
    engines: int
    batch: float
    busy: float


NOTHING = Rate(0.0, 0, 0, 0.0, 0.0)


@dataclass(frozen=True)
class Deployment:
    """A pair of some size, with a method, that plays episodes through engines.

    Attributes:
        sizes: The sizes of both models.
        method: The method.
        episode: What an episode is.
        shares: How much of the card is reached.
        terms: What the work depends on beside.
        rollouts: Episodes of one question, which share the first turn's reading.
        gib: Bound on the files of a worker, in GiB (`--engine-gib`); None gives room enough.
        steps: Steps of token replay; None takes the default's most.
        card: The GPU.
    """

    sizes: Sizes
    method: Method
    episode: Episode = field(default_factory=Episode)
    shares: Shares = LIKELY
    terms: Terms = field(default_factory=Terms)
    rollouts: int = 1
    gib: float | None = None
    steps: int | None = None
    card: Card = H100

    # Memory.

    @cached_property
    def depth(self) -> int:
        """Number of the base's layers."""
        return Costs(self.sizes, self.method).depth

    @cached_property
    def policy_weights(self) -> int:
        """Bytes of the policy's weights, and of the engine's."""
        return weights(self.sizes, 0, shared=True)

    @cached_property
    def worker_weights(self) -> int:
        """Bytes of the weights of a worker."""
        if self.method is Method.NONE:
            return self.policy_weights
        return weights(self.sizes, self.depth, shared=self.terms.shares_tower)

    @property
    def length(self) -> int:
        """Tokens of a conversation at its end."""
        return self.episode.contexts()[-1] + self.episode.generated

    @property
    def live(self) -> int:
        """Bytes that a worker keeps of a conversation: keys and values of its runs, and outputs."""
        runs = {Method.NONE: 0, Method.TOKEN: 1, Method.STATE: 2, Method.FEATURE: 2}[self.method]
        cached = kv_bytes(self.sizes) + runs * kv_bytes(self.sizes, self.depth)
        return round(SPARE * self.length * (cached + NUMBER * self.sizes.hidden))

    @property
    def written(self) -> int:
        """Bytes of keys and values that a worker writes for an episode, and an engine keeps."""
        return self.episode.contexts()[-1] * kv_bytes(self.sizes)

    @cached_property
    def working(self) -> int:
        """Bytes that a worker needs while it reads the picture, beside what it keeps."""
        tokens = self.episode.picture[0] * self.episode.picture[1]
        sizes = self.sizes
        # Queries and keys of the vision tower in float32, beside all three in bfloat16.
        tower = 4 * tokens * sizes.vision_hidden * 32
        if self.method is Method.TOKEN:
            config = ReplayConfig(replay_layers=sizes.replay_layers)
            found = estimate(tokens, sizes=sizes, config=config)
            return max(tower, found.total - found.weights - found.caches)
        hidden = (2 + self.depth) * tokens * NUMBER * sizes.hidden
        return max(tower, hidden + 2 * ReplayConfig().memory_bytes)

    def worker_room(self, gpus: int, beside: float = 0.0) -> int:
        """Count the conversations that a worker on so many GPUs has room for.

        Args:
            gpus: Number of GPUs.
            beside: Bytes that something else takes.
        """
        free = gpus * (self.card.memory - self.card.reserved) - self.worker_weights - beside
        # The allocator wastes a tenth (docs/guides/memory.md).
        room = int((free / 1.1 - self.working) // self.live)
        if self.gib is not None and room > 0:
            return min(room, max(1, int(self.gib * GIB // self.written)))
        return max(0, room)

    def engine_room(self, gpus: int) -> int:
        """Count the conversations that an engine on so many GPUs has room for."""
        # What vLLM takes by default.
        free = gpus * (0.9 * self.card.memory - self.card.reserved) - self.policy_weights
        return max(0, int(free // (self.length * kv_bytes(self.sizes))))

    @cached_property
    def worker_gpus(self) -> int:
        """The number of GPUs that a worker needs."""
        unbounded = replace(self, gib=None)
        return next(gpus for gpus in range(1, 33) if unbounded.worker_room(gpus) >= LEAST)

    @cached_property
    def engine_gpus(self) -> int:
        """The number of GPUs that an engine needs: a power of two, which splits its heads."""
        return next(gpus for gpus in (1, 2, 4, 8, 16) if self.engine_room(gpus) >= LEAST)

    # Time.

    def seconds(self, work: Work) -> float:
        """Compute the seconds of work on one GPU, which runs while Python starts what comes."""
        computed = work.flops / (self.card.flops * self.shares.compute)
        moved = work.traffic / (self.card.bandwidth * self.shares.traffic)
        return max(computed + moved, work.calls * self.shares.call)

    def moved(self, size: float, rate: float) -> float:
        """Compute the seconds of moving bytes between a GPU and a file in memory."""
        return size / (self.card.bus * self.shares.bus) + size / rate

    @cached_property
    def worker_parts(self) -> dict[str, float]:
        """Seconds of a worker for an episode, by parts. Those of a first turn are shared."""
        found: dict[str, float] = {}
        costs = Costs(self.sizes, self.method, self.terms, self.steps)
        for number, turn in enumerate(costs.episode(self.episode)):
            share = 1 if number else 1 / self.rollouts
            for name, work in (item for parts in turn for item in parts.items()):
                found[name] = found.get(name, 0.0) + share * self.seconds(work)
        found["export"] = self.moved(self._new_bytes, self.shares.write)
        return found

    @property
    def _new_bytes(self) -> float:
        first = self.episode.contexts()[0] * kv_bytes(self.sizes)
        return self.written - first + first / self.rollouts

    @property
    def worker_seconds(self) -> float:
        """Seconds of a worker for an episode."""
        return sum(self.worker_parts.values())

    @property
    def load_seconds(self) -> float:
        """Seconds in which an engine loads the files of an episode, and does nothing else."""
        return self.moved(self._new_bytes, self.shares.read)

    def token_seconds(self, batch: float) -> float:
        """Compute the seconds of a step, in which each turn of a batch gets a token."""
        gpus, sizes = self.engine_gpus, self.sizes
        contexts = self.episode.contexts()
        context = sum(contexts) / len(contexts) + self.episode.generated / 2
        linear = sizes.layers * layer_weights(sizes) + sizes.hidden * sizes.vocabulary
        read = NUMBER * linear + batch * context * kv_bytes(sizes)
        memory = read / (self.card.bandwidth * self.shares.decoding)
        attention = 4.0 * context * sizes.hidden * sizes.layers
        computed = batch * (2.0 * linear + attention) / (self.card.flops * self.shares.compute)
        exchanged = 2 * sizes.layers * self.shares.latency if gpus > 1 else 0.0
        return max(memory, computed) / gpus + exchanged

    def engine_seconds(self, batch: float) -> float:
        """Compute the seconds of an engine for an episode, at so many turns at once."""
        tokens = self.episode.turns * self.episode.generated
        return self.load_seconds + tokens * self.token_seconds(batch) / batch

    # Many GPUs.

    @cached_property
    def workers_per_engine(self) -> float:
        """The number of workers that keep an engine busy whose memory is full."""
        batch = min(self.engine_room(self.engine_gpus), MOST)
        return self.worker_seconds / self.engine_seconds(batch)

    def rate(self, gpus: int) -> Rate:
        """Compute what some GPUs do together, split as well as can be."""
        if gpus == 1:
            return self._shared()
        found = [NOTHING]
        for engines in range(1, gpus // self.engine_gpus + 1):
            workers = (gpus - engines * self.engine_gpus) // self.worker_gpus
            batch = min(
                self.engine_room(self.engine_gpus),
                workers * self.worker_room(self.worker_gpus) / engines,
                MOST,
            )
            if batch >= 1:
                read = workers / self.worker_seconds
                write = engines / self.engine_seconds(batch)
                rate = min(read, write)
                found.append(Rate(3600 * rate, workers, engines, batch, rate / write))
        return max(found, key=lambda rate: rate.hourly)

    def _shared(self) -> Rate:
        """Compute what one GPU does that a worker and an engine share."""
        if self.worker_gpus > 1 or self.engine_gpus > 1:
            return NOTHING
        both = self.policy_weights + self.card.reserved
        beside = self.length * kv_bytes(self.sizes)
        room = next(
            (n for n in range(MOST, 0, -1) if self.worker_room(1, both + n * beside) >= n), 0
        )
        if not room:
            return NOTHING
        engine = self.engine_seconds(room)
        whole = self.worker_seconds + engine
        return Rate(3600 / whole, 1, 0, room, engine / whole)

    @cached_property
    def machines(self) -> int:
        """The number of machines with eight GPUs that hold a worker and an engine."""
        return ceil((self.worker_gpus + self.engine_gpus) / 8)

    def hourly(self, gpus: int) -> float:
        """Compute the episodes an hour of some GPUs, in groups of machines that share nothing."""
        group = 8 * self.machines
        groups, rest = divmod(gpus, group)
        whole = groups * self.rate(group).hourly if groups else 0.0
        return whole + (self.rate(rest).hourly if rest else 0.0)

    def alone(self, host: float = 0.0) -> tuple[float, float]:
        """Play one sample at a time, as a process of `visreplay eval` does, and wait for turns.

        Args:
            host: Seconds in which the picture is decoded, resized and cut into patches.

        Returns:
            Episodes an hour of a worker, and the share of the time that it works.
        """
        tokens = self.episode.turns * self.episode.generated
        waiting = self.rollouts * self.load_seconds + tokens * self.token_seconds(self.rollouts)
        working = self.rollouts * self.worker_seconds
        whole = host + working + waiting
        return 3600 * self.rollouts / whole, working / whole
