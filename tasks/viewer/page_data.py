"""A run's records as the page's code wants them: images by number, beside the maps of their tokens.

A step's replay tells of the visual blocks that the step read, in the order of the messages; they
are what the question or an earlier step's calls showed. Here each block finds its picture.

    view   {"frames": [number, ...], "times": [seconds, ...] | null, "map": {...} | null,
            "of": number of the picture that it shows resized, whose pixels boxes count}
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from visreplay.tasks.evaluation.runs import Run


class Pictures:
    """Numbers for images, in the order in which they were first met."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, bool], int] = {}

    def number(self, reference: str, *, is_map: bool = False) -> int:
        """The number of an image: always the same, and a new one where it is new."""
        return self._numbers.setdefault((reference, is_map), len(self._numbers))

    def __iter__(self) -> Iterator[tuple[str, bool]]:
        """References by number, each with whether it is a map."""
        return iter(self._numbers)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._numbers)


def summary(sample: str, runs: Sequence[Run]) -> dict[str, Any]:
    """What the list shows of a sample, and filters by.

    Raises:
        ValueError: a record is not of the shape of a run's.
    """
    facts: dict[str, Any] = {}
    found: list[dict[str, Any] | None] = []
    for run in runs:
        record = run.records.get(sample)
        if record is None:
            found.append(None)
            continue
        with _named(run.name, sample):
            if facts.get("question") is None:  # this or no run could load the sample
                facts = {key: record[key] for key in ("question", "expected", "category")}
            found.append(
                {
                    "error": record["error"],
                    "rollouts": [
                        {
                            "right": rollout["right"],
                            "cot": rollout.get("cot_right"),
                            "answer": rollout["trajectory"]["answer"],
                            "stop": rollout["trajectory"]["stop_reason"],
                            "seed": rollout["trajectory"]["seed"],
                        }
                        for rollout in record["rollouts"]
                    ],
                }
            )
    return {"id": sample, **facts, "runs": found}


def detail(sample: str, runs: Sequence[Run], pictures: Pictures) -> list[Any]:
    """A sample's trajectories, by run and rollout (None for a run without it).

    Raises:
        ValueError: a record is not of the shape of a run's.
    """
    found: list[Any] = []
    for run in runs:
        record = run.records.get(sample)
        if record is None:
            found.append(None)
            continue
        with _named(run.name, sample):
            found.append([_trajectory(r["trajectory"], pictures) for r in record["rollouts"]])
    return found


@contextmanager
def _named(run: str, sample: str) -> Iterator[None]:
    """Say which record it was that had another shape."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"the record of sample {sample!r} in {run} is not of the shape that `visreplay eval` "
            f"writes ({type(error).__name__}: {error}): run the sample again"
        ) from error


def _trajectory(trajectory: Mapping[str, Any], pictures: Pictures) -> dict[str, Any]:
    steps = trajectory["steps"]
    read = [
        _views(parts, steps[turn] if turn < len(steps) else None, pictures)
        for turn, parts in enumerate(_read_by_turn(trajectory["messages"]))
    ]
    images = trajectory["images"]
    opening = read[0] if read[0] else [_view([pictures.number(image)]) for image in images]
    originals = [pictures.number(image) for image in images]
    shown = [view for view in opening if view["times"] is None]
    if len(shown) == len(originals):
        for view, original in zip(shown, originals, strict=True):
            view["of"] = original
    first = originals[0] if originals else None
    return {
        "opening": opening,
        "steps": [
            _step(step, read[turn] if turn < len(read) else [], first, pictures)
            for turn, step in enumerate(steps, 1)
        ],
    }


def _read_by_turn(messages: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Images and clips by the policy's turn that read them first; the last were never read."""
    turns: list[list[Mapping[str, Any]]] = [[]]
    for message in messages:
        if message["role"] == "assistant":
            turns.append([])
        else:
            turns[-1] += [part for part in message["content"] if part["type"] != "text"]
    return turns


def _views(
    parts: Sequence[Mapping[str, Any]], reader: Mapping[str, Any] | None, pictures: Pictures
) -> list[dict[str, Any]]:
    """What was shown, with the maps that the step which read it made."""
    blocks = ((reader and reader["replay"]) or {}).get("blocks") or []
    if len(blocks) != len(parts):
        blocks = [None] * len(parts)  # without replay, or of another version: no maps
    views = []
    for part, block in zip(parts, blocks, strict=True):
        is_clip = part["type"] == "video"
        numbers = [pictures.number(r) for r in (part["frames"] if is_clip else [part["image"]])]
        view = _view(numbers, part["times"] if is_clip else None)
        if block is not None:
            view["map"] = {
                "image": pictures.number(block["map"], is_map=True),
                "grid": block["grid"],
                "max": _finite(block["max_entropy"]),
            }
        views.append(view)
    return views


def _view(frames: list[int], times: Sequence[float] | None = None) -> dict[str, Any]:
    return {"frames": frames, "times": times and list(times), "map": None}


def _step(
    step: Mapping[str, Any], shown: list[dict[str, Any]], first: int | None, pictures: Pictures
) -> dict[str, Any]:
    replay = step["replay"]
    calls = []
    for use in step["tool_calls"]:
        observation = use["observation"] or {}
        box = observation.get("box")
        source = observation.get("source")
        calls.append(
            {
                "name": use["name"],
                # As text: a model may have written anything.
                "arguments": json.dumps(use["arguments"], ensure_ascii=False),
                "error": use["error"],
                "text": observation.get("text"),
                "box": box,
                "source": box and (pictures.number(source) if source else first),
                "views": _observed(observation, shown, pictures),
            }
        )
    return {
        "thought": step["thought"],
        "text": step["text"],
        "calls": calls,
        "error": step["error"],
        "seconds": _finite(step["seconds"]),
        "tools": _finite(sum(use.get("seconds", 0.0) for use in step["tool_calls"])),
        "replay": replay
        and {
            "method": replay["method"],
            "tokens": replay["new_visual_tokens"],
            "before": _finite(replay["kl_before"]),
            "after": _finite(replay["kl_after"]),
            "steps": replay["optimisation_steps"],
            "seconds": _finite(replay["seconds"]),
        },
    }


def _observed(
    observation: Mapping[str, Any], shown: list[dict[str, Any]], pictures: Pictures
) -> list[dict[str, Any]]:
    """What a call gave back; takes its views from the front of what was then shown.

    Where the conversation ended before it was shown, its images have views without maps.
    """
    numbers = [pictures.number(reference) for reference in observation.get("images", [])]
    times = observation.get("times")
    views = []
    at = 0
    while at < len(numbers):
        front = shown[0]["frames"] if shown else []
        if front and numbers[at : at + len(front)] == front:
            view = shown.pop(0)
        else:
            view = _view([numbers[at]])
        end = at + len(view["frames"])
        if times and not view["times"]:
            view["times"] = [_finite(time) for time in times[at:end]]
        views.append(view)
        at = end
    return views


def _finite(value: float | None) -> float | None:
    """JSON has no other numbers."""
    return value if value is not None and math.isfinite(value) else None
