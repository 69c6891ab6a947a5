"""The function of `--cot-checker`, which is the user's."""

import importlib
import sys
from pathlib import Path
from typing import cast

from visreplay.tasks.evaluation.evaluate import Checker, describe_error


def load_checker(name: str) -> Checker:
    """Import the function of `--cot-checker`, from the working directory or a package.

    Raises:
        ValueError: The module has no such function, or cannot be imported.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise ValueError(f"--cot-checker is {name!r}, but must name a function: module:function")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        checker = getattr(importlib.import_module(module), function, None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the module is code that may do anything, exiting too
        raise ValueError(
            f"--cot-checker is {name!r}, but importing {module!r} ended with "
            f"{describe_error(error)}"
        ) from error
    if not callable(checker):
        raise ValueError(f"--cot-checker is {name!r}, but must name a function: module:function")
    return cast(Checker, checker)
