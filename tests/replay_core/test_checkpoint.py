"""Files of a checkpoint that are malformed, or that ask for code."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tampered import CODE, copied

from visreplay.replay_core import (
    EMBEDDED,
    CheckpointError,
    ContextError,
    ModelPair,
    ReplayError,
    ReplaySession,
    UnsupportedModelError,
    load_pair,
)

OWN = {"AutoConfig": "evil.Evil", "AutoModelForImageTextToText": "evil.Evil"}
CASES: dict[str, dict[str, Any]] = {
    "model": {"config": {"model_type": "evil", "auto_map": OWN}},
    "model on the hub": {
        "config": {"model_type": "evil", "auto_map": {"AutoConfig": "owner/evil--evil.Evil"}}
    },
    "processor": {
        "processor_config": {
            "processor_class": "EvilProcessor",
            "auto_map": {"AutoProcessor": "evil.Evil"},
        }
    },
    "processor, by its tokenizer": {
        "processor_config": {"processor_class": None},
        "tokenizer_config": {
            "processor_class": "EvilProcessor",
            "auto_map": {"AutoProcessor": "evil.Evil"},
        },
    },
}


@pytest.fixture
def no_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say yes to whatever is asked on standard input, and make it an error."""

    def answer(prompt: str = "") -> str:
        asked.append(prompt)
        return "y"

    asked: list[str] = []
    monkeypatch.setattr("builtins.input", answer)
    yield  # type: ignore[misc]
    assert not asked


def load(folder: Path, **options: Any) -> ModelPair:
    return load_pair(str(folder), replay="none", device="cpu", **options)


def with_code(folder: Path, **changes: Any) -> Path:
    copied(EMBEDDED / "policy", folder, **changes)
    (folder / "evil.py").write_text(CODE, "utf-8")
    return folder


@pytest.mark.usefixtures("no_prompt")
@pytest.mark.parametrize("case", CASES)
def test_code_of_a_checkpoint_is_refused_by_its_class_and_file(tmp_path: Path, case: str) -> None:
    changes = CASES[case]
    folder = with_code(tmp_path / "copy", **changes)
    file = next(f"{name}.json" for name, keys in changes.items() if "auto_map" in keys)
    message = (
        rf"Python code of its own \(.*evil\.Evil' in {file}.*\), .*is never run: .*--processor"
    )
    with pytest.raises(UnsupportedModelError, match=message):
        load(folder)
    assert not (folder / "was-run").exists() and "evil" not in sys.modules


@pytest.mark.usefixtures("no_prompt")
@pytest.mark.parametrize(
    "changes",
    [
        {"config": {"auto_map": OWN}},
        {"processor_config": {"auto_map": {"AutoProcessor": "evil.Evil"}}},
        {"tokenizer_config": {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}},
        {"tokenizer_config": {"auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}},
        {"preprocessor_config": {"auto_map": {"AutoImageProcessor": "evil.Evil"}}},
    ],
    ids=["model", "processor", "tokenizer", "fast tokenizer", "image processor"],
)
def test_code_beside_a_class_of_transformers_is_left_alone(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = with_code(tmp_path / "copy", **changes)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(CODE, "utf-8")
    assert load(folder).generate("?", replay="none", max_new_tokens=1).token_ids
    assert not list(folder.rglob("was-run"))


@pytest.mark.usefixtures("no_prompt")
def test_code_of_a_processor_for_both(tmp_path: Path) -> None:
    folder = with_code(tmp_path / "copy", **CASES["processor"])
    for path in (folder / "config.json", folder / "model.safetensors"):
        path.unlink()
    with pytest.raises(UnsupportedModelError, match=r"'evil\.Evil' in processor_config\.json"):
        load(EMBEDDED / "policy", processor=str(folder))
    assert not (folder / "was-run").exists()


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '"x"', DEEP, '{"a":' * 100_000, "\ufeff{}"], ids=range(8)
)
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_a_file_that_holds_no_object(tmp_path: Path, file: str, content: str) -> None:
    folder = copied(EMBEDDED / "policy", tmp_path / "copy")
    (folder / file).write_text(content, "utf-8")
    with pytest.raises(CheckpointError, match=rf"cannot read {file} of the checkpoint"):
        load(folder)


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    folder = copied(EMBEDDED / "policy", tmp_path / "copy")
    (folder / "config.json").write_bytes(b'{"model_type": "\xff\xfe"}')
    with pytest.raises(CheckpointError, match=r"cannot read config\.json of the checkpoint"):
        load(folder)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("text_config", "num_hidden_layers", "4"),
        ("text_config", "num_hidden_layers", 0),
        ("text_config", "num_hidden_layers", None),
        ("text_config", "hidden_size", -128),
        ("text_config", "vocab_size", 12.5),
        ("text_config", "hidden_act", "nothing"),
        ("text_config", "rms_norm_eps", "small"),
        ("text_config", "rope_parameters", [1]),
        ("text_config", "rope_parameters", {"rope_type": "default", "rope_theta": 10**400}),
        ("text_config", "rope_parameters", {"rope_type": "nothing", "rope_theta": 1.0}),
        ("text_config", "layer_types", ["full_attention"]),
        ("text_config", "num_attention_heads", 3),
        ("text_config", "num_key_value_heads", 0),
        ("text_config", "intermediate_size", 100),
        ("vision_config", "depth", "2"),
        ("vision_config", "num_heads", 0),
        ("vision_config", "patch_size", 7),
        ("vision_config", "window_size", 0),
        ("vision_config", "spatial_merge_size", 1),
        ("text_config", "num_labels", 10**18),
        ("vision_config", "num_labels", 10**9),
        (None, "num_labels", 10**9),
        (None, "text_config", "x"),
        (None, "text_config", None),
        (None, "vision_config", []),
        (None, "dtype", "float99"),
        (None, "dtype", 7),
        (None, "image_token_id", "<|image_pad|>"),
        (None, "image_token_id", 10**9),
        (None, "model_type", None),
        (None, "model_type", ["qwen2_5_vl"]),
    ],
)
def test_a_configuration_that_fails_its_checks(
    tmp_path: Path, part: str | None, name: str, value: Any
) -> None:
    settings = json.loads((EMBEDDED / "policy" / "config.json").read_text("utf-8"))
    changed = {name: value} if part is None else {part: {**settings[part], name: value}}
    folder = copied(EMBEDDED / "policy", tmp_path / "copy", config=changed)
    with pytest.raises(ReplayError) as caught:
        load(folder)
    assert isinstance(caught.value, CheckpointError | UnsupportedModelError)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("text_config", "num_hidden_layers"),
        ("vision_config", "depth"),
        ("text_config", "num_labels"),
        (None, "num_labels"),
    ],
)
def test_a_billion_layers_or_classes_without_files_of_weights(
    tmp_path: Path, part: str | None, name: str
) -> None:
    """They are refused before lists are made of them, also where the weights are not here yet."""
    settings = json.loads((EMBEDDED / "policy" / "config.json").read_text("utf-8"))
    changed = {name: 10**9} if part is None else {part: {**settings[part], name: 10**9}}
    folder = copied(EMBEDDED / "policy", tmp_path / "copy", config=changed)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=f"{name} is 1000000000, but must be at most 10000"):
        load(folder)


@pytest.mark.parametrize(
    "value", ["flash_attention_2", "eager", "kernels-community/x", "owner/x", "nothing"]
)
@pytest.mark.parametrize("part", [None, "text_config"])
def test_how_attention_was_computed_elsewhere_does_not_matter(
    tmp_path: Path, part: str | None, value: str
) -> None:
    settings = json.loads((EMBEDDED / "policy" / "config.json").read_text("utf-8"))
    own = {"_attn_implementation": value, "attn_implementation": value}
    changed = own if part is None else {part: {**settings[part], **own}}
    folder = copied(EMBEDDED / "policy", tmp_path / "copy", config=changed)
    model = load(folder).policy.model
    assert model.config._attn_implementation == "sdpa"
    assert model.config.get_text_config()._attn_implementation == "sdpa"
    eager = load(folder, attn_implementation="eager").policy.model
    assert eager.config.get_text_config()._attn_implementation == "eager"


def test_a_tokenizer_whose_added_tokens_have_no_text(tmp_path: Path) -> None:
    folder = copied(EMBEDDED / "policy", tmp_path / "copy")
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    del content["added_tokens"][0]["content"]
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(CheckpointError, match=r"cannot read a small picture .*the tokenizer"):
        load(folder)


def test_a_template_that_raises_later_on(tmp_path: Path) -> None:
    folder = copied(EMBEDDED / "policy", tmp_path / "copy")
    template = folder / "chat_template.jinja"
    text = template.read_text("utf-8")
    own = "{% if messages|length > 1 %}{{ raise_exception('one turn alone') }}{% endif %}"
    template.write_text(own + text, "utf-8")
    with ReplaySession(load(folder), "none") as session:
        session.append("?")
        session.generate(max_new_tokens=1)
        with pytest.raises(ContextError, match=r"cannot render the conversation .*one turn alone"):
            session.append("And now?")
    template.write_text("{{ 1 / 0 }}" + text, "utf-8")
    with pytest.raises(CheckpointError, match="has a chat template for text alone"):
        load(folder)


def test_half_of_a_surrogate_pair_is_refused(embedded_pair: ModelPair) -> None:
    with pytest.raises(ContextError, match=r"holds '\\udcff', half of a surrogate pair"):
        embedded_pair.generate("what \udcff?", replay="none", max_new_tokens=1)


def test_options_of_transformers_are_named_where_they_fail() -> None:
    with pytest.raises(CheckpointError, match=r"the weights \(attn_implementation='nothing'\)"):
        load(EMBEDDED / "policy", attn_implementation="nothing")
