"""Results of single samples in a file that grows, so that a long run can be stopped and resumed."""

import json
from pathlib import Path
from typing import Any


class Journal:
    """A JSON Lines file: the settings first, then one result a line.

    Example:
        >>> journal = Journal(Path("runs/x/records.jsonl"), {"tau": 0.4})
        >>> if "sample-1" not in journal.results:
        ...     journal.add("sample-1", {"kl": 0.1})

    Attributes:
        path: The file.
        results: Every result so far, by key.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Open a file, or start it.

        Args:
            path: The file; its folder is made if need be.
            settings: JSON values: everything that the results depend on.

        Raises:
            ValueError: the file was made under other settings, or a line of it is none of ours.
        """
        self.path = path
        self._settings = json.loads(json.dumps(settings))  # as they will be read back
        content = path.read_bytes() if path.exists() else b""
        # A line without an end was being written when the run was stopped.
        whole = content[: content.rfind(b"\n") + 1]
        lines = [self._parse(n, line) for n, line in enumerate(whole.splitlines(), 1)]
        self.results: dict[str, Any] = {line["key"]: line["result"] for line in lines[1:]}
        if self.results:
            self._check(lines[0]["settings"])
            if len(whole) < len(content):
                path.write_bytes(whole)

    def add(self, key: str, result: Any) -> None:
        """Append a result; it is in the file when this returns."""
        if not self.results:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write({"settings": self._settings}, "w")
        self._write({"key": key, "result": result}, "a")
        self.results[key] = result

    def _write(self, line: dict[str, Any], mode: str) -> None:
        with self.path.open(mode, encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        keys = {"settings"} if number == 1 else {"key", "result"}
        try:
            value = json.loads(line)
        except ValueError as error:
            raise self._foreign(number) from error
        if not isinstance(value, dict) or value.keys() != keys:
            raise self._foreign(number)
        return value

    def _foreign(self, number: int) -> ValueError:
        return ValueError(
            f"line {number} of {self.path} is not one that an earlier run wrote: delete the file "
            "to start anew, or choose another --out"
        )

    def _check(self, theirs: dict[str, Any]) -> None:
        """Refuse to go on under other settings, and name the first that differ."""
        before, now = _flat(theirs), _flat(self._settings)
        different = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if different:
            shown = "; ".join(
                f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
                for name in different[:3]
            )
            raise ValueError(
                f"{self.path} was begun under other settings ({shown}): choose another --out, or "
                "delete the file to start anew"
            )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
