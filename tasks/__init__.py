"""Tasks, runs of agents on them, and comparisons of runs."""

import lazy_loader

# The names and where they come from stand in __init__.pyi; each is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
