"""What importing decord does to the process that it happens in."""

import subprocess
import sys

PROGRAM = """
import sys
from visreplay.tools import probe
try:
    probe(sys.argv[1])
except Exception as error:
    print(type(error).__name__)
import torch
print(torch.ones(64, 64).matmul(torch.ones(64, 64)).sum().item())
with open("/proc/self/maps") as maps:
    print("nvblas" in maps.read())
"""


def test_a_clip_before_torch_leaves_torch_alone() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, __file__], capture_output=True, text=True, check=False
    )
    assert ended.stdout.split() == ["ToolError", "262144.0", "False"], ended.stderr
