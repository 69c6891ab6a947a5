"""Folders with the files of real checkpoints, which have everything but weights."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from transformers import AutoProcessor, AutoTokenizer

Checkpoint = Literal["qwen2.5-vl-7b", "qwen3-vl-8b"]

DATA = Path(__file__).parents[1] / "data"
VARIANTS = DATA / "preprocessor-variants"
VOCABULARY = ("vocab.json", "merges.txt")


def assemble(
    folder: Path, name: Checkpoint = "qwen2.5-vl-7b", *, without: tuple[str, ...] = (), **files: Any
) -> Path:
    """Copy the files of a checkpoint to a folder.

    Args:
        folder: Where to; it is made if it is not there.
        name: Which checkpoint.
        without: Names of files that are left out.
        **files: Contents of JSON files that replace or join the checkpoint's, by their names
            without ".json".
    """
    folder.mkdir(parents=True, exist_ok=True)
    both = [DATA / "qwen2.5-vl-7b" / file for file in VOCABULARY]
    for source in {*both, *(DATA / name).iterdir()}:
        if source.name not in without:
            shutil.copyfile(source, folder / source.name)
    for stem, content in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(content), "utf-8")
    return folder


def variant(name: str) -> dict[str, Any]:
    """Read a form of `preprocessor_config.json` that fine-tunes of Qwen2.5-VL carry."""
    return read(VARIANTS / f"{name}.json")


def read(path: Path) -> dict[str, Any]:
    """Read a JSON file."""
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def processor(folder: Path, name: Checkpoint = "qwen2.5-vl-7b") -> Any:
    """Load the processor of a checkpoint, assembled in a folder."""
    return AutoProcessor.from_pretrained(assemble(folder, name))


def tokenizer(folder: Path, name: Checkpoint = "qwen2.5-vl-7b") -> Any:
    """Load the tokenizer of a checkpoint, assembled in a folder."""
    return AutoTokenizer.from_pretrained(assemble(folder, name))
