"""Exports of a run to the formats of other tools.

inspect      a log of inspect_ai: an epoch for each rollout, with messages, images and scores
vlmevalkit   the TSV of predictions that VLMEvalKit scores
"""

import base64
import csv
import io
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from PIL import Image

from visreplay.tasks.evaluation.runs import LINES, Run, SampleRecord, ScoredRollout
from visreplay.tasks.evaluation.summary import summarise
from visreplay.tasks.questions import inline_options
from visreplay.tools.disk import make_folder, replacing, write_all

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample
    from inspect_ai.model import ChatMessage, Content

SIDE = 1024
"""The longest side, in pixels, of an image in a log; the run keeps the whole image."""


# VLMEvalKit.


def write_predictions(run: Run, path: Path, rollout: int = 0) -> None:
    """Write VLMEvalKit's TSV: a row for each sample without an error.

    Args:
        run: The run to export.
        path: The file to write.
        rollout: The number of the rollout to export, from 0.

    Raises:
        ValueError: There is no such rollout.
        DiskError: The file cannot be written; an earlier one is left as it was.
    """
    if rollout >= run.settings["rollouts"]:
        raise ValueError(
            f"--rollout is {rollout}, but the run has rollouts 0 to {run.settings['rollouts'] - 1}"
        )
    records = map(_encodable, run.scored.values())
    rows = [_prediction(record, record["rollouts"][rollout]) for record in records]
    letters = sorted({name for row in rows for name in row if len(name) == 1})
    columns = ["index", "question", *letters, "answer", "prediction", "category"]
    make_folder(path.parent)
    with (
        replacing(path) as descriptor,
        os.fdopen(descriptor, "w", encoding="utf-8", newline="", closefd=False) as file,
    ):
        table = csv.DictWriter(file, columns, dialect="excel-tab", restval="")
        table.writeheader()
        table.writerows(rows)


def _prediction(record: SampleRecord, rollout: ScoredRollout) -> dict[str, str]:
    trajectory = rollout["trajectory"]
    # Without an answer it gets the last turn: its scorers extract an answer from text themselves.
    last = trajectory["steps"][-1]["text"] if trajectory["steps"] else ""
    return {
        "index": record["sample_id"],
        "question": record["question"] or "",
        **inline_options(record["question"] or ""),
        "answer": record["expected"] or "",
        "prediction": last if trajectory["answer"] is None else trajectory["answer"],
        "category": record["category"] or "",
    }


# inspect_ai.


def write_inspect(run: Run, path: Path) -> None:
    """Write a log of inspect_ai; the suffix of the path decides between its two formats.

    Raises:
        ImportError: inspect_ai is not installed; the message says how to install it.
        DiskError: The file cannot be written; an earlier one is left as it was.
    """
    try:
        from inspect_ai.log import write_eval_log
    except ImportError as error:
        raise ImportError(
            f"this export needs inspect_ai ({error}): pip install 'visreplay[export]'"
        ) from error
    log = inspect_log(run)
    make_folder(path.parent)
    with replacing(path) as descriptor, TemporaryDirectory(dir=path.parent) as folder:
        file = Path(folder) / path.name
        write_eval_log(log, file)
        with file.open("rb") as source:
            while chunk := source.read(2**20):
                write_all(descriptor, chunk)


def inspect_log(run: Run) -> "EvalLog":
    """Convert a run to a log.

    In the place of an image that is missing or damaged stands a text that says so.
    """
    from inspect_ai.log import (
        EvalConfig,
        EvalDataset,
        EvalLog,
        EvalMetric,
        EvalPlan,
        EvalPlanStep,
        EvalResults,
        EvalScore,
        EvalSpec,
        EvalStats,
    )
    from inspect_ai.model import Content, ContentImage, ContentText, GenerateConfig

    run = replace(run, settings=_encodable(run.settings))
    settings = run.settings
    ended = (run.folder / LINES).stat().st_mtime
    created = datetime.fromtimestamp(ended, UTC).isoformat(timespec="seconds")
    sampling = settings["sampling"]
    metrics: dict[str, EvalMetric] = {}
    if run.scored:
        with_cot = bool(settings.get("cot_checker"))
        summary = summarise(run.scored.values(), with_cot=with_cot, task=settings["task"])
        values = {"accuracy": summary.accuracy, **summary.metrics}
        metrics = {name: EvalMetric(name=name, value=each.value) for name, each in values.items()}
        # Viewers show metrics side by side: samples with an error are in none of the others.
        metrics["errors"] = EvalMetric(name="errors", value=len(run.errors))
    rollouts = int(settings["rollouts"])

    # Rollouts of one sample share pictures, but few samples do: a small cache is enough.
    @lru_cache(maxsize=256)
    def picture(reference: str) -> Content:
        try:
            return ContentImage(image=data_uri(run.store.get(reference)))
        except (KeyError, ValueError, OSError):
            return ContentText(text=f"[the image {reference} is missing or damaged]")

    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=created,
            task=settings["task"],
            dataset=EvalDataset(
                name=settings["task"],
                location=settings.get("data"),
                samples=len(run.records),
                sample_ids=_encodable(list(run.records)),
            ),
            model=run.system,
            model_generate_config=GenerateConfig(
                temperature=sampling["temperature"],
                top_p=sampling["top_p"],
                top_k=sampling.get("top_k") or None,
                max_tokens=sampling["max_new_tokens"],
                seed=settings["seed"],
            ),
            config=EvalConfig(epochs=rollouts),
            packages=settings["versions"],
            metadata={"visreplay": settings},
        ),
        plan=EvalPlan(steps=[EvalPlanStep(solver="visreplay", params={})]),
        results=EvalResults(
            total_samples=len(run.records) * rollouts,
            completed_samples=len(run.scored) * rollouts,
            scores=[EvalScore(name="visreplay", scorer="visreplay", metrics=metrics)],
        ),
        stats=EvalStats(started_at=created, completed_at=created),
        samples=[
            sample
            for record in map(_encodable, run.records.values())
            for sample in _samples(run, record, picture)
        ],
    )


def _samples(
    run: Run, record: SampleRecord, picture: Callable[[str], "Content"]
) -> list["EvalSample"]:
    """Make an epoch for every rollout, or one epoch with the error."""
    from inspect_ai.log import EvalError, EvalSample
    from inspect_ai.model import ChatCompletionChoice, ChatMessageAssistant, ModelOutput
    from inspect_ai.scorer import CORRECT, INCORRECT, Score

    common: dict[str, Any] = {
        "id": record["sample_id"],
        "input": record["question"] or "",
        "target": record["expected"] or "",
        "metadata": {"category": record["category"]},
    }
    if record["error"] is not None:
        error = EvalError(message=record["error"], traceback="", traceback_ansi="")
        return [EvalSample(**common, epoch=1, error=error)]
    samples = []
    for epoch, rollout in enumerate(record["rollouts"], 1):
        trajectory = rollout["trajectory"]
        messages = [_message(message, picture) for message in trajectory["messages"]]
        last = messages[-1] if messages else None
        if not isinstance(last, ChatMessageAssistant):
            last = ChatMessageAssistant(content="")
        cut = trajectory["stop_reason"] == "max_tokens"
        metadata = {"stop_reason": trajectory["stop_reason"], "seed": trajectory["seed"]}
        scores = {
            "visreplay": Score(
                value=CORRECT if rollout["right"] else INCORRECT,
                answer=trajectory["answer"],
                metadata=metadata,
            )
        }
        if rollout["cot_right"] is not None:
            value = CORRECT if rollout["cot_right"] else INCORRECT
            scores["chain-of-thought"] = Score(value=value)
        samples.append(
            EvalSample(
                **common,
                epoch=epoch,
                messages=messages,
                output=ModelOutput(
                    model=run.system,
                    choices=[
                        ChatCompletionChoice(
                            message=last,
                            stop_reason="max_tokens" if cut else "stop",
                        )
                    ],
                ),
                scores=scores,
                total_time=sum(step["seconds"] for step in trajectory["steps"]),
            )
        )
    return samples


def _message(message: dict[str, Any], picture: Callable[[str], "Content"]) -> "ChatMessage":
    from inspect_ai.model import (
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageUser,
        ContentText,
    )

    content: list[Content] = []
    for part in message["content"]:
        if part["type"] == "text":
            content.append(ContentText(text=part["text"]))
        elif part["type"] == "image":
            content.append(picture(part["image"]))
        else:
            for frame, time in zip(part["frames"], part["times"], strict=True):
                content += [
                    ContentText(text=f"[{time:.2f} s]"),
                    picture(frame),
                ]
    match message["role"]:
        case "system":
            return ChatMessageSystem(content=content)
        case "user":
            return ChatMessageUser(content=content)
        case _:
            return ChatMessageAssistant(content=content)


def _encodable(value: Any) -> Any:
    """Spell out lone surrogates in the texts of a JSON value: UTF-8 and other tools refuse them."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_encodable(key): _encodable(each) for key, each in value.items()}
        case list():
            return [_encodable(each) for each in value]
        case _:
            return value


def data_uri(image: Image.Image) -> str:
    """Encode an image as a data URI: JPEG, with sides of at most `SIDE` pixels."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
