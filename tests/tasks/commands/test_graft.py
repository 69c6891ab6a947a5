"""`visreplay graft` and `merge`: checkpoints that any engine serves, beside state replay."""

import errno
import io
import json
import os
import resource
from pathlib import Path
from typing import Any

import builders
import pytest
import torch
from builders import FAMILIES, Family
from disk_faults import fails, faulty_disk, killed
from replay_cases import save
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from visreplay.replay_core import ModelPair, ReplayConfig, ReplaySession, load_pair
from visreplay.replay_core.graft import plan_graft
from visreplay.tasks.commands.checkpoint_folder import write_checkpoint
from visreplay.tasks.commands.cli import app
from visreplay.tasks.commands.console import Console
from visreplay.tools.disk import DiskError

PROMPT = (4, ("image", (1, 4, 6), 1), 3, ("video", (2, 4, 6), 4), 2)
LAYERS = 3


def command(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def models(folder: Path, family: Family, *, norm: float = 1.0, **noise: float) -> tuple[Any, Any]:
    """Write a policy, in files of 40 KB, and its base; the policy's final norm may be scaled."""
    noise = {"noise": 0.05, "vision_noise": 0.05, **noise}
    policy, base = builders.model(family, **noise), builders.model(family)
    with torch.no_grad():
        policy.model.language_model.norm.weight.mul_(norm)
    policy.save_pretrained(folder / "policy", max_shard_size="40KB")
    base.save_pretrained(folder / "base")
    return policy, base


def at_the_prompts_end(policy: Any, base: Any, family: Family, **replay: Any) -> ReplaySession:
    """A session that has read the prompt."""
    config = {"threshold": "quantile", "tau": 1.0, "side": "all", "state_layers": LAYERS, **replay}
    pair = ModelPair.of(policy, base, builders.Processor(), None)
    session = ReplaySession(pair, ReplayConfig(**config))
    session.append(builders.segment(*PROMPT, family=family))
    return session


def loaded(folder: Path, like: Any) -> Any:
    model, info = type(like).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, by their names in its files."""
    parts = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
    assert sum(map(len, parts)) == len({name for part in parts for name in part})
    return {name: tensor for part in parts for name, tensor in part.items()}


@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
@pytest.mark.parametrize("family", FAMILIES)
def test_state_replay_at_every_position_is_the_graft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: Family, tied: bool
) -> None:
    others = {**builders.OTHERS.get(family, {}), "tie_word_embeddings": tied}
    monkeypatch.setitem(builders.OTHERS, family, others)
    # State replay replaces an activation only where the base is surer than the policy. This
    # policy's logits are small in every layer, so that the base is the surer one everywhere.
    policy, base = models(tmp_path, family, norm=0.1)
    stored = tensors(tmp_path / "policy")
    assert any("lm_head" in name for name in stored) != tied

    out = tmp_path / "graft"
    code, printed, err = command(
        "graft", tmp_path / "policy", tmp_path / "base", out, "--layers", LAYERS
    )
    assert code == 0, err
    assert "checkpoint" in printed and str(out.name) in printed
    graft = loaded(out, policy)
    assert not graft.config.tie_word_embeddings
    with torch.no_grad():
        plain = policy(**builders.inputs(*PROMPT, family=family)).logits[0, -1]

    session = at_the_prompts_end(policy, base, family, method="state")
    assert all(block.replaced_LT.all() for block in session.blocks)  # type: ignore[union-attr]
    served = at_the_prompts_end(graft, None, family, method="none")
    expected = session.next_logits
    torch.testing.assert_close(served.next_logits, expected, atol=1e-6, rtol=1e-5)
    assert (plain - expected).abs().max() > 0.01

    # The transformers' own way through the prompt is that of any other engine.
    if family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        with torch.no_grad():
            forward = graft(**builders.inputs(*PROMPT, family=family)).logits[0, -1]
        torch.testing.assert_close(forward, expected, atol=1e-5, rtol=1e-4)

    # Behind the prompt they part: the policy's own first layers read the tokens that it writes.
    for each in (session, served):
        each.generate(max_new_tokens=2, temperature=0.0)
    assert not torch.allclose(session.next_logits, served.next_logits, atol=1e-4)


def test_state_replay_itself_replaces_less(tmp_path: Path) -> None:
    policy, base = models(tmp_path, "qwen2_5_vl")
    out = tmp_path / "graft"
    assert command("graft", tmp_path / "policy", tmp_path / "base", out, "--layers", LAYERS)[0] == 0
    graft = loaded(out, policy)
    session = at_the_prompts_end(policy, base, "qwen2_5_vl", method="state")
    assert not all(block.replaced_LT.all() for block in session.blocks)  # type: ignore[union-attr]
    served = at_the_prompts_end(graft, None, "qwen2_5_vl", method="none")
    assert (session.next_logits - served.next_logits).abs().max() > 0.01


def test_visual_features_of_several_layers_need_one_vision_tower(tmp_path: Path) -> None:
    """Qwen3-VL's enter two layers here, so that one layer of the base would need both towers."""
    both = models(tmp_path, "qwen3_vl", norm=0.1)
    folders = (tmp_path / "policy", tmp_path / "base")
    code, _, err = command("graft", *folders, tmp_path / "out", "--layers", 1)
    assert code == 2 and "choose 2 layers or more, or keep the policy's vision tower" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "policy"]
    kept = ("--layers", 1, "--no-vision")
    assert command("graft", *folders, tmp_path / "kept", *kept)[0] == 0
    visual = {name for name in tensors(folders[0]) if "visual" in name}
    ours, theirs = tensors(folders[0]), tensors(tmp_path / "kept")
    assert visual and all(torch.equal(ours[name], theirs[name]) for name in visual)

    same = tmp_path / "same"
    both = models(same, "qwen3_vl", norm=0.1, vision_noise=0.0)
    out = same / "graft"
    assert command("graft", same / "policy", same / "base", out, "--layers", 1)[0] == 0
    graft = loaded(out, both[0])
    session = at_the_prompts_end(*both, "qwen3_vl", method="state", state_layers=1)
    served = at_the_prompts_end(graft, None, "qwen3_vl", method="none")
    torch.testing.assert_close(served.next_logits, session.next_logits, atol=1e-6, rtol=1e-5)


def test_files_names_and_data_type_are_the_policys(tmp_path: Path) -> None:
    policy = builders.model(noise=0.05).to(torch.bfloat16)
    save(tmp_path / "policy", policy)
    # Another layout: the names of the model's own modules.
    base = builders.model()
    base.save_pretrained(tmp_path / "base")
    save_file(base.state_dict(), tmp_path / "base" / "model.safetensors", {"format": "pt"})
    out = tmp_path / "graft"
    assert command("graft", tmp_path / "policy", tmp_path / "base", out, "--layers", 2)[0] == 0
    ours, made = tensors(tmp_path / "policy"), tensors(out)
    assert made.keys() == ours.keys()
    assert {tensor.dtype for tensor in made.values()} == {torch.bfloat16}
    theirs = base.model.language_model.layers
    for layer, source in enumerate(theirs[:2]):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        assert torch.equal(made[name], source.mlp.up_proj.weight.to(torch.bfloat16))
    for name in ("model.layers.2.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"):
        assert torch.equal(made[name], ours[name])
    names = {path.name for path in (tmp_path / "policy").iterdir()}
    assert {path.name for path in out.iterdir()} == names | {"made_by.json"}
    index = json.loads((out / "model.safetensors.index.json").read_text("utf-8"))
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in made.values())
    about = json.loads((out / "made_by.json").read_text("utf-8"))
    assert (about["made_by"], about["layers"], about["vision"]) == ("graft", 2, True)
    modes = {path.stat().st_mode & 0o777 for path in out.iterdir()}
    assert len(modes) == 1
    with ReplaySession(load_pair(str(out), replay="none", device="cpu"), "none") as session:
        session.append(builders.segment(3))


def test_the_embedded_pairs_graft_answers(tmp_path: Path) -> None:
    out = tmp_path / "graft"
    assert command("graft", "embedded", "embedded", out, "--layers", 2)[0] == 0
    run = ("--replay", "none", "--limit", 1, "--device", "cpu", "--protocol", "embedded")
    code, printed, err = command(
        "eval", "visual-search-easy", "--policy", out, *run, "--out", tmp_path / "run"
    )
    assert code == 0, err
    assert "accuracy" in printed


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merge_is_the_mean_of_every_tensor(tmp_path: Path, family: Family) -> None:
    models(tmp_path, family)
    policy, base = tensors(tmp_path / "policy"), tensors(tmp_path / "base")
    for weight in (0.0, 0.25, 1.0):
        out = tmp_path / f"merge-{weight}"
        folders = (tmp_path / "policy", tmp_path / "base")
        assert command("merge", *folders, out, "--weight", weight)[0] == 0
        made = tensors(out)
        assert made.keys() == policy.keys() == base.keys()
        for name, tensor in made.items():
            expected = weight * base[name] + (1 - weight) * policy[name]
            torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=1e-6)
            assert weight != 1 or torch.equal(tensor, base[name])
            assert weight != 0 or torch.equal(tensor, policy[name])


def test_a_merge_with_a_base_that_has_a_head_of_its_own_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(builders.OTHERS, "qwen2_vl", {"tie_word_embeddings": True})
    policy = builders.model("qwen2_vl", noise=0.05)
    policy.save_pretrained(tmp_path / "policy")
    monkeypatch.setitem(builders.OTHERS, "qwen2_vl", {"tie_word_embeddings": False})
    base = builders.model("qwen2_vl")
    base.save_pretrained(tmp_path / "base")
    for first, second in (("policy", "base"), ("base", "policy"), ("policy", "policy")):
        out = tmp_path / f"{first}-{second}"
        code, _, err = command("merge", tmp_path / first, tmp_path / second, out, "--weight", 0.5)
        assert code == 0, err
        model = loaded(out, policy)
        tied = first == second
        assert model.config.tie_word_embeddings == tied
        heads = [each.get_output_embeddings().weight for each in (policy, base)]
        mean = heads[0] if tied else (heads[0] + heads[1]) / 2
        torch.testing.assert_close(model.get_output_embeddings().weight, mean)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def pair_on_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    models(folder, "qwen2_5_vl")
    return folder


def test_what_does_not_go_together_is_refused_before_anything_is_written(
    pair_on_disk: Path, tmp_path: Path
) -> None:
    policy, base = pair_on_disk / "policy", pair_on_disk / "base"
    builders.model(layers=5).save_pretrained(tmp_path / "deeper")
    names = {"a" if "layers.1.mlp.up" in k else k: v for k, v in tensors(base).items()}
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_bytes((base / "config.json").read_bytes())
    save_file(names, tmp_path / "odd" / "model.safetensors", {"format": "pt"})
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_bytes((base / "config.json").read_bytes())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine", "utf-8")
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "out"
    for arguments, error in (
        ((policy, base, out, "--layers", 5), "layers is 5, but the policy has 4 decoder layers"),
        ((policy, tmp_path / "deeper", out, "--layers", 2), "num_hidden_layers is 4 in the policy"),
        ((policy, tmp_path / "odd", out, "--layers", 2), "has a tensor model.layers.1.mlp.up_proj"),
        ((policy, tmp_path / "empty", out, "--layers", 2), "holds no weights in safetensors"),
        ((policy, tmp_path / "none", out, "--layers", 2), "there is no folder"),
        ((policy, base, tmp_path / "full", "--layers", 2), "full is not an empty folder"),
        ((policy, base, policy, "--layers", 2), "policy is not an empty folder"),
    ):
        code, _, err = command("graft", *arguments)
        assert code == 2 and error in err, err
    code, _, err = command("merge", policy, base, out, "--weight", 1.5)
    assert code == 2 and "weight is 1.5, but must lie in [0, 1]" in err
    assert sorted(tmp_path.iterdir()) == before


def test_adapters_and_quantised_weights_are_refused(pair_on_disk: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}", "utf-8")
    quantised = tmp_path / "quantised"
    quantised.mkdir()
    settings = json.loads((pair_on_disk / "base" / "config.json").read_text("utf-8"))
    settings["quantization_config"] = {"quant_method": "fp8"}
    (quantised / "config.json").write_text(json.dumps(settings), "utf-8")
    for folder, error in ((adapter, "is a LoRA adapter"), (quantised, "is quantised")):
        code, _, err = command(
            "graft", folder, pair_on_disk / "base", tmp_path / "o", "--layers", 1
        )
        assert code == 2 and error in err, err


def write_on(pair: Path, folder: Path, at: int | None, fault: Any) -> int:
    """Write a graft on a disk with a fault; give the number of operations."""
    plan = plan_graft(str(pair / "policy"), str(pair / "base"), 2)
    with faulty_disk(folder, at, fault) as operations:
        write_checkpoint(Console(file=io.StringIO()), plan, folder / "graft")
    return len(operations)


def test_a_disk_that_fails_leaves_a_whole_checkpoint_or_nothing(
    pair_on_disk: Path, tmp_path: Path
) -> None:
    count = write_on(pair_on_disk, tmp_path / "whole", None, fails(errno.ENOSPC))
    whole = contents(tmp_path / "whole" / "graft")
    failed = 0
    for at in range(count):
        folder = tmp_path / str(at)
        try:
            # To make a folder that is there already may fail without an error.
            write_on(pair_on_disk, folder, at, fails(errno.ENOSPC))
        except DiskError as error:
            assert "No space left on device (ENOSPC); free space on that disk" in str(error)
            failed += 1
            if at < count - 2:  # before the folder has its name
                assert not folder.exists() or not list(folder.iterdir())
                continue
        assert [path.name for path in folder.iterdir()] == ["graft"]
        assert contents(folder / "graft") == whole
    assert failed > 30


def test_a_file_of_weights_that_does_not_fit_is_named(pair_on_disk: Path, tmp_path: Path) -> None:
    plan = plan_graft(str(pair_on_disk / "policy"), str(pair_on_disk / "base"), 2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(DiskError, match=r"model-00001-of-.* cannot be written: .*large"):
            write_checkpoint(Console(file=io.StringIO()), plan, tmp_path / "graft")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_process_that_is_killed_leaves_nothing_that_loads(
    pair_on_disk: Path, tmp_path: Path
) -> None:
    count = write_on(pair_on_disk, tmp_path / "whole", None, killed)
    for at in (3, count // 2, count - 4):
        folder = tmp_path / str(at)
        child = os.fork()
        if child == 0:
            try:
                write_on(pair_on_disk, folder, at, killed)
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert not (folder / "graft").exists()
        # The same command writes it, beside what was left behind.
        write_on(pair_on_disk, folder, None, killed)
        assert contents(folder / "graft") == contents(tmp_path / "whole" / "graft")
