"""Files of weights that are damaged, outside the checkpoint, or of another model."""

import json
import pickle
from pathlib import Path
from typing import Any

import builders
import pytest
import torch
from replay_cases import save
from safetensors.torch import load_file
from tampered import change, copied, own_bytes

from visreplay.replay_core import EMBEDDED, CheckpointError, ModelPair, load_pair
from visreplay.replay_core.checkpoint import Checkpoint
from visreplay.replay_core.weight_files import count_weights

INDEX = "model.safetensors.index.json"
WHOLE = (EMBEDDED / "policy" / "model.safetensors").read_bytes()


def load(folder: Path) -> ModelPair:
    return load_pair(str(folder), replay="none", device="cpu")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    save(folder, builders.model())
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.mark.parametrize(
    "content",
    [
        WHOLE[: len(WHOLE) // 2],
        WHOLE[:100],
        WHOLE[:5],
        b"",
        b"\x00" * 64,
        b"\xff" * 8 + WHOLE[8:],
        WHOLE[:8] + b"[" + WHOLE[9:],
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 6790760\n",
    ],
    ids=["half", "header", "length", "nothing", "zeros", "long header", "no JSON", "LFS pointer"],
)
def test_a_damaged_file_is_named_with_its_size(tmp_path: Path, content: bytes) -> None:
    folder = copied(EMBEDDED / "policy", tmp_path / "copy")
    own_bytes(folder / "model.safetensors", content)
    rule = rf"model\.safetensors' of {len(content):,} bytes \(.*\): download it again"
    with pytest.raises(CheckpointError, match=rule):
        load(folder)


def test_a_damaged_shard_is_named(sharded: Path, tmp_path: Path) -> None:
    folder = copied(sharded, tmp_path / "copy")
    shard = sorted(folder.glob("*.safetensors"))[1]
    own_bytes(shard, shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=rf"{shard.name}' of .*download it again"):
        load(folder)
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"{shard.name}' .*download it again"):
        load(folder)


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/model.safetensors", "a/../../b", "..\\b", "C:\\b", "C:b"]
)
def test_an_index_that_leaves_the_checkpoint(sharded: Path, tmp_path: Path, name: str) -> None:
    folder = copied(sharded, tmp_path / "copy")
    shards = json.loads((folder / INDEX).read_text("utf-8"))["weight_map"]
    change(folder / INDEX, weight_map={**shards, next(iter(shards)): name})
    with pytest.raises(CheckpointError, match=r"a file outside of the checkpoint"):
        load(folder)
    (folder / INDEX).rename(folder / "pytorch_model.bin.index.json")
    with pytest.raises(CheckpointError, match=r"a file outside of the checkpoint"):
        load(folder)


@pytest.mark.parametrize("shards", [[], {"a": 5}, {"a": ["b"]}, {"a": None}, "x"], ids=str)
def test_an_index_of_another_form(sharded: Path, tmp_path: Path, shards: Any) -> None:
    folder = copied(sharded, tmp_path / "copy")
    change(folder / INDEX, weight_map=shards)
    with pytest.raises(CheckpointError):
        load(folder)


def test_shards_in_a_folder_of_the_checkpoint_are_its_own(sharded: Path, tmp_path: Path) -> None:
    folder = copied(sharded, tmp_path / "copy")
    (folder / "shards").mkdir()
    shards = json.loads((folder / INDEX).read_text("utf-8"))["weight_map"]
    for name in set(shards.values()):
        (folder / name).rename(folder / "shards" / name)
    moved = {tensor: f"shards/{name}" for tensor, name in shards.items()}
    change(folder / INDEX, weight_map=moved)
    assert load(folder)


class Evil:
    """An object whose pickle runs a command."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "was-run"

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_code_in_a_pickle_is_not_run_and_the_way_out_is_named(tmp_path: Path) -> None:
    folder = copied(EMBEDDED / "policy", tmp_path / "copy")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Evil(folder)}, 2))
    with pytest.raises(
        CheckpointError, match=r"more than tensors.*pytorch_model\.bin.*safetensors"
    ):
        load(folder)
    assert not (folder / "was-run").exists()


def test_tensors_in_a_pickle_are_read(tmp_path: Path) -> None:
    folder = copied(EMBEDDED / "policy", tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    ours, theirs = load(folder).policy.model, load(EMBEDDED / "policy").policy.model
    expected = dict(theirs.named_parameters())
    assert all(torch.equal(weight, expected[name]) for name, weight in ours.named_parameters())


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        (
            "text_config",
            "num_hidden_layers",
            10**9,
            r"is 1000000000 in .* but its weights are \d+ te",
        ),
        (
            "vision_config",
            "depth",
            10**9,
            r"depth is 1000000000 in .* but its weights are \d+ tensors",
        ),
        (
            "text_config",
            "vocab_size",
            10**9,
            r"describes a model of [\d,]+ weights, but .* hold 1,",
        ),
        ("vision_config", "intermediate_size", 10**9, "describes a model of"),
        ("text_config", "hidden_size", 10**12, r"cannot read config\.json"),
        (None, "text_config", None, "describes a model of"),
        (None, "text_config", {}, "describes a model of"),
        (None, "vision_config", {}, "describes a model of"),
    ],
)
def test_a_model_that_the_weights_cannot_be_of_is_refused_at_once(
    tmp_path: Path, part: str | None, name: str, value: Any, message: str
) -> None:
    """Its weights would be made up, with billions of numbers."""
    settings = json.loads((EMBEDDED / "policy" / "config.json").read_text("utf-8"))
    changed = {name: value} if part is None else {part: {**settings[part], name: value}}
    folder = copied(EMBEDDED / "policy", tmp_path / "copy", config=changed)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_a_checkpoint_without_weights_is_left_to_transformers(tmp_path: Path) -> None:
    folder = copied(EMBEDDED / "policy", tmp_path / "copy")
    (folder / "model.safetensors").unlink()
    assert count_weights(Checkpoint.find(str(folder))) is None
    with pytest.raises(CheckpointError, match=r"no file named model\.safetensors"):
        load(folder)
