"""Handles, and what a checkpoint's digest tells apart."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from visreplay.replay_core import EMBEDDED
from visreplay_connector.handles import (
    Description,
    HandleError,
    Picture,
    checkpoint_digest,
    names_of,
    prefix_digest,
)

NAME = f"{'a' * 32}.safetensors"


@pytest.mark.parametrize(
    "files",
    [None, [], [7], ["../x.safetensors"], ["a" * 32], [NAME.upper()], [f"{NAME}\n"], [NAME, None]],
)
def test_only_names_are_names(files: object) -> None:
    with pytest.raises(HandleError):
        names_of({"files": files})


@pytest.mark.parametrize("handle", [None, [], {}, "files", {"files": NAME}])
def test_only_handles_are_handles(handle: object) -> None:
    with pytest.raises(HandleError, match="a handle is"):
        names_of(handle)


def test_the_beginning_of_a_prompt_is_its_tokens_and_its_pictures() -> None:
    cat, dog = Picture(1, "visreplay:cat"), Picture(1, "visreplay:dog")
    digests = {
        prefix_digest([1, 2, 3], []),
        prefix_digest([1, 2], []),
        prefix_digest([1, 2, 3], [cat]),
        prefix_digest([1, 2, 3], [dog]),
        prefix_digest([1, 2, 3], [Picture(2, "visreplay:cat")]),
    }
    assert len(digests) == 5


def test_a_description_survives_its_metadata() -> None:
    description = Description("weights", "salt", 3, 9, "prefix")
    assert Description.of(description.metadata()) == description
    with pytest.raises(HandleError, match="the file's format is None"):
        Description.of(None)
    with pytest.raises(HandleError, match="damaged"):
        Description.of({**description.metadata(), "stop": "soon"})


def test_a_checkpoint_is_known_by_its_weights(tmp_path: Path) -> None:
    ours = checkpoint_digest(EMBEDDED / "policy")
    assert ours != checkpoint_digest(EMBEDDED / "base")
    copied = shutil.copytree(EMBEDDED / "policy", tmp_path / "copied")
    (copied / "model.safetensors").rename(copied / "model-00001-of-00001.safetensors")
    assert checkpoint_digest(copied) == ours
    weights = {
        name: 1.01 * each for name, each in load_file(EMBEDDED / "policy/model.safetensors").items()
    }
    save_file(weights, copied / "model-00001-of-00001.safetensors")
    assert checkpoint_digest(copied) != ours
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        checkpoint_digest(tmp_path)
