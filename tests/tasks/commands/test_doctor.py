"""The command `visreplay doctor`, on the installation that runs the tests."""

from importlib.metadata import PackageNotFoundError, version

import pytest
from typer.testing import CliRunner

from visreplay.tasks.commands.cli import app
from visreplay.tasks.commands.doctor import requirements


def doctor() -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor"])
    return result.exit_code, result.output


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Let a package look as if it was not installed."""

    def without(name: str) -> str:
        if name == package:
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("visreplay.tasks.commands.doctor.version", without)


def test_it_prints_versions_extras_and_devices_and_asks_the_embedded_pair() -> None:
    code, printed = doctor()
    assert code == 0, printed
    for package in ("visreplay", "torch", "transformers", "langgraph"):
        assert version(package) in printed
    assert "analysis                 installed" in printed
    assert "cpu " in printed and "GiB of memory" in printed
    assert ", right" in printed


def test_a_missing_extra_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "matplotlib")
    code, printed = doctor()
    assert code == 0
    assert "matplotlib is missing: pip install 'visreplay[analysis]'" in printed


def test_a_missing_package_of_the_core_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "transformers")
    code, printed = doctor()
    assert code == 1
    assert "transformers is missing" in printed


def test_an_embedded_pair_that_does_not_answer_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the weights are damaged")

    monkeypatch.setattr("visreplay.agent.episode.embedded_agent.embedded_agent", broken)
    code, printed = doctor()
    assert code == 1
    assert "RuntimeError: the weights are damaged" in printed


def test_requirements_differ_by_extra() -> None:
    core = {each.name for each in requirements()}
    assert {"torch", "transformers", "langgraph"} <= core
    assert {each.name for each in requirements("analysis")} == {"matplotlib"}
    assert "matplotlib" not in core
