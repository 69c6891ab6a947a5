"""The tables of `visreplay analyze` and `visreplay perturb`."""

from collections.abc import Mapping, Sequence
from math import exp
from typing import Any

from visreplay.replay_core.config import Side
from visreplay.tasks.analysis.estimates import ENOUGH, cell
from visreplay.tasks.analysis.shifts import KINDS, PLAIN
from visreplay.tasks.evaluation.tables import TextTable, counted

Report = Mapping[str, Any]

WORDS = 3
"""The number of words in a cell."""

SIDES = {
    Side.LOW: "low entropy",
    Side.HIGH: "high entropy",
    Side.ALL: "all",
    Side.RANDOM: "random",
}
"""Names of the visual tokens that get noise; random ones are as many as low ones."""


def analysis_tables(report: Report) -> list[TextTable]:
    """Make the tables of `analyze`: shifts, the released objective, and words."""
    return [
        shift_table(report, "visual", list(report["visual"]["systems"])),
        shift_table(report, "text", [PLAIN]),
        shift_table(report, "all", [PLAIN]),
        objective_table(report),
        words_table(report, "visual"),
    ]


def samples(report: Report) -> str:
    """Say how many samples there are."""
    n, independent = report["n"], report["independent"]
    text = f"n = {counted(n, 'sample')}"
    return text if independent == n else f"{text} in {independent} independent groups"


def sizes(report: Report) -> str:
    """Say how many samples there are, and whether they have intervals."""
    few = report["independent"] < ENOUGH
    return f"{samples(report)}, {f'no intervals below {ENOUGH}' if few else '95 % intervals'}"


def shift_table(report: Report, kind: str, systems: Sequence[str]) -> TextTable:
    """Lay out the divergences of one kind of token by system and layer."""
    rows = []
    for name in systems:
        system = report[kind]["systems"][name]
        for layer in range(report["layers"]):
            lowest, *_, highest = system["kl"]["mean"][layer]
            rows.append(
                (
                    name,
                    str(layer),
                    f"{lowest:.5f}",
                    f"{highest:.5f}",
                    cell(system["kl_lowest_minus_highest"], layer),
                    f"{100 * system['changed_of_all']['mean'][layer]:.1f} %",
                )
            )
    return TextTable(
        f"KL(base || policy) in nats at {report[kind]['tokens']} {KINDS[kind]}, {sizes(report)}\n"
        "lowest and highest: quarters by base entropy; changed: another top entry than the base's",
        ("system", "layer", "lowest", "highest", "lowest - highest", "changed"),
        rows,
    )


def objective_table(report: Report) -> TextTable:
    """Lay out the terms of the released objective, and the share that is there without RLVR."""
    terms = report["objective"]
    rows = [
        (
            str(layer),
            *(cell(terms[name], layer) for name in ("same_depth", "released", "released_base")),
            cell(terms["share"], layer, form=".1f", scale=100),
        )
        for layer in range(len(terms["released"]["mean"]))
    ]
    losses = ("same_depth_loss", "released_loss", "released_base_loss")
    rows.append(
        (
            "objective",
            *(cell(terms[name], form=".3g") for name in losses),
            cell(terms["share_loss"], form=".1f", scale=100),
        )
    )
    return TextTable(
        f"Token replay's objective before its first step, {sizes(report)}\n"
        "layers: mean KL on the low-entropy set in nats; objective: their sum / visual tokens\n"
        "released code: base's output of a layer against the input of that layer",
        ("layer", "same depth", "released code", "with base as policy", "share without RLVR in %"),
        rows,
    )


def words_table(report: Report, kind: str) -> TextTable:
    """Lay out the lens' most frequent words of the base and of every system, and the changes."""
    rows = []
    for layer, ends in report["words"][kind].items():
        for end, counts in ends.items():
            total = counts["tokens"]
            rows.append((f"{layer} {end}", "base", _words(counts["base"], total), ""))
            for name, system in counts["systems"].items():
                changes = [
                    f'"{base}" -> "{top}" {n}' for base, top, n, _ in system["changed"][:WORDS]
                ]
                changed = f"{system['changed_tokens']} of {total}"
                if changes:
                    changed += f": {', '.join(changes)}"
                rows.append(("", name, _words(system["words"], total), changed))
    return TextTable(
        f"The lens' most frequent top words at {KINDS[kind]}, {samples(report)}\n"
        "lowest and highest: quarters by base entropy; words with their share of the tokens in %\n"
        "changed: tokens with another word than the base's, and the most frequent changes",
        ("layer", "system", "top words", "changed"),
        rows,
    )


def _words(words: Sequence[Sequence[Any]], total: int) -> str:
    return ", ".join(f'"{text}" {100 * n / total:.0f}' for text, n in words[:WORDS])


def noise_table(report: Report) -> TextTable:
    """Lay out the perturbation study by condition."""
    rows = []
    for each in report["conditions"]:
        rows.append(
            (
                SIDES[Side(each["side"])] if each["size"] else "none",
                f"{each['size']:g}",
                cell(each["kl"], form=".4f"),
                *(cell(_perplexity(each[name]), form=".3g") for name in ("right", "wrong")),
                cell(each["right_first"], form=".0f", scale=100),
            )
        )
    return TextTable(
        f"Noise on the policy's visual activations, {sizes(report)}\n"
        "size: length of the noise / length of the activation; KL(base || policy): in nats, at "
        "low-entropy tokens\nright first: the right answer is the most probable of all",
        ("tokens", "size", "KL", "perplexity, right", "perplexity, wrong", "right first in %"),
        rows,
    )


def correlation_line(report: Report) -> str:
    """Say how the KL and the perplexities go together within a sample."""
    right, wrong = (cell(report["rank_correlation"][key], form=".2f") for key in ("right", "wrong"))
    return (
        f"rank correlation with the KL over the {len(report['conditions'])} conditions of a "
        f"sample, {sizes(report)}: perplexity of the right answer {right}, of wrong ones {wrong}"
    )


def _perplexity(value: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a mean negative log-likelihood with its interval into a perplexity."""
    return {key: None if end is None else exp(end) for key, end in value.items()}
