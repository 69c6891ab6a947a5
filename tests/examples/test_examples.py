"""Every example runs from another folder, without a network, and finds the right answer."""

import re
import subprocess
import sys
from pathlib import Path

from served import ENVIRONMENT

EXAMPLES = Path(__file__).parents[2] / "examples"


def printed(name: str, folder: Path) -> str:
    """Run an example and return its output."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=folder,
        env={**ENVIRONMENT, "HF_HUB_OFFLINE": "1", "LANGSMITH_TRACING": "false"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir()), "an example leaves files behind"
    return done.stdout


def test_walkthrough(tmp_path: Path) -> None:
    out = printed("walkthrough.py", tmp_path)
    assert "are 83 tokens, of which (1, 8, 8) are visual" in out
    table = out.partition("low-entropy set):\n")[2].splitlines()[:8]
    entropies = re.findall(r"(\d\.\d\d)([* ])", "\n".join(table))
    low = [float(entropy) for entropy, mark in entropies if mark == "*"]
    high = [float(entropy) for entropy, mark in entropies if mark == " "]
    assert len(low) == len(high) == 32
    assert max(low) <= min(high)
    path = re.search(r"before each step:\n(.*)\nbefore (\S+), after (\S+) nats", out)
    assert path is not None
    steps, before, after = path[1].split(), path[2], path[3]
    assert steps[0] == before
    assert float(after) < float(steps[-1]) < float(before)
    assert "134 tokens were known, 49 are new" in out
    apart = re.search(r"differ by at most (\S+)", out)
    assert apart is not None
    assert float(apart[1]) < 1e-4
    assert re.search(r"<answer>(.)</answer>\nexpected: \1\n$", out)


def test_langchain_agent(tmp_path: Path) -> None:
    out = printed("langchain_agent.py", tmp_path)
    steps = re.findall(
        r"^step (\d)  (\d+) new visual tokens, KL (\S+) -> (\S+) nats; (\d+) of (\d+) tokens",
        out,
        re.MULTILINE,
    )
    assert [(step, new) for step, new, *_ in steps] == [("1", "64"), ("2", "36")]
    assert all(float(after) < float(before) for _, _, before, after, _, _ in steps)
    assert steps[0][4] == "0" < steps[1][4]
    # The report comes before the turn.
    assert out.index("step 2") < out.index("<answer>")
    assert re.search(r"<answer>(.)</answer>\n\nexpected: \1\n$", out)


def test_langgraph_toolnode(tmp_path: Path) -> None:
    out = printed("langgraph_toolnode.py", tmp_path)
    stopped = re.match(r"stopped before the tool; (\d+) KB of checkpoints\n", out)
    assert stopped is not None
    assert 0 < int(stopped[1]) < 100
    kinds = re.findall(r"=+ (\w+) Message =+", out)
    assert kinds == ["Human", "Ai", "Tool", "Ai"]
    assert "'url': 'visreplay:" in out
    assert re.search(
        r"<answer>(.)</answer>\n\nthe resumed process read 183 tokens; expected: \1\n$", out
    )


def test_mcp_client(tmp_path: Path) -> None:
    out = printed("mcp_client.py", tmp_path)
    assert re.findall(r"^(\w+): ", out, re.MULTILINE) == [
        "crop", "zoom", "sample_frames", "video_info", "ask", "zoom", "ask", "answer"
    ]  # fmt: skip
    assert "box [0, 0, 336, 336] px of the 1344 x 1344 px image" in out
    assert re.findall(r"^  (\d/\S)  ", out, re.MULTILINE) == ["0/?", "1/8", "2/8"]
    assert re.search(r"answer: (.); expected: \1\n$", out)


def test_the_list_is_complete() -> None:
    listed = re.findall(r"^\| `(\w+\.py)` \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in EXAMPLES.glob("*.py"))
