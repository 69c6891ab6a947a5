"""What a policy saw in a scene: its first thought, beside the scene's markers."""

from collections.abc import Sequence
from typing import cast

from visreplay.tasks.synthetic.visual_search import Marker
from visreplay.tasks.types import Sample


def perceived(sample: Sample, thought: str) -> tuple[bool, bool]:
    """Tell whether the thought lists every marker at its place, and the one in question."""
    markers = cast(Sequence[Marker], sample.facts["markers"])
    target = cast(Marker, sample.facts["target"])
    listing = " ".join(map(_word, markers))
    return f"{listing} so" in thought, f"so {_word(target)}" in thought


def _word(marker: Marker) -> str:
    return f"{marker.colour}{marker.column}{marker.row}"
