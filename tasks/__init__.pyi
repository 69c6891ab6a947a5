from .evaluation.comparison import compare
from .evaluation.evaluate import evaluate
from .evaluation.runs import Run
from .registry import get_task
from .types import Task, TaskInfo

__all__ = ["Run", "Task", "TaskInfo", "compare", "evaluate", "get_task"]
