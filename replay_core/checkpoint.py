"""A checkpoint by its name: where it is, and how its files are read.

Its files are a stranger's, and transformers and peft raise whatever a damaged one happens to lead
to. `Checkpoint.reading` turns all of that into one error. No code of a checkpoint is ever run.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Self, TypeVar

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from transformers import AutoConfig, GenerationConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import (
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    IMAGE_PROCESSOR_NAME,
    PROCESSOR_NAME,
    VIDEO_PROCESSOR_NAME,
)
from transformers.utils.hub import cached_file

from visreplay.replay_core.compatibility import check_config, check_counts
from visreplay.replay_core.embedded_pair import EMBEDDED_PAIRS
from visreplay.replay_core.errors import CheckpointError, ReplayError, UnsupportedModelError
from visreplay.replay_core.memory import memory_errors

T = TypeVar("T")

NAMING_CODE = (
    CONFIG_NAME,
    PROCESSOR_NAME,
    IMAGE_PROCESSOR_NAME,
    VIDEO_PROCESSOR_NAME,
    "tokenizer_config.json",
)
"""The files that can name Python classes of the checkpoint's own, under `auto_map`."""


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
        return self.file(file) is not None

    def file(self, name: str) -> Path | None:
        """Return the path of one of the checkpoint's files, fetched from the hub; None without it.

        Raises:
            CheckpointError: the hub does not give it.
        """
        quiet = ("missing_entries", "connection_errors")
        options = {f"_raise_exceptions_for_{reason}": False for reason in quiet}
        path = self.read(cached_file, name, name, **options)
        return None if path is None else Path(path)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON object of the checkpoint; an empty one if there is no such file.

        Raises:
            CheckpointError: something else is in the file.
        """
        path = self.file(name)
        if path is None:
            return {}
        with self.reading(name):
            content = json.loads(path.read_text("utf-8"))
            if not isinstance(content, dict):
                raise ValueError(f"it holds a {type(content).__name__}, and no JSON object")
        return content

    def read(self, load: Callable[..., T], what: str, *arguments: Any, **options: Any) -> T:
        """Call a function of transformers or peft that loads a part of the checkpoint.

        Args:
            load: The function, which takes the place of the checkpoint first.
            what: Name of the part in messages.
            *arguments: More arguments of the function.
            **options: More options of the function.

        Raises:
            CheckpointError: the part cannot be read.
            UnsupportedModelError: it asks for code of the checkpoint's own.
        """
        with self.reading(what):
            return load(self.at, *arguments, **self.hub, **options)

    def auto(self, kind: Any, what: str, **options: Any) -> Any:
        """Load a part by an `Auto` class of transformers, and never by code of the checkpoint.

        Args:
            kind: The class.
            what: Name of the part in messages.
            **options: More options of `from_pretrained`.

        Raises:
            CheckpointError: As `read`.
            UnsupportedModelError: As `read`.
        """
        return self.read(kind.from_pretrained, what, trust_remote_code=False, **options)

    @contextmanager
    def reading(self, what: str) -> Iterator[None]:
        """Turn every failure to read a part of the checkpoint into one error.

        Args:
            what: Name of the part.

        Raises:
            CheckpointError: the part cannot be read.
            MemoryExhaustedError: memory ran out.
            UnsupportedModelError: it asks for code of the checkpoint's own.
        """
        try:
            with memory_errors():
                yield
        except ReplayError:
            raise
        except Exception as error:
            if "trust_remote_code" in str(error):
                raise self._code_refusal() from error
            raise self.refusal(error, what) from error

    def config(self) -> Any:
        """Load the configuration of the model.

        How the attention was computed where the file was written is not of interest here.

        Raises:
            CheckpointError: it cannot be read.
            UnsupportedModelError: transformers does not know such a model, or it asks for code.
        """
        settings = self.read_json(CONFIG_NAME)
        with self.reading(CONFIG_NAME):
            check_counts(settings)
        try:
            config = self.auto(AutoConfig, CONFIG_NAME)
        except CheckpointError as error:
            if "model_type" not in settings or str(settings["model_type"]) in CONFIG_MAPPING:
                raise
            raise UnsupportedModelError(
                f"transformers cannot read {self.at!r}: it does not know the model_type "
                f"{settings['model_type']!r} of config.json"
            ) from error
        with self.reading(CONFIG_NAME):
            check_config(config)
        config._attn_implementation = None
        return config

    def generation_config(self) -> GenerationConfig | None:
        """Load the settings of decoding; None if there is no file of them.

        Raises:
            CheckpointError: they cannot be read.
        """
        if not self.has(GENERATION_CONFIG_NAME):
            return None
        return self.read(GenerationConfig.from_pretrained, GENERATION_CONFIG_NAME)

    def refusal(self, error: Exception, what: str = "") -> CheckpointError:
        """Make the error for a checkpoint, or a part of it, that cannot be read."""
        why = reason(error)
        if isinstance(error, UnpicklingError):
            why = "it is a pickle that holds more than tensors"
            way_out = (
                "nothing else is read from pytorch_model.bin or adapter_model.bin, and nothing in "
                "them is run. Convert them to safetensors (`save_pretrained`)"
            )
        elif os.path.isdir(self.at):
            way_out = (
                "give the folder of a whole checkpoint, and download it again if files are damaged"
            )
        else:
            way_out = (
                "no such folder is here, so it was looked for on the Hugging Face hub. Check the "
                "name and the network, log in if the model is gated (`hf auth login`), or give a "
                "folder"
            )
        part = f"{what} of " if what else ""
        return CheckpointError(f"cannot read {part}the checkpoint {self.at!r} ({why}): {way_out}")

    def _code_refusal(self) -> UnsupportedModelError:
        """Make the error for a checkpoint that works only with code of its own."""
        classes = [
            f"{name} is {value!r} in {file}"
            for file in NAMING_CODE
            for name, value in _named_code(self.read_json(file))
        ]
        return UnsupportedModelError(
            f"{self.name!r} asks for Python code of its own ({'; '.join(classes[:3])}), and code "
            "of a checkpoint is never run: choose a checkpoint for classes of transformers, or "
            "name the processor of another one for both models (`processor`, or --processor) if "
            "only the processor asks for it"
        )


def _named_code(settings: Any) -> list[tuple[str, Any]]:
    """List the classes of its own that a file names, also those of parts within it."""
    if not isinstance(settings, dict):
        return []
    named = settings.get("auto_map")
    own = list(named.items()) if isinstance(named, dict) else [("a tokenizer", named)]
    parts = (entry for part in settings.values() for entry in _named_code(part))
    return [*(own if named else ()), *parts]


def reason(error: Exception, length: int = 240) -> str:
    """Tell what went wrong in one line of at most `length` characters."""
    line = " ".join(str(error).split())
    if not isinstance(error, OSError | ValueError) or not line:
        line = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return line if len(line) <= length else f"{line[:length]}..."
