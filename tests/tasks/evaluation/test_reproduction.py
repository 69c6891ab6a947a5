import json
import re
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, cast

import pytest
from records import SETTINGS, record

from visreplay.agent.policy.sampling import SAMPLING_FIELDS, Sampling
from visreplay.agent.protocols import choose_recipe, load_recipe
from visreplay.replay_core.config import Method, ReplayConfig, Side
from visreplay.tasks.evaluation.paper import BENCHMARKS, FIGURES, PAPER_REPLAY, paper_replay
from visreplay.tasks.evaluation.reproduction import (
    OF_STATE_REPLAY,
    OF_TOKEN_REPLAY,
    WITHOUT_EFFECT,
    benchmark_of,
    closest_figure,
    differences,
)
from visreplay.tasks.evaluation.runs import Run, SampleRecord
from visreplay.tasks.registry import TASK_INFOS

GENERATION = Path(__file__).parents[2] / "data" / "qwen2.5-vl-7b" / "generation_config.json"


def replay_of(config: ReplayConfig, **changes: Any) -> dict[str, Any]:
    """The settings of a replay as a run records them."""
    return {**asdict(config), "alignment": "reference", **changes}


def greedy(tokens: int, **changes: Any) -> dict[str, Any]:
    return {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": tokens, **changes}


MATHVERSE = {
    "sampling": greedy(2048),
    "task": "mathverse",
    "data": "MathVerse_MINI_Vision_Only.tsv",
    "policy": "TIGER-Lab/VL-Rethinker-7B",
    "protocol": "boxed",
    "replay": replay_of(ReplayConfig.paper(replay_layers=24)),
}
HR_BENCH = {"sampling": greedy(8192), "replay": replay_of(ReplayConfig.paper(Method.STATE))}


def run_with(samples: int, *, category: str | None = None, **settings: Any) -> Run:
    records = {str(n): record(str(n), True, category=category) for n in range(samples)}
    return Run(Path("run"), {**SETTINGS, **settings}, cast(dict[str, SampleRecord], records))


def compared(run: Run) -> tuple[float, list[str]]:
    """The closest figure, and how the run differs from it."""
    benchmark = benchmark_of(run.settings)
    assert benchmark is not None
    figure = closest_figure(run, benchmark)
    assert figure is not None
    return figure.percent, differences(run, figure)


def mathverse(**changes: Any) -> tuple[float, list[str]]:
    return compared(run_with(788, **{**MATHVERSE, **changes}))


def hr_bench(**changes: Any) -> tuple[float, list[str]]:
    return compared(run_with(400, category="FCP", **{**HR_BENCH, **changes}))


def test_the_paper_s_own_runs() -> None:
    assert mathverse() == (49.2, [])
    assert hr_bench() == (56.3, [])
    assert hr_bench(replay={"method": "none"}) == (53.7, [])
    assert mathverse(replay={"method": "none"}) == (47.0, [])


def test_no_run_of_the_base_is_known_to_be_the_paper_s() -> None:
    base = {"policy": "Qwen/Qwen2.5-VL-7B-Instruct", "replay": {"method": "none"}}
    for figure, reasons in (mathverse(**base), hr_bench(**base)):
        assert figure in (41.1, 52.2)
        assert reasons[0] == "how the base was asked (prompt, tools, decoding) is not published"


BOXED = {"protocol": "boxed", "sampling": greedy(2048)}
TOKEN = MATHVERSE["replay"]
STATE = HR_BENCH["replay"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"replay": {**TOKEN, "alignment": "same"}}, "alignment reference (here same)"),
        ({"replay": {**TOKEN, "side": "high"}}, "side low (here high)"),
        ({"replay": {**TOKEN, "swap_roles": True}}, "swap-roles False (here True)"),
        ({"replay": {**TOKEN, "teacher": "window"}}, "teacher base (here window)"),
        ({"replay": {**TOKEN, "entry_layer": 15}}, "entry-layer 0 (here 15)"),
        ({"replay": {**TOKEN, "replay_layers": 16}}, "replay-layers 24 (here 16)"),
        ({"replay": {**TOKEN, "steps": 10}}, "steps 25 (here 10)"),
        ({"replay": {**TOKEN, "learning_rate": 20.0}}, "learning-rate 10.0 (here 20.0)"),
        ({"replay": {**TOKEN, "learning_rate": 10.0}}, None),
        ({"replay": {**TOKEN, "memory_bytes": 1}}, None),
        ({"replay": {**TOKEN, "state_layers": 1}}, None),
        ({"base": "runs/other-base"}, "base Qwen2.5-VL-7B-Instruct (here other-base)"),
        ({"protocol": "hermes"}, "protocol boxed (here hermes)"),
        ({"rollouts": 8}, "rollouts 1 (here 8)"),
        ({"recipe": {"tools": False}}, "tools all (here none)"),
        ({"sampling": greedy(2048, temperature=1.0)}, "temperature 0 (here 1.0)"),
        ({"sampling": greedy(2048, temperature=1e-6)}, None),
        ({"sampling": greedy(2048, temperature=1.0, top_k=1)}, None),
        ({"sampling": greedy(2048, temperature=None)}, "temperature 0 (here None)"),
        ({"sampling": greedy(64)}, "max-new-tokens 2048 (here 64)"),
        (
            {"sampling": greedy(2048, repetition_penalty=1.05)},
            "repetition-penalty 1.0 (here 1.05)",
        ),
        ({"sampling": greedy(2048, repetition_penalty=1.0)}, None),
        (
            {"recipe": {"pixels": {"image": {"min": None, "max": None}}}},
            "image pixels 200,704 to 1,003,520 (here as the processor has them)",
        ),
        (
            {"recipe": {"pixels": {"image": {"min": 1, "max": None}}}},
            "image pixels 200,704 to 1,003,520 (here 1 or more)",
        ),
        ({"recipe": {"pixels": {"image": {"min": 200_704, "max": 1_003_520}}}}, None),
        (
            {"recipe": {"expects": ["suffix"]}},
            "texts of the checkpoint's training (here another suffix)",
        ),
        ({"limits": {"max_steps": 1}}, None),
    ],
)
def test_each_setting_of_token_replay_counts(changes: dict[str, Any], reason: str | None) -> None:
    assert mathverse(**changes) == (49.2, [] if reason is None else [reason])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"replay": TOKEN}, "replay state (here token)"),
        ({"replay": {**STATE, "threshold": "relative"}}, "threshold absolute (here relative)"),
        ({"replay": {**STATE, "state_layers": 3}}, "state-layers 7 (here 3)"),
        ({"replay": {**STATE, "tau": 0.9}}, None),
        ({"replay": {**STATE, "theta": list(ReplayConfig().limits)}}, None),
        ({"replay": {**STATE, "steps": 3}}, None),
        ({"limits": {"max_steps": 1}}, "turns 11 (here 1)"),
        ({"limits": {"max_steps": None}, "recipe": {"limits": {"max_steps": 11}}}, None),
        ({"recipe": {"limits": {"max_steps": 6}}}, "turns 11 (here 6)"),
        ({"sampling": greedy(8192, repetition_penalty=1.05)}, None),
    ],
)
def test_each_setting_of_state_replay_counts(changes: dict[str, Any], reason: str | None) -> None:
    assert hr_bench(**changes) == (56.3, [] if reason is None else [reason])
    other = hr_bench(replay={**STATE, "theta": [1.0] * 7})[1]
    assert len(other) == 1 and other[0].startswith("theta [4.812, ")


def test_state_replay_for_mathematics_is_table_1_whose_limits_nobody_knows() -> None:
    assert mathverse(replay=STATE) == (47.5, ["its entropy limits are not published"])
    high = {**STATE, "side": "high"}
    assert mathverse(replay=high) == (44.4, ["its entropy limits are not published"])


def test_a_new_setting_of_replay_is_compared() -> None:
    of_one_method = OF_TOKEN_REPLAY | OF_STATE_REPLAY
    for field in fields(ReplayConfig):
        if field.name in WITHOUT_EFFECT | of_one_method | {"method", "theta", "tau"}:
            continue
        reasons = hr_bench(replay={**STATE, field.name: "another"})[1]
        assert any(field.name.replace("_", "-") in reason for reason in reasons), field.name


def test_a_run_from_before_the_alignment_was_an_option_is_of_the_same_depth() -> None:
    old = {name: value for name, value in STATE.items() if name != "alignment"}
    assert hr_bench(replay=old) == (56.3, ["alignment reference (here same)"])


def test_the_default_rate_is_the_one_that_the_run_had() -> None:
    adam = replay_of(ReplayConfig(replay_layers=24))
    assert "learning-rate 10.0 (here 0.02)" in mathverse(replay=adam)[1]
    old = {name: value for name, value in adam.items() if name != "plateau"}
    assert "learning-rate 10.0 (here 0.01)" in mathverse(replay=old)[1]


VIDEO_HOLMES = {
    "task": "video-holmes",
    "data": "test_Video-Holmes.json",
    "policy": "Video-R1/Video-R1-7B",
    "protocol": "video-r1",
    "sampling": greedy(2048, repetition_penalty=1.05),
    "replay": STATE,
}


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({}, []),
        ({"frames": {"count": 8, "choice": "ends"}}, ["frames 16 (here 8)"]),
        ({"frames": {"count": 16, "choice": "middles"}}, ["choice of frames ends (here middles)"]),
        (
            {"pixels": {"image": {"min": None, "max": None}, "frame": {"min": 1, "max": 9_999}}},
            ["frame pixels 100,352 to 200,704 (here 1 to 9,999)"],
        ),
    ],
)
def test_the_frames_of_a_video_count(changes: dict[str, Any], reasons: list[str]) -> None:
    recipe = {**load_recipe("video-r1").to_table(), "expects": [], **changes}
    assert compared(run_with(1837, **VIDEO_HOLMES, recipe=recipe)) == (40.9, reasons)


@pytest.mark.parametrize("policy", PAPER_REPLAY)
def test_the_option_paper_with_the_texts_of_the_training_gives_the_paper_s_run(policy: str) -> None:
    # What `eval --paper` records with the recipe that ships, and a checkpoint like the base.
    figure = next(
        each for each in FIGURES if each.policy == policy and each.replay.method != "none"
    )
    recipe = choose_recipe(f"owner/{policy}")
    published = json.loads(GENERATION.read_text("utf-8"))
    checkpoint = {name: published[name] for name in SAMPLING_FIELDS if name in published}
    # The rows for mathematics were decoded by the released code's own settings.
    own = Sampling(repetition_penalty=1.0 if recipe.protocol == "boxed" else None)
    changes = {"learning_rate": 40.0, "tau": 0.2} if policy == "MM-Eureka-Qwen-7B" else {}
    run = run_with(
        figure.benchmark.samples,
        category=figure.benchmark.category,
        task=figure.benchmark.label,
        data=f"{min(figure.benchmark.names)}.tsv",
        policy=f"owner/{policy}",
        base=f"Qwen/{figure.base}",
        protocol=recipe.protocol,
        recipe={**recipe.to_table(), "expects": []},
        limits={"max_steps": None},
        sampling=asdict(own.resolved(recipe.decoding, Sampling(**checkpoint))),
        replay=asdict(replace(paper_replay(f"owner/{policy}"), **changes)),
    )
    assert compared(run) == (figure.percent, [])


def test_a_part_of_a_benchmark_is_another_run() -> None:
    part = run_with(50, category="FCP", **HR_BENCH)
    assert compared(part) == (56.3, ["samples 400 (here 50)"])


def test_only_the_published_split_of_mmmu_counts() -> None:
    run = run_with(1050, task="mmmu", data="MMMU_DEV_VAL.tsv", policy="MMR1-Math-v0-7B", **BOXED)
    for number, each in enumerate(run.records.values()):
        each["split"] = "dev" if number < 150 else "validation"
    assert compared(run) == (56.7, [])
    run.records.pop("1049")
    assert compared(run) == (56.7, ["samples of the split val 900 (here 899)"])


def test_some_figures_are_of_no_run_at_all() -> None:
    probe = run_with(268, task="visual-probe-medium", data="VisualProbe_Medium.json", **HR_BENCH)
    percent, (reason,) = compared(probe)
    assert percent == 84.7 and "first capital letter" in reason
    boxed = {**BOXED, "policy": "MM-Eureka-Qwen-7B"}
    for file in ("MMMU_Pro_10c", "MMMU_Pro_V"):
        pro = run_with(1730, task="image-qa", data=f"data/{file}.tsv", **boxed)
        percent, (reason,) = compared(pro)
        assert percent == 39.5 and "ten options" in reason


def test_we_math_needs_its_strict_score() -> None:
    boxed = {**BOXED, "policy": "MM-Eureka-Qwen-7B"}
    assert compared(run_with(1740, task="we-math", data="WeMath.tsv", **boxed)) == (36.8, [])
    run = run_with(1740, task="image-qa", data="WeMath.tsv", **boxed)
    assert compared(run) == (36.8, ["task we-math with its strict score (here image-qa)"])


def test_the_cells_of_table_5_are_told_apart() -> None:
    for tau, rate, percent in ((0.2, 40.0, 47.7), (0.4, 10.0, 47.1), (0.2, 20.0, 46.1)):
        replay = replay_of(ReplayConfig.paper(tau=tau, learning_rate=rate))
        run = run_with(788, **{**MATHVERSE, "policy": "MM-Eureka-Qwen-7B", "replay": replay})
        assert compared(run) == (percent, [])


def test_a_policy_whose_layers_are_not_published_may_have_any() -> None:
    for layers in (16, 20):
        replay = replay_of(ReplayConfig.paper(replay_layers=layers))
        assert mathverse(policy="MMR1/MMR1-Math-v0-7B", replay=replay) == (43.3, [])


def test_figures_are_found_by_task_or_file() -> None:
    benchmark = benchmark_of({"task": "image-qa", "data": "data/MathVerse_MINI_Vision_Only.tsv"})
    assert benchmark is not None and benchmark.label == "MathVerse(VO)"
    assert benchmark_of({"task": "visual-search-easy", "data": None}) is None
    assert closest_figure(run_with(1, policy="some/other"), benchmark) is None
    video = benchmark_of({"task": "video-mmmu", "data": "videommmu.json"})
    assert video is not None and video.label == "VideoMMMU"


def test_categories_of_the_paper_match_those_of_the_data_sets() -> None:
    parts = {each.label: each for each in BENCHMARKS}
    assert parts["HR-Bench 4K FCP"].covers("FCP", None)
    assert not parts["HR-Bench 4K FCP"].covers("FSP", None)
    assert parts["MMVU(mc)"].covers("multiple-choice", None)
    assert not parts["MMVU(mc)"].covers("open-ended", None)
    assert parts["MMMU"].covers("Art", "validation") and not parts["MMMU"].covers("Art", "dev")


def test_the_benchmarks_of_the_paper_are_tasks() -> None:
    tasks = {re.sub("[^a-z0-9]", "", entry.name) for entry in TASK_INFOS}
    for benchmark in BENCHMARKS:
        # The vision-only part of MathVerse is a file of the task mathverse.
        assert benchmark.names & tasks or benchmark.label == "MathVerse(VO)", benchmark.label


def test_the_only_loss_of_the_main_tables() -> None:
    plain = {
        (each.policy, each.benchmark.label): each.percent
        for each in FIGURES
        if each.replay.method is Method.NONE
    }
    losses = [
        (each.policy, each.benchmark.label)
        for each in FIGURES
        if each.replay.side is Side.LOW
        and each.table not in ("Table 1", "Table 5")
        and each.percent < plain[each.policy, each.benchmark.label]
    ]
    assert losses == [("MM-Eureka-Qwen-32B", "DynaMath")]


def test_each_policy_has_the_replay_of_its_row() -> None:
    assert paper_replay("ChenShawn/DeepEyes-7B").method is Method.STATE
    assert paper_replay("TIGER-Lab/VL-Rethinker-7B").replay_layers == 24
    assert paper_replay("/data/MM-Eureka-Qwen-7B").replay_layers == 16
    assert {each.policy for each in FIGURES} - PAPER_REPLAY.keys() == {"Qwen2.5-VL-7B-Instruct"}
    with pytest.raises(ValueError, match="no row of 'embedded'"):
        paper_replay("embedded")
