import builtins
import csv
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.log import read_eval_log
from inspect_ai.model import ContentImage
from PIL import Image
from records import record, run_of, store_of
from typer.testing import CliRunner

from visreplay.tasks.commands.cli import app
from visreplay.tasks.evaluation.runs import Run
from visreplay.tasks.questions import inline_options


def export(run: Run, to: str, out: Path, *more: str) -> tuple[int, str, str]:
    arguments = ["export", str(run.folder), "--to", to, "--out", str(out), *more]
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = tmp_path / "run"
    store = store_of(folder)
    picture, *frames = (
        store.put(Image.new("RGB", (2000, side), "red")) for side in (1000, 500, 400)
    )

    def message(role: str, *parts: dict[str, Any]) -> dict[str, Any]:
        return {"role": role, "content": list(parts)}

    messages = (
        message("system", {"type": "text", "text": "Call tools."}),
        message(
            "user", {"type": "image", "image": picture}, {"type": "text", "text": "Which one?"}
        ),
        message("assistant", {"type": "text", "text": "Frames, please."}),
        message("user", {"type": "video", "frames": frames, "times": [0.25, 0.5]}),
        message("assistant", {"type": "text", "text": "It is a cat. So B."}),
    )
    return run_of(
        folder,
        record("1", (True, True), False, category="cross", messages=messages),
        record("2", True, True, answer=None, question="What?", messages=messages[:1]),
        record("3", error="OSError: away"),
        rollouts=2,
        replay={"method": "token"},
        cot_checker="judge:check",
    )


@pytest.mark.parametrize("suffix", [".eval", ".json"])
def test_inspect_ai_opens_an_export(run: Run, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / "logs" / f"run{suffix}"
    code, printed, err = export(run, "inspect", out)
    assert code == 0, err
    assert "2 samples" in printed and "1 with an error, kept as errors" in printed
    log = read_eval_log(str(out), resolve_attachments=True)
    assert log.status == "success"
    assert (log.eval.task, log.eval.model) == ("hr-bench-4k", "DeepEyes-7B + token replay")
    assert log.eval.config.epochs == 2
    assert log.eval.metadata is not None and log.eval.metadata["visreplay"]["seed"] == 0
    assert log.results is not None
    metrics = log.results.scores[0].metrics
    assert metrics["accuracy"].value == 0.75
    assert metrics["pass@2"].value == 1
    assert metrics["CoT-pass@2"].value == 0.5
    assert metrics["errors"].value == 1

    assert log.samples is not None
    samples = {(each.id, each.epoch): each for each in log.samples}
    assert samples.keys() == {("1", 1), ("1", 2), ("2", 1), ("2", 2), ("3", 1)}
    first, second, failed = samples["1", 1], samples["1", 2], samples["3", 1]
    assert first.scores is not None and second.scores is not None
    assert (first.scores["visreplay"].value, second.scores["visreplay"].value) == ("C", "I")
    assert first.scores["chain-of-thought"].value == "C"
    assert first.target == "B"
    assert [each.role for each in first.messages] == [
        "system", "user", "assistant", "user", "assistant"
    ]  # fmt: skip
    assert first.output.completion == first.messages[-1].text == "It is a cat. So B."
    content = first.messages[1].content
    assert isinstance(content[0], ContentImage)
    assert content[0].image.startswith("data:image/jpeg;base64,")
    frames = first.messages[3].content
    assert [getattr(part, "text", "image") for part in frames] == [
        "[0.25 s]", "image", "[0.50 s]", "image"
    ]  # fmt: skip
    assert failed.error is not None and failed.error.message == "OSError: away"
    assert not failed.scores


def test_predictions_for_vlmevalkit(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "predictions.tsv"
    code, printed, err = export(run, "vlmevalkit", out)
    assert code == 0, err
    assert "1 with an error, left out" in printed
    with out.open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file, dialect="excel-tab")
    assert list(first) == [
        "index", "question", "A", "B", "C", "D", "answer", "prediction", "category"
    ]  # fmt: skip
    assert (first["index"], first["B"], first["answer"]) == ("1", "a cat", "B")
    assert (first["prediction"], first["category"]) == ("B", "cross")
    assert second["prediction"] == "It is a cat.\tSo B.\n"
    assert second["A"] == ""


@pytest.mark.parametrize(
    ("to", "name", "more", "message"),
    [
        ("inspect", "x.tsv", (), "must end in .eval or .json"),
        ("vlmevalkit", "x.csv", (), "must end in .tsv"),
        ("vlmevalkit", "x.tsv", ("--rollout", "2"), "the run has rollouts 0 to 1"),
    ],
)
def test_mistakes_are_explained(
    run: Run, tmp_path: Path, to: str, name: str, more: tuple[str, ...], message: str
) -> None:
    code, _, err = export(run, to, tmp_path / name, *more)
    assert code == 2
    assert message in err


def test_without_inspect_ai_the_error_names_the_extra(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.startswith("inspect_ai"):
            raise ImportError("No module named 'inspect_ai'")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    code, _, err = export(run, "inspect", tmp_path / "x.eval")
    assert code == 2
    assert "visreplay[export]" in err


def test_options_are_lines_with_letters_in_order() -> None:
    assert inline_options("Which?\n(A) one\n(B) two") == {"A": "one", "B": "two"}
    assert inline_options("Which?\nB. two\nC. three") == {}
    assert inline_options("A. Turing was who?") == {}
