"""Everything that `replay_core` raises on purpose.

ReplayError
 ├── CheckpointError        a checkpoint that is not there, is damaged, or that the hub withholds
 ├── ConfigError            a setting, or a combination of settings, that cannot work
 ├── PairMismatchError      policy and base are not two states of one model
 ├── UnsupportedModelError  a model family (or a way of loading it) without an adapter
 ├── ContextError           tokens, images and positions that do not fit together
 ├── OptimisationError      token replay diverged
 ├── LogitsError            the policy's logits are no numbers
 ├── MemoryExhaustedError   a device has too little memory
 └── SessionClosedError     a session was used after `close()`
"""


class ReplayError(Exception):
    """The root of all errors of this package."""


class CheckpointError(ReplayError, OSError):
    """A checkpoint is not there, lacks files, is damaged, or cannot be fetched from the hub."""


class ConfigError(ReplayError, ValueError):
    """A setting is out of range, or does not fit the model or another setting."""


class PairMismatchError(ReplayError):
    """Policy and base differ where they must agree; the message names both values."""


class UnsupportedModelError(ReplayError):
    """No adapter knows this model, or it was loaded in a way that replay cannot work with."""


class ContextError(ReplayError, ValueError):
    """A segment, a length or a position does not fit the context it is meant for."""


class OptimisationError(ReplayError):
    """The steps of token replay led to infinite or undefined embeddings."""


class LogitsError(ReplayError, RuntimeError):
    """The policy's logits are infinite or undefined, so that no token can be drawn."""


class MemoryExhaustedError(ReplayError, MemoryError):
    """Memory ran out; the message names ways to need less. The session is as it was."""


class SessionClosedError(ReplayError):
    """The session was closed: its caches are freed, and it cannot be used any more."""
