"""Types of the shared fixtures."""

from collections.abc import Callable

from visreplay.agent import VisualAgent

MakeAgent = Callable[..., VisualAgent]
"""Of the fixture `make_agent`: a method and settings in, an agent on the embedded pair out."""
