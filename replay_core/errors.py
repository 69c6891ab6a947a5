"""Everything that `replay_core` raises on purpose.

ReplayError
 ├── ConfigError            a setting, or a combination of settings, that cannot work
 ├── PairMismatchError      policy and base are not two states of one model
 ├── UnsupportedModelError  a model family (or a way of loading it) without an adapter
 ├── ContextError           tokens, pictures and positions that do not fit together
 ├── OptimisationError      token replay left the finite numbers
 └── SessionClosedError     a session was used after `close()`
"""


class ReplayError(Exception):
    """Root of all errors of this package."""


class ConfigError(ReplayError, ValueError):
    """A setting is out of range, or does not fit the model or another setting."""


class PairMismatchError(ReplayError):
    """Policy and base differ where they must agree; the message names both values."""


class UnsupportedModelError(ReplayError):
    """No adapter knows this model, or it was loaded in a way that replay cannot work with."""


class ContextError(ReplayError, ValueError):
    """A segment, a length or a position does not fit the context it is meant for."""


class OptimisationError(ReplayError):
    """Token replay's steps led to infinite or undefined embeddings."""


class SessionClosedError(ReplayError):
    """The session was closed: its caches are gone and it cannot go on."""
