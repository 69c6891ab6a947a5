"""Processor files of older releases, of trainers, and those that are missing."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from real_checkpoints import DATA, assemble, read, variant
from real_checkpoints import Checkpoint as Name

from visreplay.replay_core import CheckpointError, ConfigError, PairMismatchError, load_pair
from visreplay.replay_core.checkpoint import Checkpoint
from visreplay.replay_core.processors import choose_processor, pixel_budgets, set_pixel_budget

HUB = (3_136, 12_845_056)
FILE = "preprocessor_config.json"


def policy(
    folder: Path, name: Name = "qwen2.5-vl-7b", *, without: tuple[str, ...] = (), **files: Any
) -> Checkpoint:
    """Assemble a checkpoint, with a vocabulary of two letters: nothing here is tokenised."""
    assemble(folder, name, without=(*without, "merges.txt"), vocab={"a": 0, "b": 1}, **files)
    (folder / "merges.txt").write_text("", "utf-8")
    return Checkpoint.find(str(folder))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return policy(tmp_path_factory.mktemp("base"))


def choose(policy: Checkpoint, base: Checkpoint | None, compare: bool = True) -> Any:
    return choose_processor(policy, policy, base, policy.config(), compare=compare)


def without_template() -> dict[str, Any]:
    settings = read(DATA / "qwen2.5-vl-7b" / "tokenizer_config.json")
    del settings["chat_template"]
    return settings


WITH_IMAGE = "{% for message in messages %}<|image_pad|>{% endfor %}"
OLD_CLASS = f"{FILE} is of an older release; its values are used with Qwen2VLImageProcessor"
OTHER_BUDGET = (
    "prepares images and videos of 3,136 to {} pixels, and {} of 3,136 to 12,845,056 pixels: "
    "the policy's budget is used"
)


@pytest.mark.parametrize(
    ("name", "budget", "note"),
    [
        ("saved-by-trainer", HUB, None),
        ("saved-by-trainer-size-in-pixels", HUB, None),
        ("first-release-class-name", HUB, OLD_CLASS),
        ("other-pixel-budget", (3_136, 501_760), OTHER_BUDGET.format("501,760", "{}")),
        ("size-in-pixels-only", (3_136, 1_003_520), OTHER_BUDGET.format("1,003,520", "{}")),
    ],
)
def test_files_that_fine_tunes_have(
    base: Checkpoint,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    budget: tuple[int, int],
    note: str | None,
) -> None:
    source = policy(tmp_path, preprocessor_config=variant(name))
    processor = choose(source, base)
    assert pixel_budgets(processor) == {"image": budget, "video": budget}
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (note is not None)
    if note is not None:
        assert note.format(base.name) in messages[0] and messages[0].startswith(source.name)
    assert pixel_budgets(choose(source, None)) == {"image": budget, "video": budget}


def test_all_variants_are_tested() -> None:
    tested = {case[0] for case in test_files_that_fine_tunes_have.pytestmark[0].args[1]}  # type: ignore[attr-defined]
    assert {path.stem for path in (DATA / "preprocessor-variants").iterdir()} == tested


def test_an_old_class_keeps_the_policys_own_values(base: Checkpoint, tmp_path: Path) -> None:
    settings = variant("first-release-class-name") | {"max_pixels": 501_760}
    processor = choose(policy(tmp_path, preprocessor_config=settings), base)
    assert pixel_budgets(processor)["image"] == (3_136, 501_760)
    assert list(processor.image_processor.image_mean) == settings["image_mean"]


@pytest.mark.parametrize("content", [None, "{ not JSON", "[]", '{"size": "large"}'])
def test_a_file_that_is_missing_or_unreadable(
    base: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str | None
) -> None:
    source = policy(tmp_path, without=(FILE,))
    if content is not None:
        (Path(source.at) / FILE).write_text(content, "utf-8")
    processor = choose(source, base)
    assert pixel_budgets(processor) == {"image": HUB, "video": HUB}
    (record,) = caplog.records
    reason = f"there is no {FILE}" if content is None else f"{FILE} cannot be read"
    assert record.getMessage() == (
        f"{source.name}: {reason}; the image processor and video processor of {base.name} are used"
    )
    with pytest.raises(CheckpointError, match=rf"{reason}\): name the processor .*--processor"):
        choose(source, None)


def test_a_base_without_a_processor_takes_the_policys(tmp_path: Path, caplog: Any) -> None:
    source, base = policy(tmp_path / "policy"), policy(tmp_path / "base", without=(FILE,))
    assert pixel_budgets(choose(source, base))["image"] == HUB
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{base.name}: there is no {FILE}")
    neither = policy(tmp_path / "neither", without=(FILE,))
    with pytest.raises(CheckpointError, match="cannot read the image processor"):
        choose(neither, base)


def test_a_video_budget_of_its_own_is_kept(tmp_path: Path, caplog: Any) -> None:
    """Without its file, transformers takes the image budget for videos."""
    base = policy(tmp_path / "base", "qwen3-vl-8b")
    source = policy(tmp_path / "policy", "qwen3-vl-8b", without=("video_preprocessor_config.json",))
    assert pixel_budgets(choose(source, base))["video"] == (65_536, 16_777_216)
    (record,) = caplog.records
    assert "prepares videos of 65,536 to 16,777,216 pixels" in record.getMessage()


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"patch_size": 16}, "image patch_size is 16 in the policy and 14 in the base"),
        ({"merge_size": 1}, "image merge_size is 1"),
        ({"temporal_patch_size": 1}, "image temporal_patch_size is 1"),
        ({"image_mean": [0.5, 0.5, 0.5]}, r"image image_mean is \(0.5, 0.5, 0.5\)"),
        ({"image_std": [0.5, 0.5, 0.5]}, r"image image_std is \(0.5, 0.5, 0.5\)"),
    ],
)
def test_what_makes_other_features_is_refused(
    base: Checkpoint, tmp_path: Path, changes: dict[str, Any], difference: str
) -> None:
    source = policy(tmp_path, preprocessor_config=variant("saved-by-trainer") | changes)
    with pytest.raises(PairMismatchError, match=rf"{difference}.*; if it is, name .*--processor"):
        choose(source, base)
    assert choose(source, base, compare=False)


def test_a_template_of_the_tokenizer_counts(base: Checkpoint, tmp_path: Path, caplog: Any) -> None:
    settings = without_template() | {"chat_template": WITH_IMAGE}
    source = policy(tmp_path, without=("chat_template.json",), tokenizer_config=settings)
    assert choose(source, base).chat_template == WITH_IMAGE
    assert not caplog.records


def test_then_the_bases_template_and_else_none(
    base: Checkpoint, tmp_path: Path, caplog: Any
) -> None:
    source = policy(tmp_path, without=("chat_template.json",), tokenizer_config=without_template())
    assert choose(source, base).chat_template == choose(base, None).chat_template
    (record,) = caplog.records
    assert record.getMessage() == f"{source.name} has no chat template; that of {base.name} is used"
    with pytest.raises(CheckpointError, match=r"no chat template .*tokenizer_config.json.*add one"):
        choose(source, None)


@pytest.mark.parametrize(
    "template",
    [
        "{% for message in messages %}{{ message.content }}{% endfor %}",
        "{% for message in messages %}{{ '<user>' + message.content }}{% endfor %}",
        "{{ raise_exception('text alone') }}",
        [{"name": "tool_use", "template": WITH_IMAGE}],
    ],
)
def test_a_template_without_a_place_for_images_is_none(
    base: Checkpoint, tmp_path: Path, caplog: Any, template: Any
) -> None:
    settings = without_template() | {"chat_template": template}
    source = policy(tmp_path, without=("chat_template.json",), tokenizer_config=settings)
    assert choose(source, base).chat_template == choose(base, None).chat_template
    (record,) = caplog.records
    assert f"has a chat template for text alone; that of {base.name} is used" in record.getMessage()
    with pytest.raises(CheckpointError, match=r"has a chat template for text alone .*add one"):
        choose(source, None)


def test_a_checkpoint_without_a_tokenizer_takes_the_bases(
    base: Checkpoint, tmp_path: Path, caplog: Any
) -> None:
    """transformers makes an empty tokenizer where there are no files for one."""
    source = policy(tmp_path)
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / file).unlink()
    vocabulary = choose(base, None).tokenizer.get_vocab()
    assert choose(source, base).tokenizer.get_vocab() == vocabulary
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{source.name}: the files of its tokenizer are missing or cannot be read; "
        f"the tokenizer of {base.name} is used"
    )
    with pytest.raises(CheckpointError, match="cannot read the tokenizer of"):
        choose(source, None)


def test_a_policy_with_tokens_of_its_own(base: Checkpoint, tmp_path: Path) -> None:
    source = policy(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "c": 2}', "utf-8")
    with pytest.raises(PairMismatchError, match="if it is, use the base's processor"):
        choose(source, base)
    chosen = choose_processor(base, source, base, source.config(), compare=False)
    assert "c" not in chosen.tokenizer.get_vocab()


def test_an_image_processor_of_another_family_is_refused(base: Checkpoint, tmp_path: Path) -> None:
    settings = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224}}
    source = policy(tmp_path, preprocessor_config=settings)
    rule = f"{FILE} of .* names a CLIPImageProcessor.* does not prepare images for a qwen2_5_vl"
    for other in (None, base):
        with pytest.raises(CheckpointError, match=rule):
            choose(source, other)


def test_a_named_processor_takes_what_it_lacks_from_the_policy(tmp_path: Path, caplog: Any) -> None:
    whole, source = policy(tmp_path / "policy"), policy(tmp_path / "other", without=(FILE,))
    processor = choose_processor(source, whole, None, whole.config(), compare=False)
    assert pixel_budgets(processor)["image"] == HUB
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_all_of_that_is_checked_before_weights_are_read(base: Checkpoint, tmp_path: Path) -> None:
    """There are no weights in these folders at all."""
    bare = policy(tmp_path / "a", without=(FILE,))
    with pytest.raises(CheckpointError, match="cannot read the image processor"):
        load_pair(bare.at, device="cpu")
    whole = policy(tmp_path / "b")
    pair = (whole.at, base.at)
    with pytest.raises(ConfigError, match="replay_layers is 29, but the policy has 28"):
        load_pair(*pair, replay_layers=29, device="cpu")
    with pytest.raises(ConfigError, match=r"replay_layers is -1, but .* choose 0 to 28"):
        load_pair(*pair, replay_layers=-1, device="cpu")
    with pytest.raises(ConfigError, match="replay_layers is 16, but the base has 2"):
        load_pair(*pair, replay="token", replay_layers=2, device="cpu")
    with pytest.raises(ConfigError, match="dtype is 'float99', but must be 'auto' or a type"):
        load_pair(*pair, dtype="float99", device="cpu")
    with pytest.raises(ConfigError, match="the pixel budget is 9 to 5"):
        load_pair(*pair, min_pixels=9, max_pixels=5, device="cpu")
    with pytest.raises(CheckpointError, match=r"no file named model\.safetensors"):
        load_pair(*pair, device="cpu")


def test_a_pixel_budget_of_the_caller(base: Checkpoint) -> None:
    processor = choose(base, None)
    set_pixel_budget(processor, max_pixels=501_760)
    assert pixel_budgets(processor) == {"image": (3_136, 501_760), "video": HUB}
    set_pixel_budget(processor, 200_704, 1_003_520)
    assert pixel_budgets(processor)["image"] == (200_704, 1_003_520)
    for budget in ((0, None), (-1, None), (1_003_521, None), (None, 783), (900, 800)):
        with pytest.raises(ConfigError, match=r"pixel budget is .*one visual token of 784 pixels"):
            set_pixel_budget(processor, *budget)
    assert pixel_budgets(processor)["image"] == (200_704, 1_003_520)


def test_processors_without_a_budget(base: Checkpoint) -> None:
    class Tiles:
        image_processor = object()

    with pytest.raises(ConfigError, match="has no pixel budget: leave them out"):
        set_pixel_budget(Tiles(), max_pixels=501_760)
    set_pixel_budget(Tiles())


def test_the_default_of_a_budget_that_names_one_edge(base: Checkpoint, tmp_path: Path) -> None:
    settings = json.loads((Path(base.at) / FILE).read_text("utf-8"))
    del settings["min_pixels"], settings["max_pixels"]
    source = policy(tmp_path, preprocessor_config=settings | {"size": {"longest_edge": 501_760}})
    assert pixel_budgets(choose(source, None))["image"] == (3_136, 501_760)
