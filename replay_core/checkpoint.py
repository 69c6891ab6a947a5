"""A checkpoint by its name: where it is, and how its small files are read."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from transformers import AutoConfig
from transformers.utils.hub import cached_file

from visreplay.replay_core.embedded_pair import EMBEDDED_PAIRS
from visreplay.replay_core.errors import CheckpointError, UnsupportedModelError

UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError)
"""What transformers raises for files that are missing, malformed, or of another release."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in a folder or on the Hugging Face hub.

    Attributes:
        at: Its folder or hub id.
        name: The name of it in records and messages.
        hub: How files are fetched, for every `from_pretrained`: `revision`, `token`, `cache_dir`
            and `local_files_only`, as far as they were given.
    """

    at: str
    name: str
    hub: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def find(cls, name: str, role: int = 0, **hub: Any) -> Self:
        """Find a checkpoint.

        Args:
            name: The name of an embedded pair, a folder or a hub id.
            role: Which checkpoint of an embedded pair: 0 the policy, 1 the base.
            **hub: As in the class; None leaves a setting out.

        Raises:
            CheckpointError: a path that is not there, or a hub that does not give the checkpoint.
        """
        embedded = EMBEDDED_PAIRS.get(name)
        if embedded is not None:
            return cls(str((embedded.policy, embedded.base)[role]), embedded.names[role])
        folder = os.path.expanduser(name)
        found = cls(folder, name, {key: value for key, value in hub.items() if value is not None})
        if not os.path.isdir(folder):
            if name.startswith(("./", "../", "/", "~")) or name.endswith(("/", os.sep)):
                raise CheckpointError(
                    f"there is no folder {name!r}, and a checkpoint that is written as a path must "
                    "be one: correct the path, or give a Hugging Face id (owner/name) or 'embedded'"
                )
            found._check_hub()
        return found

    def _check_hub(self) -> None:
        """Ask the hub for the checkpoint once: transformers would try for minutes.

        Raises:
            CheckpointError: the hub cannot be reached, or does not give the checkpoint.
        """
        files = ("config.json", "adapter_config.json")
        cache = {key: self.hub.get(key) for key in ("cache_dir", "revision")}
        try:
            if any(
                isinstance(try_to_load_from_cache(self.at, file, **cache), str) for file in files
            ):
                return
            if self.hub.get("local_files_only"):
                raise OSError("local_files_only is set, and the cache does not have it")
            url = hf_hub_url(self.at, files[0], revision=self.hub.get("revision"))
            get_hf_file_metadata(url, token=self.hub.get("token"))
        except EntryNotFoundError:
            return  # an adapter has no configuration of a model
        except Exception as error:  # of the network, the hub's answer, or the form of the name
            raise self.refusal(error) from error

    def has(self, file: str) -> bool:
        """Tell whether the checkpoint has a file of that name."""
        quiet = ("missing_entries", "connection_errors")
        options = {f"_raise_exceptions_for_{reason}": False for reason in quiet}
        return cached_file(self.at, file, **self.hub, **options) is not None

    def read(self, auto_class: Any, **options: Any) -> Any:
        """Load a part of the checkpoint by a class of transformers."""
        return auto_class.from_pretrained(self.at, **self.hub, **options)

    def config(self) -> Any:
        """Load the configuration of the model.

        Raises:
            CheckpointError: it cannot be read.
            UnsupportedModelError: transformers does not know such a model.
        """
        try:
            return self.read(AutoConfig)
        except UNREADABLE as error:
            here = os.path.isdir(self.at)
            empty = here and not os.path.isfile(os.path.join(self.at, "config.json"))
            if isinstance(error, OSError) or empty:
                raise self.refusal(error) from error
            raise UnsupportedModelError(
                f"transformers cannot read {self.at!r}: {first_line(error)}"
            ) from error

    def refusal(self, error: Exception) -> CheckpointError:
        """Make the error for a checkpoint that cannot be read."""
        if os.path.isdir(self.at):
            way_out = "give the folder of a whole checkpoint"
        else:
            way_out = (
                "no such folder is here, so it was looked for on the Hugging Face hub. Check the "
                "name and the network, log in if the model is gated (`hf auth login`), or give a "
                "folder"
            )
        return CheckpointError(
            f"cannot read the checkpoint {self.at!r} ({first_line(error)}): {way_out}"
        )


def first_line(error: Exception, length: int = 200) -> str:
    """Return the first line of an error's message, cut to `length` characters."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= length else f"{line[:length]}..."
