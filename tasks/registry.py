"""The tasks that the package ships, by name."""

from visreplay.tasks.types import Task
from visreplay.tasks.video_search import VideoSearch
from visreplay.tasks.visual_search import EASY, HARD, MEDIUM, VisualSearch

TASKS = ("visual-search-easy", "visual-search-medium", "visual-search-hard", "video-search")
"""Every name that `task_named` knows."""


def task_named(name: str) -> Task:
    """The task of a name.

    Raises:
        ValueError: If there is no such task.
    """
    for level in (EASY, MEDIUM, HARD):
        task = VisualSearch(level)
        if task.name == name:
            return task
    if name == "video-search":
        return VideoSearch()
    raise ValueError(f"there is no task {name!r}; there are {', '.join(TASKS)}")
