"""The example for OpenAI's client runs without changes."""

import os
import re
import subprocess
import sys
from pathlib import Path

from served import ENVIRONMENT

EXAMPLE = Path(__file__).parents[2] / "examples" / "openai_client.py"


def test_the_example_starts_a_server_and_plays() -> None:
    environment = {**ENVIRONMENT, "HOME": os.environ.get("HOME", "")}
    run = subprocess.run(
        [sys.executable, EXAMPLE], env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert "models: policy, policy+replay, base" in run.stdout
    assert run.stdout.count("call: zoom") == 1
    answer, right = re.search(r"<answer>(.+)</answer>\nright answer: (.+)\n", run.stdout).groups()  # type: ignore[union-attr]
    assert answer == right
