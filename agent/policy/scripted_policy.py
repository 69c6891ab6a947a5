"""A policy without a model: a script of turns."""

from collections.abc import Iterable, Sequence

from visreplay.agent.messages import Message
from visreplay.agent.policy.replay_policy import PolicyTurn


class ScriptedPolicy:
    """A script of turns: for tests and demonstrations of everything but the model.

    Args:
        turns: The texts of the turns.

    Raises:
        IndexError: From `act`, when the script is over.
    """

    def __init__(self, turns: Iterable[str]) -> None:
        self.turns = list(turns)

    def act(self, messages: Sequence[Message], *, seed: int = 0) -> PolicyTurn:
        """Write the turn whose number is that of assistant messages so far."""
        number = sum(message["role"] == "assistant" for message in messages)
        if number >= len(self.turns):
            raise IndexError(f"there is no turn {number}: the script has {len(self.turns)}")
        text = self.turns[number]
        message: Message = {"role": "assistant", "content": [{"type": "text", "text": text}]}
        return PolicyTurn(text, message, "stop", None, 0.0)
