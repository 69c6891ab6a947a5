"""The script for a GPU, small and on the CPU."""

from gpu import SMALL, line, parts


def test_every_part_of_the_report_is_made() -> None:
    report = {str(part["what"]): part for part in parts(SMALL)}
    attention = report["attention"]
    assert attention["flash"]
    # On the CPU all of it is float32, and the mask is made within attention: the same numbers.
    for name in ("relative difference from float32", "the same with a dense mask"):
        assert attention[name] == "outputs 0.0000, gradients 0.0000"
    for method in ("none", "token", "state"):
        assert report[f"episodes as on the CPU, method {method}"]["equal texts"] == "1 of 1"
    for method in ("token", "state"):
        alike = report[f"{method} replay as on the CPU"]
        same, total = alike["equal positions"].split(" of ")
        assert same == total != "0"
        for name in ("embedded", "random"):
            assert report[f"{name} pair, method {method}, seconds"]["append"] > 0
    assert {"vision", "base and lens", "a step", "prefill"} < report["random pair, seconds"].keys()
    for side in SMALL.sides:
        for recompute in (True, False):
            peak = report[f"peak of memory, {side**2} visual tokens, recomputation {recompute}"]
            assert peak["steps"] == 2 and peak["by arithmetic"] > 0
    assert line(attention).startswith("- **attention**: layers 3, flash True, ")
