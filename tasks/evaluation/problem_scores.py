"""The strict score of We-Math (arXiv 2407.01284), which counts problems and not questions.

A problem consists of its steps and of a question about the whole. By the paper's four cases:

    steps      whole    case                        strict score
    all right  right    complete mastery            1
    all right  wrong    inadequate generalisation   0.5
    not all    right    rote memorisation           0
    not all    wrong    insufficient knowledge      0
"""

from collections.abc import Iterable
from statistics import fmean

import numpy as np

from visreplay.tasks.evaluation.runs import SampleRecord
from visreplay.tasks.statistics import Floats


def strict_scores(records: Iterable[SampleRecord]) -> Floats:
    """Score the problems of which all questions are scored, `(problems,)`.

    With several rollouts, a problem's score is the mean over them: the first rollouts of its
    questions belong together, and so on.

    Args:
        records: Records of the task "we-math" without an error, in any order.
    """
    problems: dict[str, dict[str, list[bool]]] = {}
    for record in records:
        rights = [rollout["right"] for rollout in record["rollouts"]]
        part = str(record["category"]).partition("_")[2]
        problems.setdefault(str(record.get("group")), {})[part] = rights
    return np.array(
        [
            fmean(map(_strict_score, zip(*steps, strict=True), whole))
            for problem, parts in problems.items()
            if (whole := parts.pop("multi", None)) is not None
            and str(len(steps := list(parts.values()))) == problem[:1]
        ]
    )


def _strict_score(steps: tuple[bool, ...], whole: bool) -> float:
    if not all(steps):
        return 0.0
    return 1.0 if whole else 0.5
