"""Write a random policy and base in the layout of the hub's checkpoints.

    python recipes/random_checkpoint.py --files DIR --out DIR [--layers 28 --hidden 256]

`--files` is a folder with everything of a real Qwen2.5-VL or Qwen3-VL checkpoint but its weights:
configuration, tokenizer, chat template and processor. `tests/data` has two. They are copied, with
the sizes changed in `config.json`, and random weights are written beside them under the names that
the hub's files have, in shards with an index. Without sizes, the checkpoint has the real ones.

The base is random; the policy is the base with noise on its language model, as training would
leave it, and with the same vision tower. Such a pair loads, runs and takes memory and time like a
real one of its size. What it writes means nothing.
"""

import argparse
import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel


def write_pair(
    files: Path,
    out: Path,
    *,
    layers: int | None = None,
    hidden: int | None = None,
    vision_layers: int | None = None,
    vocabulary: int | None = None,
    noise: float = 0.02,
    dtype: str = "bfloat16",
    shard: str = "4GB",
    seed: int = 0,
) -> tuple[Path, Path]:
    """Write the policy and the base.

    Args:
        files: Folder with the files of a checkpoint; its weights are not read.
        out: Folder for the two folders, "policy" and "base".
        layers: Number of decoder layers. None keeps the checkpoint's, as in all that follow.
        hidden: Width of the language model, a multiple of 64.
        vision_layers: Number of layers of the vision tower.
        vocabulary: Number of rows of the embedding, at least the size of the tokenizer.
        noise: Standard deviation of what the policy's weights of the language model differ by, as
            a share of that of the weights.
        dtype: Data type of the weights.
        shard: Size of a file of weights at most.
        seed: Seed of the weights.

    Returns:
        The folders of policy and base.
    """
    settings = json.loads((files / "config.json").read_text("utf-8"))
    _resize(settings, layers, hidden, vision_layers, vocabulary)
    settings["torch_dtype"] = dtype
    config = AutoConfig.for_model(**deepcopy(settings))
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype))
    _write(model, out / "base", files, settings, shard)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "visual" not in name:
                scale = noise * (weight.std() if weight.ndim > 1 else 1.0)
                weight += scale * torch.randn_like(weight)
    _write(model, out / "policy", files, settings, shard)
    return out / "policy", out / "base"


def _resize(
    settings: dict[str, Any],
    layers: int | None,
    hidden: int | None,
    vision_layers: int | None,
    vocabulary: int | None,
) -> None:
    """Change the sizes in a configuration, flat as Qwen2.5-VL's or nested as Qwen3-VL's."""
    text, vision = settings.get("text_config", settings), settings["vision_config"]
    if layers is not None:
        text["num_hidden_layers"] = layers
    if vocabulary is not None:
        text["vocab_size"] = vocabulary
    if hidden is not None:
        _resize_language(text, hidden)
        width = max(64, hidden // 4)
        ratio = vision["intermediate_size"] / vision["hidden_size"]
        vision |= {
            "hidden_size": width,
            "intermediate_size": int(ratio * width),
            "num_heads": width // 32,
            "out_hidden_size": hidden,
        }
    if vision_layers is not None:
        vision["depth"] = vision_layers
        last = vision_layers - 1
        for name in ("fullatt_block_indexes", "deepstack_visual_indexes"):
            if name in vision:
                vision[name] = [index for index in vision[name] if index <= last] or [last]


def _resize_language(text: dict[str, Any], hidden: int) -> None:
    """Give a language model another width, with heads of 64 and one key head in four.

    The spread of the weights grows as the width shrinks, so that logits spread as they did.
    """
    heads = hidden // 64
    rope = text["rope_scaling"]
    half = sum(rope["mrope_section"])  # of the width of a head
    sections = [size * 32 // half for size in rope["mrope_section"]]
    text |= {
        "initializer_range": text["initializer_range"] * (text["hidden_size"] / hidden) ** 0.5,
        "intermediate_size": text["intermediate_size"] * hidden // text["hidden_size"] // 32 * 32,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 4),
        "rope_scaling": {**rope, "mrope_section": [32 - sum(sections[1:]), *sections[1:]]},
    }
    if "head_dim" in text:
        text["head_dim"] = 64


def _write(
    model: PreTrainedModel, folder: Path, files: Path, settings: dict[str, Any], shard: str
) -> None:
    """Write the weights by their names on the hub, and all else as it is in the files."""
    model.save_pretrained(folder, max_shard_size=shard)
    for file in files.iterdir():
        if file.is_file() and not file.name.startswith(("model", "pytorch_model")):
            shutil.copyfile(file, folder / file.name)
    (folder / "config.json").write_text(json.dumps(settings, indent=2), "utf-8")


def main() -> None:
    """Write a pair by options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=Path, required=True, help="folder without weights")
    parser.add_argument("--out", type=Path, required=True, help="folder for policy and base")
    parser.add_argument("--layers", type=int, help="decoder layers")
    parser.add_argument("--hidden", type=int, help="width of the language model")
    parser.add_argument("--vision-layers", type=int, help="layers of the vision tower")
    parser.add_argument("--vocabulary", type=int, help="rows of the embedding")
    parser.add_argument("--noise", type=float, default=0.02, help="how far the policy is")
    parser.add_argument("--dtype", default="bfloat16", help="data type of the weights")
    parser.add_argument("--shard", default="4GB", help="size of a file of weights")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights")
    for folder in write_pair(**vars(parser.parse_args())):
        print(folder)


if __name__ == "__main__":
    main()
