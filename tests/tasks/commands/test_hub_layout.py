"""The commands on random checkpoints of 28 layers with the real tokenizers, in the hub's layout.

No setting is changed for their sake but the rule that chooses positions: the logits of a random
model are about equally flat everywhere, so that a share of the highest entropy chooses none.
"""

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from random_checkpoint import write_pair
from real_checkpoints import assemble, read
from shared import write_tsv
from typer.testing import CliRunner

from visreplay.replay_core import load_theta
from visreplay.tasks.commands.cli import app

METHODS = ("token", "state")
TOKENS, QWEN3_TOKENS = 6, 70
"""Visual tokens of the picture: Qwen3-VL enlarges it to 65,536 pixels."""
BRIEF = ("--steps", "2", "--max-new-tokens", "4", "--max-steps", "1", "--threshold", "quantile")


def write(folder: Path, name: str) -> list[str]:
    """Write a pair, and return the options that name it."""
    files = assemble(folder / "files", name)  # type: ignore[arg-type]
    sizes = {"layers": 28, "hidden": 64, "vision_layers": 2}
    policy, base = write_pair(files, folder, **sizes, noise=0.1, shard="15MB")
    return ["--policy", str(policy), "--base", str(base), "--device", "cpu"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write(tmp_path_factory.mktemp("qwen2.5-vl"), "qwen2.5-vl-7b")


@pytest.fixture(scope="module")
def qwen3_pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write(tmp_path_factory.mktemp("qwen3-vl"), "qwen3-vl-8b")


def visreplay(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.stderr
    return result.stdout


def picture() -> Image.Image:
    return Image.effect_noise((84, 56), 60).convert("RGB")


@pytest.fixture
def photo(tmp_path: Path) -> str:
    picture().save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.fixture
def benchmark_file(tmp_path: Path) -> str:
    file = io.BytesIO()
    picture().save(file, "png")
    row = {
        **{"index": 0, "question": "Which number has the buoy?"},
        **{"image": base64.b64encode(file.getvalue()).decode()},
        **{"A": "17", "B": "71", "C": "11", "D": "77", "answer": "B"},
        **{"category": "single", "cycle_category": 1},
    }
    return str(write_tsv(tmp_path / "hr_bench_4k.tsv", [row]))


def test_the_layout_is_the_hubs(pair: list[str]) -> None:
    policy, base = Path(pair[1]), Path(pair[3])
    index = read(base / "model.safetensors.index.json")["weight_map"]
    assert len(set(index.values())) > 1
    assert {"model.layers.27.mlp.up_proj.weight", "visual.merger.mlp.0.weight"} <= index.keys()
    settings = read(base / "config.json")
    assert settings["rope_scaling"] == {"type": "mrope", "mrope_section": [8, 12, 12]}
    assert settings["vocab_size"] == 152_064 and "text_config" not in settings
    assert read(policy / "generation_config.json")["repetition_penalty"] == 1.05


@pytest.mark.parametrize("method", METHODS)
def test_run(pair: list[str], photo: str, method: str) -> None:
    assert_replayed(run(pair, photo, method, "deepeyes"), method)


@pytest.mark.parametrize("method", METHODS)
def test_run_of_qwen3_vl(qwen3_pair: list[str], photo: str, method: str) -> None:
    assert_replayed(run(qwen3_pair, photo, method, "qwen3-vl"), method, QWEN3_TOKENS)


@pytest.mark.parametrize("method", METHODS)
def test_eval(pair: list[str], benchmark_file: str, tmp_path: Path, method: str) -> None:
    out = tmp_path / "run"
    visreplay(
        *("eval", "hr-bench-4k", "--data", benchmark_file, "--out", str(out), *pair, *BRIEF),
        *("--replay", method, "--protocol", "boxed"),
    )
    _, sample = (json.loads(line) for line in (out / "run.jsonl").read_text("utf-8").splitlines())
    assert (sample["error"], sample["category"]) == (None, "FSP")
    (rollout,) = sample["rollouts"]
    assert_replayed(rollout["trajectory"], method)


def test_analyze(pair: list[str], benchmark_file: str, tmp_path: Path) -> None:
    # Every token costs 28 products with the head of 152,064 entries, for each system.
    short = tmp_path / "short.toml"
    short.write_text(
        'extends = "boxed"\n[texts]\nsuffix = ""\n[question]\noptions = "{question} {options}"\n',
        "utf-8",
    )
    visreplay(
        *("analyze", "hr-bench-4k", "--data", benchmark_file, "--samples", "1", *pair),
        *("--threshold", "quantile", "--steps", "2", "--out", str(tmp_path)),
        *("--recipe", str(short)),
    )
    report = read(tmp_path / "report.json")
    assert (report["layers"], report["visual"]["tokens"]) == (28, TOKENS)
    assert {"policy", "policy+token", "policy+state"} <= report["visual"]["systems"].keys()


def test_calibrate(pair: list[str], photo: str, tmp_path: Path) -> None:
    out = tmp_path / "theta.json"
    visreplay("calibrate", photo, "--out", str(out), *pair)
    assert read(out)["count"] == TOKENS
    theta, most = load_theta(out), math.log(152_064)
    assert len(theta) == 7 and all(0.5 * most < limit < most for limit in theta)


def test_too_many_layers_are_refused_before_weights_are_read(pair: list[str], photo: str) -> None:
    arguments = ["run", photo, "What is here?", *pair, "--replay-layers", "29"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code != 0
    assert "replay_layers is 29, but the policy has 28 decoder layers" in result.stderr


def run(pair: list[str], photo: str, method: str, protocol: str) -> Any:
    replay = ("--replay", method, "--protocol", protocol)
    return json.loads(visreplay("run", photo, "What is here?", *pair, *BRIEF, *replay, "--json"))


def assert_replayed(record: Any, method: str, tokens: int = TOKENS) -> None:
    (step,) = record["steps"]
    replay = step["replay"]
    assert (replay["method"], replay["new_visual_tokens"]) == (method, tokens)
    assert 0 < replay["kl_after"] < replay["kl_before"]
    assert replay["optimisation_steps"] == (2 if method == "token" else 0)
