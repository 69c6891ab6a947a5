"""Copies of objects that hold weights: a model of gigabytes is shared, and not pickled."""

from copy import deepcopy
from typing import Any, NoReturn, Self


class SharesWeights:
    """An object whose copies share its weights, images and caches."""

    def __copy__(self) -> Self:
        """Copy the object without what its attributes hold."""
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy the object with its lists and dictionaries of settings."""
        copied = self.__copy__()
        for name, value in self.__dict__.items():
            if isinstance(value, list | dict):
                copied.__dict__[name] = deepcopy(value, memo)
        return copied

    def __getstate__(self) -> NoReturn:
        """Refuse to be pickled."""
        refuse_pickling(self)


def refuse_pickling(value: object) -> NoReturn:
    """Refuse to pickle an object that holds weights.

    Raises:
        TypeError: Always; it says what to do instead.
    """
    name = type(value).__name__
    raise TypeError(
        f"a {name} holds weights and caches, and is not pickled: pickle its settings, and call "
        f"{name}.from_pretrained in the other process"
    )
