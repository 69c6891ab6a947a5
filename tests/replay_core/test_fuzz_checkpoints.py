"""Whatever the JSON of a checkpoint says, it loads and answers, or is refused by one error.

`make fuzz` tries far more.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import builders
import pytest
from fuzzing import fuzzing
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from replay_cases import adapted, save
from tampered import copied

from visreplay.replay_core import EMBEDDED, ReplayConfig, ReplayError, load_pair

FUZZING = fuzzing(25, 3000)
# transformers warns of much that it then takes.
pytestmark = pytest.mark.filterwarnings("ignore")

FILES = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "model.safetensors.index.json",
)
PICTURE = Image.effect_noise((60, 40), 90).convert("RGB")

NUMBERS = st.sampled_from([0, 1, 2, 3, 7, -1, 0.5, -0.0, 1e-300, 1e308, 10**9, 10**18, 10**400])
TEXTS = st.sampled_from(
    ["", "x", "0", "\ud800", "../../x", "<|image_pad|>", "{{ 1 / 0 }}", "sdpa", "float16", "cuda"]
)
ODD = (
    NUMBERS
    | TEXTS
    | st.sampled_from([float("nan"), float("inf"), None, True, False, [], {}, [[]], [None]])
    | st.lists(NUMBERS | TEXTS, max_size=4)
    | st.dictionaries(TEXTS, NUMBERS | TEXTS, max_size=2)
)
KEYS = st.sampled_from(
    [
        *("auto_map", "quantization_config", "_attn_implementation", "attn_implementation"),
        *("dtype", "torch_dtype", "num_labels", "transformers_weights", "tie_word_embeddings"),
        *("chat_template", "added_tokens_decoder", "model_max_length", "architectures", "\ud800"),
        *("rope_scaling", "rope_theta", "output_attentions", "return_dict", "repetition_penalty"),
    ]
)


def altered(draw: st.DrawFn, content: Any) -> Any:
    """Change one value, somewhere in a JSON value."""
    inner = isinstance(content, dict | list) and content and draw(st.integers(0, 5))
    if not inner:
        if isinstance(content, dict) and draw(st.booleans()):
            return {**content, draw(KEYS): draw(ODD)}
        return draw(ODD)
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    key = draw(st.sampled_from(keys))
    if not draw(st.integers(0, 5)):
        rest = [each for each in keys if each != key]
        kept = {each: content[each] for each in rest}
        return kept if isinstance(content, dict) else list(kept.values())
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[key] = altered(draw, content[key])
    return copy


@st.composite
def changes(draw: st.DrawFn, files: dict[str, str]) -> dict[str, bytes]:
    """Other contents for one or two JSON files of a checkpoint."""
    changed = {}
    for name in draw(st.lists(st.sampled_from(sorted(files)), min_size=1, max_size=2)):
        if draw(st.integers(0, 7)):
            content = json.loads(files[name])
            changed[name] = json.dumps(altered(draw, content)).encode()
        else:
            raw = files[name].encode()
            place = draw(st.integers(0, len(raw)))
            noise = draw(st.sampled_from([b"", b"\xff", b"{", b"]", b'"', b"[" * 5000]))
            changed[name] = raw[:place] + noise + raw[place + draw(st.integers(0, 3)) :]
    return changed


def json_files(folder: Path, names: tuple[str, ...] = FILES) -> dict[str, str]:
    return {name: (folder / name).read_text("utf-8") for name in names if (folder / name).exists()}


@pytest.fixture(scope="module")
def random_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(save(tmp_path_factory.mktemp("base"), builders.model()))


@pytest.fixture(scope="module")
def adapter(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    peft_model = adapted(target_modules=["q_proj", "qkv"])
    peft_model.peft_config["default"].base_model_name_or_path = str(random_base)
    peft_model.save_pretrained(str(folder))
    return folder


def check(source: Path, changed: dict[str, bytes], base: str | None, replay: ReplayConfig) -> None:
    """Load a copy with other files, and ask it; every error is one of the package."""
    with TemporaryDirectory() as folder:
        copy = copied(source, Path(folder) / "copy")
        for name, content in changed.items():
            (copy / name).write_bytes(content)
        try:
            pair = load_pair(str(copy), base, device="cpu")
            answer = pair.generate("?", [PICTURE], replay=replay, max_new_tokens=2)
        except ReplayError as error:
            assert str(error).strip()
        else:
            assert answer.token_ids


STATE = ReplayConfig("state", state_layers=1, threshold="quantile")  # type: ignore[arg-type]


@given(st.data())
@FUZZING
def test_the_embedded_policy(data: st.DataObject) -> None:
    changed = data.draw(changes(json_files(EMBEDDED / "policy")))
    check(EMBEDDED / "policy", changed, str(EMBEDDED / "base"), STATE)


@given(st.data())
@FUZZING
def test_a_random_checkpoint_in_shards(random_base: Path, data: st.DataObject) -> None:
    changed = data.draw(changes(json_files(random_base)))
    check(random_base, changed, None, ReplayConfig("none"))  # type: ignore[arg-type]


@given(st.data())
@FUZZING
def test_an_adapter(adapter: Path, data: st.DataObject) -> None:
    changed = data.draw(changes(json_files(adapter, ("adapter_config.json",))))
    check(adapter, changed, None, STATE)
