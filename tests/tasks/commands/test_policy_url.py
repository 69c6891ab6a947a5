"""`run` and `eval` with a policy behind a URL."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoints import Answer, completion, little_endpoint, refusal
from openai_served import service
from served import served
from typer.testing import CliRunner

from visreplay.agent.openai.routes import openai_app
from visreplay.agent.policy.endpoint import KEY_VARIABLE
from visreplay.replay_core import ModelPair
from visreplay.tasks.commands.cli import app
from visreplay.tasks.evaluation.runs import Run, SampleRecord
from visreplay.tasks.registry import get_task

TASK = "visual-search-medium"
EMBEDDED = ("--policy", "policy", "--protocol", "embedded", "--max-new-tokens", "96")
SIZES = ("--min-pixels", str(56 * 56), "--max-pixels", str(224 * 224))
SECRET = "sk-this-is-a-secret"
ANSWER = Answer(completion("<answer>B</answer>"))


@pytest.fixture(scope="module")
def url(embedded_pair: ModelPair) -> Iterator[str]:
    """The embedded pair behind a URL, with a key."""
    with served(openai_app(service(embedded_pair), SECRET)) as address:
        yield f"{address}/v1"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    return SECRET


def visreplay(*arguments: str) -> tuple[int, str]:
    """The exit code of a command, and all that it prints."""
    result = CliRunner().invoke(app, list(arguments))
    assert SECRET not in result.output
    return result.exit_code, " ".join(result.output.split())


def evaluation(out: Path, *more: str, task: str = TASK) -> tuple[int, str]:
    code, printed = visreplay("eval", task, "--out", str(out), *more)
    if (out / "run.jsonl").exists():
        assert SECRET not in (out / "run.jsonl").read_text("utf-8")
    return code, printed


def episodes(records: dict[str, SampleRecord]) -> dict[str, Any]:
    """The scores, answers, texts and observations of a run."""
    return {
        sample_id: [
            (
                rollout["right"],
                rollout["trajectory"]["answer"],
                [(step["text"], step["tool_calls"]) for step in untimed(rollout)],
            )
            for rollout in record["rollouts"]
        ]
        for sample_id, record in records.items()
    }


def untimed(rollout: Any) -> list[Any]:
    steps: list[Any] = rollout["trajectory"]["steps"]
    for step in steps:
        for use in step["tool_calls"]:
            use.pop("seconds")
    return steps


def test_an_evaluation_through_the_url_is_that_of_the_pair(
    url: str, key: str, tmp_path: Path
) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    given = ("--policy-url", url, *EMBEDDED, *SIZES)
    code, printed = evaluation(there, *given, "--limit", "2")
    assert code == 0, printed
    before = (there / "run.jsonl").read_bytes()
    code, printed = evaluation(there, *given, "--limit", "2")
    assert code == 0 and (there / "run.jsonl").read_bytes() == before, "it is only read"
    code, printed = evaluation(there, *given, "--limit", "4")  # and now it goes on
    assert code == 0 and (there / "run.jsonl").read_bytes().startswith(before), printed

    plain = ("--replay", "none", "--device", "cpu", "--max-new-tokens", "96", "--limit", "4")
    code, printed = evaluation(here, *plain)
    assert code == 0, printed
    remote, local = Run.open(there), Run.open(here)
    assert episodes(remote.records) == episodes(local.records) and len(remote.records) == 4
    host = url.removeprefix("http://").removesuffix("/v1")
    assert remote.system == remote.settings["policy"] == f"policy at {host}"
    assert remote.settings["base"] is None and remote.settings["policy_url"] == url
    assert remote.settings["protocol"] == "embedded"
    assert "policy_url" not in local.settings

    code, printed = visreplay("table", str(there), str(here))
    assert code == 0 and f"policy at {host}" in printed
    code, printed = evaluation(there, *given[:1], f"{url}/other", *given[2:], "--limit", "4")
    assert code == 2 and f"policy_url was '{url}' and is '{url}/other'" in printed


def test_videos_and_rollouts_are_evaluated_too(url: str, key: str, tmp_path: Path) -> None:
    given = ("--policy-url", url, *EMBEDDED, *SIZES, "--limit", "1", "--rollouts", "2")
    code, printed = evaluation(tmp_path / "run", *given, task="video-search")
    assert code == 0, printed
    run = Run.open(tmp_path / "run")
    assert run.settings["sampling"]["temperature"] == 1.0
    (record,) = run.records.values()
    assert len(record["rollouts"]) == 2 and not record["error"]


def test_a_question_is_asked_at_the_url(url: str, key: str, tmp_path: Path) -> None:
    sample = get_task(TASK).sample(3)
    scene = tmp_path / "scene.png"
    sample.images[0].save(scene)  # type: ignore[union-attr]
    asked = ("run", str(scene), sample.question, "--policy-url", url, *EMBEDDED, *SIZES)
    code, printed = visreplay(*asked)
    assert code == 0 and "no replay" in printed and "(answered)" in printed
    code, printed = visreplay(*asked, "--json")
    record = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert record["policy"].startswith("policy at 127.0.0.1:") and record["base"] is None
    assert record["settings"]["policy_url"] == url
    # Three models are served: one has to be named.
    code, printed = visreplay("run", str(scene), "?", "--policy-url", url)
    assert code == 2 and "has the models policy, policy+replay, base: name one" in printed


def test_a_wrong_key_is_an_error_of_the_sample(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "another")
    given = ("--policy-url", url, *EMBEDDED, *SIZES, "--limit", "1")
    code, printed = evaluation(tmp_path / "run", *given)
    assert code == 1 and "1 x EndpointError" in printed and "another" not in printed
    assert "answered with status 401" in printed and f"in {KEY_VARIABLE}" in printed


def test_samples_without_an_endpoint_are_errors_and_played_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    down = refusal(503, "down for repairs", **{"x-should-retry": "false"})
    with little_endpoint(down) as server:
        given = ("--policy-url", server.url, "--limit", "2")
        code, printed = evaluation(out, *given)
        assert code == 1 and "2 x EndpointError" in printed
        assert "status 503 (down for repairs)" in printed and "--retry-errors" in printed
        assert "accuracy" not in printed, "no silent wrong answer"
        server.answers[:] = [ANSWER]
        code, printed = evaluation(out, *given)
        assert code == 1 and "2 x EndpointError" in printed, "they are kept"
        code, printed = evaluation(out, *given, "--retry-errors")
    assert code == 0, printed
    records = Run.open(out).records.values()
    assert [record["rollouts"][0]["trajectory"]["answer"] for record in records] == ["B", "B"]
    assert Run.open(out).settings["protocol"] == "hermes"


def test_a_refused_connection_is_an_error_of_the_sample(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    code, printed = evaluation(
        tmp_path / "run", "--policy-url", url, "--policy", "some-model", "--limit", "1"
    )
    assert code == 1 and f"1 x EndpointError: {url}/chat/completions cannot be reached" in printed
    code, printed = evaluation(tmp_path / "other", "--policy-url", url, "--limit", "1")
    assert code == 2 and f"{url}/models cannot be reached" in printed
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--replay", "token"), "--replay has no effect beside --policy-url: replay needs the"),
        (("--replay", "none", "--tau", "0.2"), "--tau has no effect"),
        (("--recompute", "on"), "--recompute has no effect"),
        (("--kl-top-k", "5"), "--kl-top-k has no effect"),
        (("--base", "x"), "--base has no effect beside --policy-url: the policy at that URL is"),
        (("--base-device", "cpu"), "--base-device has no effect"),
        (("--device", "cpu"), "--device has no effect"),
        (("--dtype", "float16"), "--dtype has no effect"),
        (("--processor", "x"), "--processor has no effect"),
        (("--attention", "eager"), "--attention has no effect"),
        (("--paper",), "--paper has no effect"),
        (("--policy-url", f"https://me:{SECRET}@host/v1"), f"put the key in {KEY_VARIABLE}"),
    ],
)
def test_options_of_a_pair_are_refused(
    options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with little_endpoint(ANSWER) as server:
        code, printed = evaluation(tmp_path / "run", "--policy-url", server.url, *options)
        assert code == 2 and message in printed and not (tmp_path / "run").exists()
        assert server.requests == []


def test_replay_none_may_be_said(tmp_path: Path) -> None:
    with little_endpoint(ANSWER) as server:
        given = ("--policy-url", server.url, "--replay", "none", "--limit", "1")
        code, printed = evaluation(tmp_path / "run", *given)
    assert code == 0 and Run.open(tmp_path / "run").settings["policy"].startswith("only at "), (
        printed
    )
