"""Loading by name: pairs that ship, paths that are not there, hubs that do not answer."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from weakref import ref

import builders
import pytest
import torch
from replay_cases import save
from torch import Tensor
from torch.overrides import TorchFunctionMode

from visreplay.replay_core import (
    EMBEDDED,
    CheckpointError,
    ConfigError,
    Method,
    ModelPair,
    ReplayConfig,
    ReplayError,
    UnsupportedModelError,
    embedded_config,
    load_pair,
)
from visreplay.replay_core.embedded_pair import EMBEDDED_PAIRS
from visreplay.replay_core.sharing import share_tensors


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make any use of a network an error."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_embedded_pair_by_name() -> None:
    named = load_pair("embedded", device="cpu")
    placed = load_pair(str(EMBEDDED / "policy"), str(EMBEDDED / "base"), device="cpu")
    for ours, theirs in ((named.policy, placed.policy), (named.base, placed.base)):
        assert ours is not None and theirs is not None
        weights = dict(theirs.model.named_parameters())
        assert all(torch.equal(w, weights[n]) for n, w in ours.model.named_parameters())
    assert named.names == ("embedded policy", "embedded base")
    assert placed.names == (str(EMBEDDED / "policy"), str(EMBEDDED / "base"))


def test_only_what_a_method_needs() -> None:
    plain = load_pair("embedded", replay="none", device="cpu")
    assert plain.base is None and plain.names == ("embedded policy", None)
    state = load_pair("embedded", replay="state", device="cpu")
    assert state.base is not None and state.base.depth == 2
    swapped = ReplayConfig("token", replay_layers=2, swap_roles=True)  # type: ignore[arg-type]
    whole = load_pair("embedded", replay=swapped, device="cpu")
    assert whole.base is not None and whole.base.depth == whole.policy.depth


def test_one_checkpoint_of_the_embedded_pair_with_another() -> None:
    pair = load_pair(str(EMBEDDED / "policy"), "embedded", device="cpu")
    assert pair.names == (str(EMBEDDED / "policy"), "embedded base")
    assert pair.tuned == {}  # the settings are those of the policy that ships
    pair = load_pair("embedded", str(EMBEDDED / "base"), device="cpu")
    assert pair.names == ("embedded policy", str(EMBEDDED / "base"))


def test_settings_of_a_pair(embedded_pair: ModelPair) -> None:
    tuned = embedded_pair.replay_config()
    assert (tuned.method, tuned.replay_layers, tuned.tau) == (Method.TOKEN, 2, 0.5)
    assert embedded_pair.replay_config("state", steps=3) == embedded_config(Method.STATE, steps=3)
    assert embedded_pair.replay_config("none") == ReplayConfig(Method.NONE)
    own = ReplayConfig(replay_layers=1)
    assert embedded_pair.replay_config(own) is not None
    assert embedded_pair.replay_config(own) == own
    other = ModelPair(embedded_pair.policy, None, embedded_pair.processor, True)
    assert other.replay_config("token", steps=3) == ReplayConfig(steps=3)
    with pytest.raises(ConfigError, match="method is 'both', but must be one of 'token', 'state'"):
        embedded_pair.replay_config("both")


def test_a_folder_called_embedded_is_given_as_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "embedded").symlink_to(EMBEDDED / "base")
    monkeypatch.chdir(tmp_path)
    pair = load_pair("./embedded", device="cpu")
    assert pair.base is None and pair.names == ("./embedded", None) and pair.tuned == {}


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").symlink_to(EMBEDDED / "policy")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_pair("~/mine", device="cpu").base is None


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", ["./x", "../x", "/nowhere/x", "~/nowhere/x", "owner/x/"])
def test_a_path_that_is_not_there_is_refused_at_once(name: str) -> None:
    rule = f"there is no folder '{name}', and a checkpoint that is written as a path must be one"
    for names in ((name,), ("embedded", name)):
        with pytest.raises(CheckpointError, match=rule) as caught:
            load_pair(*names)
        assert isinstance(caught.value, ReplayError) and "Hugging Face id" in str(caught.value)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", ["a b", "owner/name/more"])
def test_a_name_that_cannot_be_a_hub_id(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"cannot read the checkpoint '{name}'"):
        load_pair(name)


@pytest.mark.usefixtures("no_hub")
def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="give the folder of a whole checkpoint") as caught:
        load_pair(str(tmp_path))
    assert len(str(caught.value).splitlines()) == 1


PROGRAM = """
from visreplay.replay_core import CheckpointError, load_pair
try:
    load_pair({!r})
except CheckpointError as error:
    print(error)
    assert error.__cause__ is not None
"""


@pytest.mark.parametrize(
    "setting", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}], ids=str
)
def test_a_hub_that_does_not_answer_is_one_short_error(
    tmp_path: Path, setting: dict[str, str]
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format("owner/no-such-model")],
        env={**os.environ, "HF_HOME": str(tmp_path), **setting},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,  # transformers itself tries for minutes
    )
    (line,) = ended.stdout.splitlines()
    assert line.startswith("cannot read the checkpoint 'owner/no-such-model' (")
    assert "Check the name and the network" in line
    assert "Retrying" not in ended.stderr


def test_a_base_that_replay_needs_is_asked_for_before_anything_is_read() -> None:
    policy = str(EMBEDDED_PAIRS["embedded"].policy)
    with pytest.raises(ConfigError, match="'token' needs a base model, but none is named"):
        load_pair(policy, replay="token")
    assert load_pair(policy, replay="none", device="cpu").base is None


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_refused_before_weights_are_read(device: str) -> None:
    with pytest.raises(ConfigError, match=f"device is '{device}', which cannot be used"):
        load_pair("embedded", device=device)


def test_a_model_that_transformers_does_not_know_is_unsupported(tmp_path: Path) -> None:
    whole = EMBEDDED_PAIRS["embedded"].policy
    for file in whole.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "nobody"}), "utf-8")
    with pytest.raises(UnsupportedModelError, match="transformers cannot read"):
        load_pair(str(tmp_path), replay="none")


@pytest.fixture(scope="module")
def hub_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the hub in which the policy has the revision v2 alone, and the base v1."""
    cache = tmp_path_factory.mktemp("cache")
    embedded = EMBEDDED_PAIRS["embedded"]
    for name, folder, revision in (
        ("policy", embedded.policy, "v2"),
        ("base", embedded.base, "v1"),
    ):
        repository = cache / f"models--owner--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "snapshots").mkdir()
        (repository / "refs" / revision).write_text(COMMIT, "utf-8")
        (repository / "snapshots" / COMMIT).symlink_to(folder)
    return cache


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.usefixtures("no_hub")
def test_options_of_the_hub_reach_every_file(hub_cache: Path) -> None:
    hub = {"cache_dir": str(hub_cache), "local_files_only": True}
    names = ("owner/policy", "owner/base")
    pair = load_pair(*names, revision="v2", base_revision="v1", device="cpu", **hub)  # type: ignore[arg-type]
    assert pair.names == names and pair.base is not None and pair.base.depth == 4
    plain = load_pair("owner/base", revision="v1", processor=str(EMBEDDED / "policy"), **hub)  # type: ignore[arg-type]
    assert plain.base is None
    for revisions in ({"revision": "v1", "base_revision": "v1"}, {"revision": "v2"}, {}):
        with pytest.raises(CheckpointError, match="cannot read the checkpoint 'owner/"):
            load_pair(*names, **revisions, **hub)  # type: ignore[arg-type]


def test_code_of_a_checkpoint_is_never_run() -> None:
    with pytest.raises(ConfigError, match="never runs code of a checkpoint: leave it out"):
        load_pair("embedded", trust_remote_code=True)
    assert load_pair("embedded", device="cpu", trust_remote_code=False, replay="none")
    with pytest.raises(ConfigError, match="a checkpoint is one folder"):
        load_pair("embedded", subfolder="policy")


def test_a_pixel_budget(embedded_pair: ModelPair) -> None:
    most = embedded_pair.processor.image_processor.size["longest_edge"]
    pair = load_pair("embedded", device="cpu", replay="none", max_pixels=most // 2)
    assert pair.processor.image_processor.size["longest_edge"] == most // 2


def test_more_replay_layers_than_there_are() -> None:
    for settings in ({"replay_layers": 5}, {"replay": ReplayConfig(replay_layers=5)}):
        with pytest.raises(ConfigError, match="replay_layers is 5, but the policy has 4"):
            load_pair("embedded", device="cpu", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("wide", ["policy", "base"])
def test_one_data_type_for_both(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wide: str
) -> None:
    """The type is that of the smaller weights, and equal tensors are shared."""
    folders = {}
    for name, noise in (("policy", 0.02), ("base", 0.0)):
        model: Any = builders.model(noise=noise).to(torch.bfloat16)  # type: ignore[arg-type]
        folders[name] = save(tmp_path / name, model.float() if name == wide else model)
    pair = load_pair(folders["policy"], folders["base"], device="cpu")
    assert pair.base is not None and pair.shares_vision
    for adapter in (pair.policy, pair.base):
        assert {w.dtype for w in adapter.model.parameters()} == {torch.bfloat16}
    (record,) = caplog.records
    assert record.getMessage().endswith("both are loaded in bfloat16")
    assert f"{folders[wide]} is in float32" in record.getMessage() or wide == "base"
    exact = load_pair(*folders.values(), device="cpu", dtype=torch.float32)
    assert exact.policy.head.weight.dtype == torch.float32 and len(caplog.records) == 1


class Moves(TorchFunctionMode):
    """Counts the copies that `Tensor.to` made, and that are alive at once."""

    def __init__(self) -> None:
        self.copies: list[Any] = []
        self.most = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is Tensor.to:
            result = result.clone()
            self.copies.append(ref(result))
            self.most = max(self.most, sum(copy() is not None for copy in self.copies))
        return result


def test_the_base_is_moved_one_tensor_at_a_time() -> None:
    """What the policy has too is on the device twice for a moment only."""
    policy, base = builders.model(), builders.model()
    size = sum(weight.nbytes for weight in base.parameters())
    buffers = len(list(base.buffers()))
    with Moves() as moves:
        assert share_tensors(policy, base, "cpu") == size
    assert len(moves.copies) >= len(list(base.parameters())) and moves.most <= 2 + buffers
    ours = dict(policy.named_parameters())
    assert all(weight is ours[name] for name, weight in base.named_parameters())


def test_a_base_with_a_tied_head_stays_tied() -> None:
    policy, base = (builders.model("qwen3_vl", seed=seed) for seed in (0, 1))
    base.lm_head.weight = base.get_input_embeddings().weight  # type: ignore[union-attr]
    share_tensors(policy, base, "cpu")
    assert base.lm_head.weight is base.get_input_embeddings().weight  # type: ignore[union-attr]
