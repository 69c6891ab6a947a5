"""The shapes of a run's settings and records, which every reader of a run relies on.

Files of runs are data: they may be damaged, edited, or made by another program. Fields that no
reader uses may be anything.
"""

from typing import Any

from pydantic import PositiveInt

from visreplay.agent.episode.state_shapes import MessageShape, Shape, StepShape, Text, mismatch
from visreplay.tools.types import preview


class _Trajectory(Shape):
    answer: Text | None
    stop_reason: Text
    seed: int
    steps: list[StepShape]
    images: list[Text]
    messages: list[MessageShape]


class _Rollout(Shape):
    right: bool
    cot_right: bool | None
    trajectory: _Trajectory


class _Record(Shape):
    sample_id: Text
    question: Text | None
    expected: Text | None
    category: Text | None
    error: Text | None
    rollouts: list[_Rollout]
    group: Text | None = None
    split: Text | None = None
    seconds: float = 0.0


class _ReplaySettings(Shape):
    method: Text
    theta: list[float] | None = None
    threshold: Text | None = None
    optimizer: Text | None = None
    learning_rate: float | None = None


class _Sampling(Shape):
    temperature: float | None
    top_p: float | None
    max_new_tokens: int | None
    top_k: int | None = None
    repetition_penalty: float | None = None


class _Limits(Shape):
    max_steps: int | None = None


class _PixelBudget(Shape):
    min: int | None
    max: int | None


class _PixelBudgets(Shape):
    image: _PixelBudget | None = None
    frame: _PixelBudget | None = None


class _Frames(Shape):
    count: int | None
    choice: Text


class _Recipe(Shape):
    limits: _Limits = _Limits()
    pixels: _PixelBudgets = _PixelBudgets()
    frames: _Frames | None = None
    expects: list[Text] | None = None
    tools: bool = True


class _Settings(Shape):
    task: Text
    policy: Text
    replay: _ReplaySettings
    sampling: _Sampling
    rollouts: PositiveInt
    seed: int
    versions: dict[Text, Text]
    data: Text | None = None
    base: Text | None = None
    protocol: Text | None = None
    cot_checker: Text | None = None
    limits: _Limits = _Limits()
    recipe: _Recipe = _Recipe()


def settings_mismatch(settings: dict[str, Any]) -> str | None:
    """Tell what is wrong with the settings of a run; None if nothing is."""
    return mismatch(_Settings, settings)


def record_mismatch(settings: dict[str, Any], record: dict[str, Any]) -> str | None:
    """Tell what is wrong with the record of a sample; None if nothing is.

    Args:
        settings: The settings of its run.
        record: The record.
    """
    wrong = mismatch(_Record, record)
    if wrong is None and record["error"] is None:
        played, rollouts = len(record["rollouts"]), settings.get("rollouts")
        if played != rollouts:
            return f"it has {played} rollouts, and the settings say {preview(rollouts)}"
    return wrong
