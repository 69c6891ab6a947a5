"""Many episodes in lockstep: the loop without a graph, with the policy's turns in batches."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Protocol

from visreplay.agent.episode.loop import Loop, turn_seed
from visreplay.agent.episode.state_shapes import checked_state
from visreplay.agent.messages import Message
from visreplay.agent.policy.replay_policy import Policy, PolicyTurn, ReplayPolicy
from visreplay.agent.state import EpisodeState, shown_images

WriteTurns = Callable[[Mapping[int, EpisodeState]], Mapping[int, PolicyTurn]]
"""Writes the next turn of every running episode. Keys are the episodes' numbers, from 0."""


class RolloutPolicy(Policy, Protocol):
    """A policy that can write the next turns of several conversations at once."""

    def act_together(
        self, conversations: Sequence[tuple[Sequence[Message], int]]
    ) -> list[PolicyTurn]:
        """Write the turns that `act` would write.

        Args:
            conversations: The messages and the seed of each.
        """
        ...

    def close(self) -> None:
        """Free what is kept for later turns."""
        ...


def play_in_lockstep(
    loop: Loop, starts: Sequence[EpisodeState], write_turns: WriteTurns
) -> list[EpisodeState]:
    """Play several episodes to their ends, one step of all of them at a time.

    Args:
        loop: Protocol and limits of all episodes.
        starts: States that `loop.start` built.
        write_turns: The policy.

    Returns:
        The final states, in the order of `starts`.
    """
    states = [checked_state(start) for start in starts]
    with loop.protocol.store.holding() as hold:
        for state in states:
            hold(shown_images(state["images"], state["messages"], state["steps"]))
        while running := {i: state for i, state in enumerate(states) if not state["stop_reason"]}:
            turns = write_turns(running)
            for i, state in running.items():
                state = states[i] = loop.step(state, turns[i])
                hold(shown_images(state["images"], state["messages"], state["steps"]))
    return states


def play_rollouts(
    loop: Loop, starts: Sequence[EpisodeState], policy: RolloutPolicy
) -> list[EpisodeState]:
    """Play several episodes of a policy.

    Under replay, all turns are decoded as a batch, and conversations that are the same word for
    word are read and replayed once. Each episode is the one that the graph plays with its seed.

    Args:
        loop: As in `play_in_lockstep`.
        starts: As in `play_in_lockstep`; their seeds tell the episodes apart.
        policy: Writes the turns.
    """

    def write_turns(running: Mapping[int, EpisodeState]) -> dict[int, PolicyTurn]:
        turns = policy.act_together(
            [
                (state["messages"], turn_seed(state["seed"], len(state["steps"])))
                for state in running.values()
            ]
        )
        return dict(zip(running, turns, strict=True))

    sessions = (
        policy.sessions.holding(2 * len(starts)) if isinstance(policy, ReplayPolicy) else None
    )
    with sessions or nullcontext():
        return play_in_lockstep(loop, starts, write_turns)
