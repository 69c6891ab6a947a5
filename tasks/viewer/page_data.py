"""The data of the page: records of runs, with images by number and the maps of their tokens.

The replay report of a step lists the visual blocks that the step read, in the order of the
messages. The question or the calls of an earlier step showed them. Here each block finds its
picture.

    view   {"frames": [number, ...], "times": [seconds, ...] | null, "map": {...} | null,
            "of": number of the original picture, if the view shows it resized; boxes count in the
                  original's pixels}
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from visreplay.tasks.evaluation.runs import Run, SampleRecord


class ImageNumbers:
    """Numbers for images, in the order in which the images first occur."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, bool], int] = {}

    def number(self, reference: str, *, is_map: bool = False) -> int:
        """Return the number of an image; an image that is new gets the next number."""
        return self._numbers.setdefault((reference, is_map), len(self._numbers))

    def __iter__(self) -> Iterator[tuple[str, bool]]:
        """Go through the references by number, each with whether it is a map."""
        return iter(self._numbers)

    def __len__(self) -> int:
        """Count the images."""
        return len(self._numbers)


def sample_summary(sample: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Make the entry of a sample in the list, with all that filters need.

    Raises:
        ValueError: A record does not have the shape of a run's record.
    """
    facts: dict[str, Any] = {}

    def convert(record: SampleRecord) -> dict[str, Any]:
        nonlocal facts
        if facts.get("question") is None:  # no run before this one could load the sample
            facts = {
                "question": record["question"],
                "expected": record["expected"],
                "category": record["category"],
            }
        return {
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

    results = _convert_records(sample, runs, convert)
    return {"id": sample, **facts, "runs": results}


def sample_details(sample: str, runs: Sequence[Run], images: ImageNumbers) -> list[Any]:
    """Make the trajectories of a sample, by run and rollout (None for a run without the sample).

    Raises:
        ValueError: A record does not have the shape of a run's record.
    """
    return _convert_records(
        sample,
        runs,
        lambda record: [_trajectory(each["trajectory"], images) for each in record["rollouts"]],
    )


def _convert_records(
    sample: str, runs: Sequence[Run], convert: Callable[[SampleRecord], Any]
) -> list[Any]:
    """Convert the record that each run has of a sample; an error names the record."""
    results: list[Any] = []
    for run in runs:
        record = run.records.get(sample)
        try:
            results.append(None if record is None else convert(record))
        except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise ValueError(
                f"the record of sample {sample!r} in {run.name} is not of the shape that "
                f"`visreplay eval` writes ({type(error).__name__}: {error}): run the sample again"
            ) from error
    return results


def _trajectory(trajectory: Mapping[str, Any], images: ImageNumbers) -> dict[str, Any]:
    steps = trajectory["steps"]
    views_by_turn = [
        _views(parts, steps[turn] if turn < len(steps) else None, images)
        for turn, parts in enumerate(_parts_by_turn(trajectory["messages"]))
    ]
    originals = [images.number(reference) for reference in trajectory["images"]]
    opening = views_by_turn[0] or [_view([number]) for number in originals]
    stills = [view for view in opening if view["times"] is None]
    if len(stills) == len(originals):
        for view, original in zip(stills, originals, strict=True):
            view["of"] = original
    first = originals[0] if originals else None
    return {
        "opening": opening,
        "steps": [
            _step(step, views_by_turn[turn] if turn < len(views_by_turn) else [], first, images)
            for turn, step in enumerate(steps, 1)
        ],
    }


def _parts_by_turn(messages: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Group images and videos by the turn that reads them first; no turn reads the last group."""
    turns: list[list[Mapping[str, Any]]] = [[]]
    for message in messages:
        if message["role"] == "assistant":
            turns.append([])
        else:
            turns[-1] += [part for part in message["content"] if part["type"] != "text"]
    return turns


def _views(
    parts: Sequence[Mapping[str, Any]], reader: Mapping[str, Any] | None, images: ImageNumbers
) -> list[dict[str, Any]]:
    """Make the views of images and videos, with the maps of the step that read them."""
    blocks = ((reader and reader["replay"]) or {}).get("blocks") or []
    if len(blocks) != len(parts):
        blocks = [None] * len(parts)  # no maps: without replay, or from another version
    views = []
    for part, block in zip(parts, blocks, strict=True):
        is_video = part["type"] == "video"
        numbers = [images.number(r) for r in (part["frames"] if is_video else [part["image"]])]
        view = _view(numbers, part["times"] if is_video else None)
        if block is not None and block.get("map") is not None:
            view["map"] = {
                "image": images.number(block["map"], is_map=True),
                "grid": block["grid"],
                "max": _finite(block["max_entropy"]),
            }
        views.append(view)
    return views


def _view(frames: list[int], times: Sequence[float] | None = None) -> dict[str, Any]:
    return {"frames": frames, "times": times and list(map(_finite, times)), "map": None}


def _step(
    step: Mapping[str, Any], views: list[dict[str, Any]], first: int | None, images: ImageNumbers
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
                # As text, because a model may write anything.
                "arguments": json.dumps(use["arguments"], ensure_ascii=False),
                "error": use["error"],
                "text": observation.get("text"),
                "box": box,
                "source": box and (images.number(source) if source else first),
                "views": _observation_views(observation, views, images),
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


def _observation_views(
    observation: Mapping[str, Any], step_views: list[dict[str, Any]], images: ImageNumbers
) -> list[dict[str, Any]]:
    """Make the views of a call's result; removes them from the front of the step's views.

    If the conversation ended before the policy read the result, its views have no maps.
    """
    numbers = [images.number(reference) for reference in observation.get("images", [])]
    times = observation.get("times")
    views = []
    at = 0
    while at < len(numbers):
        front = step_views[0]["frames"] if step_views else []
        if front and numbers[at : at + len(front)] == front:
            view = step_views.pop(0)
        else:
            view = _view([numbers[at]])
        end = at + len(view["frames"])
        if times and not view["times"]:
            view["times"] = [_finite(time) for time in times[at:end]]
        views.append(view)
        at = end
    return views


def _finite(value: float | None) -> float | None:
    """Return a finite number, or None: JSON has no infinity and no NaN."""
    return value if value is not None and math.isfinite(value) else None
