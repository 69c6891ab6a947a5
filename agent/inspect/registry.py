"""The provider and the solver under their names in Inspect, which finds them by an entry point.

It needs `pip install 'visreplay[export]'`. Models are imported when one of them is used: Inspect
imports this file in any program of its own.
"""

from typing import Any

from inspect_ai.model import ModelAPI, modelapi
from inspect_ai.solver import Solver, solver


@modelapi(name="visreplay")
def provider() -> type[ModelAPI]:
    """Give the class of the models `visreplay/...`."""
    from visreplay.agent.inspect.model import ReplayAPI

    return ReplayAPI


@solver(name="agent")
def agent(**limits: Any) -> Solver:
    """Play the whole loop of the agent on a sample's question, images and video.

    Args:
        **limits: Fields of `Limits`: `max_steps`, `max_images`, `max_repeats`. Replay is set on the
            model.
    """
    from visreplay.agent.inspect.solver import episode_solver

    return episode_solver(limits)
