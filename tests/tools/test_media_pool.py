"""Files that end their decoder, take for ever or need all memory hurt nobody else."""

import contextvars
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
from media_files import bomb, encoded, endless, icon
from numbered import write_numbered
from PIL import Image

from visreplay.tools import ImageStore, Media, ToolError
from visreplay.tools.files import open_bytes, open_file
from visreplay.tools.media_budget import CALLER, Budget, BusyMediaError, PixelAllowance
from visreplay.tools.media_pool import MediaPool
from visreplay.tools.video_choice import FrameChoice

SUPPORT = str(Path(__file__).parent.parent / "support")
SMALL = encoded(Image.new("RGB", (40, 30), "red"), "PNG")


def decode(
    pool: MediaPool, content: bytes, max_pixels: int = 10**8, **options: object
) -> tuple[int, int]:
    with open_bytes(content) as file:
        request = {"op": "image", "max_pixels": max_pixels}
        decoded = pool.decode(request, file, **options)  # type: ignore[arg-type]
    width, height = decoded.values["size"]
    return width, height


@pytest.fixture
def pool() -> object:
    pool = MediaPool(workers=1)
    yield pool
    pool.close()


def pids(pool: MediaPool) -> list[int]:
    return [worker._process.pid for worker in (*pool._idle, *pool._busy)]


def until(done: Callable[[], bool]) -> None:
    """Wait for something that other threads do."""
    for _ in range(3000):
        if done():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def test_children_are_used_again(pool: MediaPool) -> None:
    assert decode(pool, SMALL) == (40, 30)
    first = pids(pool)
    assert decode(pool, SMALL) == (40, 30)
    assert pids(pool) == first and len(first) == 1


def test_a_child_outlives_many_videos(pool: MediaPool, tmp_path: Path) -> None:
    """What a closed decoder has reserved does not count against the child."""
    video = write_numbered(tmp_path / "a.mp4", "mpeg4", frames=30)
    choice = asdict(FrameChoice(count=8))
    request = {"op": "frames", "max_pixels": 10**6, "max_seconds": None, "choice": choice}
    processes = set()
    for _ in range(60):
        with open_file(video, "video") as file:
            pool.decode(request, file)
        processes |= {worker._process.pid for worker in pool._idle}
    assert len(processes) == 1


def test_a_file_that_takes_too_long_ends_its_child_and_no_other_work(pool: MediaPool) -> None:
    decode(pool, SMALL)
    (child,) = pids(pool)
    with pytest.raises(ToolError, match=r"takes longer than the 1 s that are allowed"):
        decode(pool, endless(), seconds=1)
    assert not Path(f"/proc/{child}").exists()
    assert decode(pool, SMALL) == (40, 30)


def test_a_caller_that_leaves_ends_the_child(pool: MediaPool) -> None:
    budget = Budget(pixels=10**9, count=9, seconds=600)
    with ThreadPoolExecutor(1) as threads:
        decoding = threads.submit(decode, pool, endless(), budget=budget)
        until(lambda: bool(pool._busy))
        (child,) = pids(pool)
        budget.leave()
        with pytest.raises(ToolError, match="the caller has left"):
            decoding.result()
    until(lambda: not Path(f"/proc/{child}").exists())
    with pytest.raises(ToolError, match="the caller has left"):
        decode(pool, SMALL, budget=budget)


def test_a_caller_that_leaves_while_waiting_does_not_wait_on(pool: MediaPool) -> None:
    first, second = (Budget(pixels=10**9, count=9, seconds=600) for _ in range(2))
    with ThreadPoolExecutor(2) as threads:
        holding = threads.submit(decode, pool, endless(), budget=first)
        until(lambda: bool(pool._busy))
        waiting = threads.submit(decode, pool, SMALL, budget=second)
        until(lambda: bool(second._ends))
        second.leave()
        with pytest.raises(ToolError, match="the caller has left"):
            waiting.result()
        with pytest.raises(ToolError, match=r"longer than the 0.2 s"):
            decode(pool, SMALL, seconds=0.2)
        assert not holding.done()
        first.leave()
    assert decode(pool, SMALL) == (40, 30)


def test_a_child_that_dies_is_an_error_of_its_file_alone(pool: MediaPool) -> None:
    with ThreadPoolExecutor(1) as threads:
        decoding = threads.submit(decode, pool, endless())
        until(lambda: bool(pool._busy))
        os.kill(pids(pool)[0], signal.SIGABRT)
        with pytest.raises(ToolError, match=r"the data cannot be read: its decoder .* SIGABRT"):
            decoding.result()
    assert decode(pool, SMALL) == (40, 30)


def test_a_child_that_was_killed_while_idle_is_replaced(pool: MediaPool) -> None:
    decode(pool, SMALL)
    (child,) = pids(pool)
    os.kill(child, signal.SIGKILL)
    until(lambda: Path(f"/proc/{child}/stat").read_text("utf-8").split()[2] == "Z")
    assert decode(pool, SMALL) == (40, 30)


def test_closing_ends_what_is_decoded(pool: MediaPool) -> None:
    with ThreadPoolExecutor(1) as threads:
        decoding = threads.submit(decode, pool, endless())
        until(lambda: bool(pool._busy))
        pool.close()
        with pytest.raises(ToolError, match="SIGKILL"):
            decoding.result()


PROGRAM = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
from media_files import endless
from visreplay.tools import load_image
from visreplay.tools.media_pool import POOL
threading.Thread(target=load_image, args=(endless(),), daemon=True).start()
while not POOL._busy:
    time.sleep(0.01)
print(*[worker._process.pid for worker in POOL._busy], flush=True)
{end}
"""


@pytest.mark.parametrize("end", ["sys.exit()", "time.sleep(600)"], ids=["exit", "killed"])
def test_no_child_outlives_its_process(end: str) -> None:
    program = PROGRAM.replace("{end}", end)
    arguments = [sys.executable, "-c", program, SUPPORT]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        if end != "sys.exit()":
            parent.kill()
    until(lambda: not Path(f"/proc/{child}").exists() or _is_zombie(child))


def _is_zombie(child: int) -> bool:
    try:
        return Path(f"/proc/{child}/stat").read_text("utf-8").rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_children_know_no_secrets(pool: MediaPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    decode(pool, SMALL)
    (child,) = pids(pool)
    assert b"secret" not in Path(f"/proc/{child}/environ").read_bytes()


def test_memory_is_limited(pool: MediaPool) -> None:
    """Whatever a file says about its size."""
    with pytest.raises(ToolError, match=r"needs more than the 1.1 GiB|16 x 16|at most"):
        decode(pool, icon(bomb()), max_pixels=4_000_000)
    assert decode(pool, icon(SMALL)) == (40, 30)


def test_transparent_pictures_cost_their_pixels_once(pool: MediaPool) -> None:
    picture = Image.new("RGBA", (5000, 4000), (255, 0, 0, 128))
    with open_bytes(encoded(picture, "PNG")) as file:
        decoded = pool.decode({"op": "image", "max_pixels": 2 * 10**7}, file)
        image = Image.frombytes("RGB", tuple(decoded.values["size"]), decoded.pixels)
    assert image.getpixel((4999, 3999)) == (255, 127, 127)
    (child,) = pids(pool)
    status = Path(f"/proc/{child}/status").read_text("utf-8")
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    assert peak < 200 * 2**20, "80 MB of the picture, and not three copies of it"


def test_a_forked_process_has_children_of_its_own() -> None:
    program = (
        "import os, sys\n"
        "from visreplay.tools import load_image\n"
        f"load_image({SMALL!r})\n"
        "pid = os.fork()\n"
        f"assert load_image({SMALL!r}).size == (40, 30)\n"
        "if pid:\n"
        "    print(os.waitpid(pid, 0)[1])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (ended.stdout, ended.stderr) == ("0\n", "")


def test_many_threads_share_the_children() -> None:
    pool = MediaPool(workers=2)
    pictures = [encoded(Image.new("RGB", (10 + i, 20)), "PNG") for i in range(24)]
    with ThreadPoolExecutor(8) as threads:
        sizes = list(threads.map(lambda content: decode(pool, content), pictures))
    assert sizes == [(10 + i, 20) for i in range(24)]
    assert len(pids(pool)) == 2
    pool.close()


def test_the_pixels_of_all_callers_are_limited(tmp_path: Path) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    shared = PixelAllowance(25_000)

    def media() -> Media:
        bounds = Budget(pixels=10**6, count=9, seconds=60, shared=shared)
        return Media(ImageStore(), (tmp_path,), budget=bounds)

    first, second = media(), media()
    first.image("a.png")
    second.image("a.png")
    assert shared.held == 20_000
    with pytest.raises(BusyMediaError, match="try again later"):
        second.image("a.png")
    assert first.budget is not None
    first.budget.leave()
    first.budget.leave()
    assert shared.held == 10_000
    second.image("a.png")


def test_the_caller_of_a_thread_ends_what_is_decoded_in_it(pool: MediaPool) -> None:
    budget = Budget(pixels=10**9, count=9, seconds=600)

    def work() -> None:
        CALLER.set(budget)
        decode(pool, endless())

    with ThreadPoolExecutor(1) as threads:
        decoding = threads.submit(contextvars.copy_context().run, work)
        until(lambda: bool(pool._busy))
        budget.leave()
        with pytest.raises(ToolError, match="the caller has left"):
            decoding.result()
