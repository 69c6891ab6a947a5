"""How keys and values are named and described between visreplay and vLLM.

Both sides read this file: it imports the standard library alone. A worker of visreplay writes the
keys and values of a stretch of a conversation into a file of safetensors, with a `Description` as
its metadata. A request to vLLM holds a *handle*: the names of its files. The connector takes a file
only for the prompt that it was written for.
"""

import hashlib
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

FORMAT = "visreplay-kv-1"
PARAMETER = "visreplay"
"""The key of `kv_transfer_params` that holds the handle: `{"files": [name, ...]}`."""

IDENTIFIER = "visreplay:"
"""The beginning of the identifiers of pictures whose pixels vLLM is not sent."""

MAX_FILES = 4096

_NAME = re.compile(r"[0-9a-f]{32}\.safetensors")
_SAMPLES = 64
_SAMPLE_BYTES = 4096


class HandleError(ValueError):
    """A handle, or a file that it names, that does not belong to the request."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image or a video among the tokens of a prompt.

    Attributes:
        start: Index of its first placeholder.
        identifier: What vLLM calls it: `IDENTIFIER`, and a hash of its content.
    """

    start: int
    identifier: str


@dataclass(frozen=True, slots=True)
class Description:
    """What a file holds: the keys and values of tokens `start` to `stop - 1` of a conversation.

    Attributes:
        model: Digest of the policy's weights (`checkpoint_digest`).
        salt: The `cache_salt` of requests that may use it.
        start: Index of its first token.
        stop: Index behind its last token.
        prefix: Digest of all tokens and pictures before `stop` (`prefix_digest`).
    """

    model: str
    salt: str
    start: int
    stop: int
    prefix: str

    def metadata(self) -> dict[str, str]:
        """Return the metadata of the file: texts, as safetensors wants them."""
        return {"format": FORMAT, **{name: str(value) for name, value in asdict(self).items()}}

    @classmethod
    def of(cls, metadata: Mapping[str, str] | None) -> Self:
        """Read the metadata of a file.

        Raises:
            HandleError: It is not such a file.
        """
        found = metadata or {}
        if found.get("format") != FORMAT:
            raise HandleError(f"the file's format is {found.get('format')!r}, not {FORMAT!r}")
        try:
            texts = {name: found[name] for name in ("model", "salt", "prefix")}
            return cls(start=int(found["start"]), stop=int(found["stop"]), **texts)
        except (KeyError, ValueError) as error:
            raise HandleError(f"the file's metadata is damaged: {error}") from error


def names_of(handle: Any) -> list[str]:
    """Read the names of files in a handle, which may be anything.

    Raises:
        HandleError: It is no handle. Only bare names of the right form are names: a path is none.
    """
    names = handle.get("files") if isinstance(handle, dict) else None
    if not isinstance(names, list) or not 1 <= len(names) <= MAX_FILES:
        raise HandleError(f"a handle is {{'files': [name, ...]}} with 1 to {MAX_FILES} names")
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise HandleError(f"{str(name)[:80]!r} is no name of a file of keys and values")
    return names


def prefix_digest(token_ids: Sequence[int], pictures: Sequence[Picture]) -> str:
    """Hash the beginning of a prompt.

    Args:
        token_ids: Its tokens, placeholders written out.
        pictures: The pictures that begin among them, in order.
    """
    digest = hashlib.sha256(array("q", token_ids).tobytes())
    for picture in pictures:
        digest.update(f"\0{picture.start}\0{picture.identifier}".encode())
    return digest.hexdigest()


def checkpoint_digest(folder: Path) -> str:
    """Hash the weights of a checkpoint: sizes and samples of its files, whatever they are called.

    Reading all of a large checkpoint would take minutes; training moves every part of it.

    Raises:
        FileNotFoundError: There are no weights.
    """
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no weights (*.safetensors or *.bin)")
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{size}\0".encode())
        step = max(1, (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
        with path.open("rb") as file:
            for start in range(0, size, step):
                file.seek(start)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
