from .evaluation.evaluate import evaluate
from .evaluation.runs import Run
from .types import Task

__all__ = ["Run", "Task", "evaluate"]
