"""The command `visreplay paper`: the figures that the paper publishes."""

from visreplay.tasks.commands.console import Console
from visreplay.tasks.commands.options import MarkdownOption
from visreplay.tasks.evaluation.tables import paper_tables


def paper(markdown: MarkdownOption = False) -> None:
    """Print the figures that the paper publishes, and what is inconsistent or open in them."""
    console = Console(highlight=False)
    for grid in paper_tables():
        grid.show(console, markdown=markdown)
