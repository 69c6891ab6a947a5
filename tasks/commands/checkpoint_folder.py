"""The folder of a new checkpoint: it is there when all of it is written, or not at all."""

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visreplay.tasks.commands.console import Console, progress_bar
from visreplay.tasks.evaluation.tables import counted
from visreplay.tools.disk import DiskError, disk_errors, make_folder, sync_folder, write_file

if TYPE_CHECKING:
    from torch import Tensor

    from visreplay.replay_core.graft import NewCheckpoint

PolicyArgument = Annotated[str, typer.Argument(help="Policy: a folder or a hub id.")]
BaseArgument = Annotated[
    str, typer.Argument(help="Base, from which the policy was trained: a folder or a hub id.")
]
OutArgument = Annotated[
    Path, typer.Argument(help="Folder for the checkpoint, which must not exist or be empty.")
]

ABOUT = "made_by.json"
"""The file that tells how the checkpoint was made."""


def check_vacant(out: Path) -> None:
    """Refuse a folder that has something in it.

    Raises:
        ValueError: It has, or is no folder.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} is not an empty folder: name a new one, or empty it")


def write_checkpoint(console: Console, new: "NewCheckpoint", out: Path) -> None:
    """Write a checkpoint, one file of weights at a time.

    Until all of it is on the disk, the folder has another name, and no `config.json`.

    Args:
        console: Where to show the progress.
        new: The checkpoint.
        out: Its folder, which does not exist or is empty.

    Raises:
        CheckpointError: What it is made of cannot be read.
        DiskError: It cannot be written.
    """
    from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME

    from visreplay.replay_core.graft import OTHER_FILES

    make_folder(out.parent)
    temporary = out.with_name(f"{out.name[:40]}.{secrets.token_hex(8)}.tmp")
    with disk_errors(temporary):
        temporary.mkdir()
    try:
        _write_json(temporary / ABOUT, new.about)
        size = 0
        with progress_bar(console) as progress:
            bar = progress.add_task("weights", total=len(new.files))
            for name, tensors in new.weights():
                _save(temporary / name, tensors)
                size += sum(tensor.nbytes for tensor in tensors.values())
                del tensors  # or there would be two files of them while the next is made
                progress.update(bar, advance=1)
        for name in OTHER_FILES:
            if path := new.policy.source.file(name):
                write_file(temporary / name, path.read_bytes())
        if index := new.index(size):
            _write_json(temporary / SAFE_WEIGHTS_INDEX_NAME, index)
        _write_json(temporary / CONFIG_NAME, new.settings)
        with disk_errors(out):
            if out.is_dir():
                out.rmdir()
            os.replace(temporary, out)
            sync_folder(out.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    console.print(
        f"checkpoint   {out} ({counted(len(new.files), 'file')} of weights, {size / 2**20:,.1f} "
        "MiB)",
        markup=False,
        soft_wrap=True,
    )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_file(path, json.dumps(content, indent=2).encode())


def _save(path: Path, tensors: "dict[str, Tensor]") -> None:
    """Write a file of weights, and bring it to the disk.

    Raises:
        DiskError: It cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with disk_errors(path):
        try:
            save_file(tensors, path, {"format": "pt"})
        except SafetensorError as error:
            raise DiskError(
                f"{path} cannot be written: {error}; free space on that disk, or choose another "
                "folder"
            ) from error
        shutil.copymode(path.with_name(ABOUT), path)  # it may be read by this user alone
        with path.open("rb+") as file:
            os.fsync(file.fileno())
