"""The command `visreplay doctor`: what is installed, and whether the embedded pair works."""

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

import typer
from packaging.requirements import Requirement
from rich.markup import escape

from visreplay.tasks.commands.console import Console

GIB = 2**30
TASK = "visual-search-easy"
FOR_DEVELOPMENT = ("dev", "docs")
"""Extras that users do not need."""


def doctor() -> None:
    """Check this installation: versions, devices, memory, extras, and the embedded pair's answer.

    Exits with code 1 if a package that the core needs is missing or too old, or if the embedded
    pair does not answer a held-out question right.
    """
    console = Console(highlight=False)
    console.print(f"visreplay {version('visreplay')}, Python {platform.python_version()}, "
                  f"{platform.platform()}", soft_wrap=True)  # fmt: skip
    healthy = _check_core(console)
    _print_extras(console)
    if healthy:
        try:
            _print_devices(console)
            healthy = _check_embedded_pair(console)
        except Exception as error:  # a broken installation may raise anything
            healthy = False
            console.print(f"  [red]{escape(f'{type(error).__name__}: {error}')}[/]", soft_wrap=True)
    if not healthy:
        console.print("[red]Something that the core needs does not work: see above.[/]")
        raise typer.Exit(1)


def requirements(extra: str = "") -> list[Requirement]:
    """List the packages that visreplay needs, or that one of its extras adds.

    Args:
        extra: Name of the extra; empty for the packages of every installation.
    """
    every = [Requirement(line) for line in requires("visreplay") or ()]
    return [
        each
        for each in every
        if (each.marker is None and not extra)
        or (each.marker and not each.marker.evaluate() and each.marker.evaluate({"extra": extra}))
    ]


def problem(requirement: Requirement) -> str | None:
    """Describe why a requirement is not met; None if it is."""
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(installed, prereleases=True):
        return None
    return f"{requirement.name} is {installed}, but must be {requirement.specifier}"


def _check_core(console: Console) -> bool:
    """Print the packages of the core; tell whether all are there."""
    console.print("\n[bold]Packages[/]")
    problems = 0
    for requirement in requirements():
        if wrong := problem(requirement):
            problems += 1
            console.print(f"  [red]{escape(wrong)}[/]: pip install visreplay", soft_wrap=True)
        else:
            console.print(f"  {requirement.name:24} {version(requirement.name)}")
    return not problems


def _print_extras(console: Console) -> None:
    """Print which extras are there, and how to install the others."""
    console.print("\n[bold]Extras[/]")
    for extra in metadata("visreplay").get_all("Provides-Extra") or ():
        if extra in FOR_DEVELOPMENT:
            continue
        missing = [wrong for each in requirements(extra) if (wrong := problem(each))]
        state = "installed"
        if missing:
            more = f" and {len(missing) - 1} more" if missing[1:] else ""
            state = f"{missing[0]}{more}: pip install 'visreplay[{extra}]'"
        console.print(f"  {extra:24} {state}", markup=False, soft_wrap=True)


def _print_devices(console: Console) -> None:
    """Print the devices and their memory."""
    console.print("\n[bold]Devices[/]")
    for name, description in _devices():
        console.print(f"  {name:24} {description}", markup=False, soft_wrap=True)


def _devices() -> Iterator[tuple[str, str]]:
    import torch

    memory = ""
    if hasattr(os, "sysconf"):
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        memory = f", {size / GIB:.1f} GiB of memory"
    yield "cpu", f"{os.cpu_count()} cores{memory}"
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield f"cuda:{index}", f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if torch.backends.mps.is_available():
        yield "mps", "Apple GPU, shares the memory"


def _check_embedded_pair(console: Console) -> bool:
    """Ask the embedded pair a held-out question; tell whether the answer is right."""
    from visreplay.agent.episode.embedded_agent import embedded_agent, prepare_process
    from visreplay.tasks.registry import get_task

    console.print("\n[bold]Embedded pair[/]")
    prepare_process()
    task = get_task(TASK)
    sample = task.load(task.sample_ids()[0])
    agent = embedded_agent("policy+token")
    answer = agent.run(sample.question, images=sample.images).answer
    agent.close()
    console.print(f"  question                 {sample.question}", markup=False, soft_wrap=True)
    right = task.is_right(sample, answer)
    verdict = "[green]right[/]" if right else f"[red]wrong[/], it is {escape(sample.answer)}"
    console.print(f"  answer                   {escape(answer or 'none')}, {verdict}")
    return right
