"""Plans of checkpoints out of a policy and its base; `visreplay graft` writes them."""

from pathlib import Path

import builders
import pytest
import torch
from builders import FAMILIES, Family
from safetensors.torch import load_file, save_file

from visreplay.replay_core import CheckpointError, ConfigError, PairMismatchError
from visreplay.replay_core.checkpoint import Checkpoint
from visreplay.replay_core.graft import EMBEDDING, HEAD, Weights, plan_graft, plan_merge


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("pair")
    builders.model(noise=0.05).save_pretrained(folder / "policy", max_shard_size="40KB")
    builders.model().save_pretrained(folder / "base", max_shard_size="60KB")
    return str(folder / "policy"), str(folder / "base")


@pytest.mark.parametrize("family", FAMILIES)
def test_layouts_of_checkpoints_have_names_in_common(tmp_path: Path, family: Family) -> None:
    model = builders.model(family)
    model.save_pretrained(tmp_path / "hub")
    model.save_pretrained(tmp_path / "own")
    save_file(model.state_dict(), tmp_path / "own" / "model.safetensors", {"format": "pt"})
    hub, own = (Weights(Checkpoint.find(str(tmp_path / name))) for name in ("hub", "own"))
    language = {name for name in hub.places if name.startswith(("layers.", "norm."))}
    assert {EMBEDDING, HEAD, *language} <= own.places.keys()
    assert len(language) > 4 * builders.LAYERS
    for name in (EMBEDDING, HEAD, "layers.3.mlp.up_proj.weight", "norm.weight"):
        assert torch.equal(hub.tensor(name), own.tensor(name))
        assert hub.shape(name) == tuple(hub.tensor(name).shape)


def test_weights_are_read_one_file_at_a_time(pair: tuple[str, str], tmp_path: Path) -> None:
    builders.model(noise=0.05).save_pretrained(tmp_path / "policy", max_shard_size="40KB")
    plan = plan_graft(str(tmp_path / "policy"), pair[1], 2)
    files = plan.weights()
    (tmp_path / "policy" / "model-00003-of-00007.safetensors").unlink()
    first, second = next(files), next(files)
    assert [name for name, _ in (first, second)] == list(plan.files)[:2]
    own = load_file(tmp_path / "policy" / "model-00001-of-00007.safetensors")
    assert first[1].keys() == own.keys()
    with pytest.raises(CheckpointError, match=r"model-00003-of-00007\.safetensors"):
        next(files)


def test_layers_and_weights_have_a_range(pair: tuple[str, str]) -> None:
    for layers in (0, 5):
        with pytest.raises(ConfigError, match=f"layers is {layers}, but the policy has 4 decoder"):
            plan_graft(*pair, layers)
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="but must lie in"):
            plan_merge(*pair, weight)


def test_tensors_of_other_shapes_are_refused(pair: tuple[str, str], tmp_path: Path) -> None:
    base = builders.model()
    base.save_pretrained(tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**load_file(file), name: torch.zeros(47, 32)}, file, {"format": "pt"})
    with pytest.raises(PairMismatchError, match=r"up_proj.weight is \(48, 32\) in the policy and"):
        plan_graft(pair[0], str(tmp_path / "base"), 2)
    plan_graft(pair[0], str(tmp_path / "base"), 1)  # layer 1 is not the base's


def test_a_head_that_is_neither_stored_nor_tied_is_missed(
    pair: tuple[str, str], tmp_path: Path
) -> None:
    builders.model().save_pretrained(tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    stored = load_file(file)
    del stored["lm_head.weight"]
    save_file(stored, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks the LM head"):
        plan_merge(pair[0], str(tmp_path / "base"), 0.5)
