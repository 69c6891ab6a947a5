"""What the commands that go through samples share: settings, the way through, and plots."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from visreplay.tasks.commands.console import Console, progress_bar
from visreplay.tasks.evaluation.journal import Journal
from visreplay.tasks.evaluation.tables import counted

if TYPE_CHECKING:
    from visreplay.agent import Recipe
    from visreplay.tasks.commands.options import PairOptions
    from visreplay.tasks.commands.pair_choice import PairChoice
    from visreplay.tasks.commands.remote_choice import RemoteChoice
    from visreplay.tasks.types import Sample, Task


def settings_of(
    source: "Task",
    data: Path | None,
    choice: "PairChoice | RemoteChoice",
    pair: "PairOptions",
    recipe: "Recipe | None" = None,
) -> dict[str, Any]:
    """List what every such run depends on; not its device and number of samples, which may change.

    Args:
        source: The task.
        data: The task's file.
        choice: The pair, or the model behind a URL.
        pair: The options that chose it.
        recipe: The recipe, where it is not the pair's.
    """
    return {
        "task": source.name,
        "data": data and str(data),
        "data_digest": getattr(source, "digest", None),
        "policy": choice.names[0],
        "base": choice.names[1],
        **choice.address,
        "processor": pair.processor,
        "recipe": (recipe or choice.recipe).to_table(),
        "dtype": pair.dtype,
    }


def measure_samples(
    journal: Journal,
    source: "Task",
    ids: Sequence[str],
    console: Console,
    measure: "Callable[[int, Sample], dict[str, Any]]",
) -> list[dict[str, Any]]:
    """Measure the samples that a journal does not have yet.

    Args:
        journal: Where results are written as they come.
        source: The task.
        ids: The samples.
        console: Where the progress is printed.
        measure: Measures a sample, given its number and the sample itself.

    Returns:
        The results of all samples, in order.
    """
    from visreplay.tasks.analysis.estimates import group_of

    if journal.damaged:
        lines = counted(len(journal.damaged), "damaged line")
        console.print(
            f"{lines} of {journal.path}: moved to {journal.path.name}.damaged, and the missing "
            "samples are measured again",
            markup=False,
            soft_wrap=True,
        )
    with progress_bar(console) as progress:
        for number, sample_id in enumerate(progress.track(ids, description=source.name)):
            if sample_id not in journal.results:
                sample = source.load(sample_id)
                result = measure(number, sample)
                journal.add(sample_id, {"group": group_of(sample), **result})
    return [journal.results[sample_id] for sample_id in ids]


def import_plots(name: str) -> ModuleType:
    """Import a module of `tasks/analysis` that draws.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        return import_module(f"visreplay.tasks.analysis.{name}")
    except ImportError as error:
        raise ImportError(
            f"plots need {error.name or error}: pip install 'visreplay[analysis]'"
        ) from error
