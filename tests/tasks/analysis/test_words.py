import builders
import pytest
import torch

from visreplay.replay_core import LensComparison, ModelPair
from visreplay.tasks.analysis.words import count_words, summarise_words, token_text, visible


def comparison(entropy: list[float], base: list[int], top: list[int]) -> LensComparison:
    entropy_LT = torch.tensor([entropy])
    return LensComparison(
        kl=entropy_LT,
        base_entropy=entropy_LT,
        entropy=entropy_LT,
        base_top=torch.tensor([base]),
        top=torch.tensor([top]),
    )


def test_words_are_counted_at_both_ends_of_the_entropy_within_each_picture() -> None:
    parts = [
        comparison([1, 2, 3, 4], [7, 7, 8, 8], [7, 9, 8, 9]),
        comparison([50, 20], [5, 6], [5, 6]),
    ]
    counts = count_words(parts, groups=2)
    assert counts == {"0": {"lowest": [[7, 7, 1], [7, 9, 1], [6, 6, 1]], "highest": HIGHEST}}
    summary = summarise_words(
        [{"policy": counts}, {"policy": count_words(parts[:1], groups=2)}], str
    )
    lowest = summary["0"]["lowest"]
    assert lowest["tokens"] == 5
    assert lowest["base"] == [["7", 4], ["6", 1]]
    policy = lowest["systems"]["policy"]
    assert policy["words"] == [["7", 2], ["9", 2], ["6", 1]]
    assert policy["changed_tokens"] == 2
    assert policy["changed"] == [["7", "9", 2, 2]]


HIGHEST = [[8, 8, 1], [8, 9, 1], [5, 5, 1]]


def test_layers_are_spread_with_the_first_and_the_last() -> None:
    entropy_LT = torch.rand(28, 4)
    top_LT = torch.zeros(28, 4).long()
    part = LensComparison(entropy_LT, entropy_LT, entropy_LT, top_LT, top_LT)
    layers = [int(layer) for layer in count_words([part], 4)]
    assert layers[0] == 0 and layers[-1] == 27 and len(layers) == 6


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (" red", "␣red"),
        ("\n\t", "\\n\\t"),
        ("\\n", "\\\\n"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\u202eabc", "\\u202eabc"),
        ("\u00a0", "\\xa0"),
        ("红", "红"),
    ],
)
def test_every_character_of_a_token_is_visible(text: str, written: str) -> None:
    assert visible(text) == written


def test_tokens_without_a_text_are_numbers(embedded_pair: ModelPair) -> None:
    tokenizer = embedded_pair.tokenizer
    (space,) = tokenizer.encode(" ", add_special_tokens=False)
    assert token_text(tokenizer, space) == "␣"
    parts = [tokenizer.decode([entry]) for entry in range(256)]
    broken = next(entry for entry, text in enumerate(parts) if "\ufffd" in text)
    assert token_text(tokenizer, broken) == f"<token {broken}>"
    # Padding rows of the vocabulary have no token at all.
    assert token_text(builders.Processor().tokenizer, builders.VOCABULARY + 30).startswith("<token")
