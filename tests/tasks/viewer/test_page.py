import copy
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from run_folders import write_run
from scripted import ScriptedPolicy
from shared import MakeAgent
from typer.testing import CliRunner

from visreplay.agent import (
    Loop,
    Trajectory,
    VisualAgent,
    build_graph,
    get_protocol,
)
from visreplay.replay_core import Method
from visreplay.tasks.commands.cli import app
from visreplay.tasks.evaluation.runs import Run, SampleRecord, record_of, rollout_of
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Sample
from visreplay.tasks.viewer.page import LONGEST_SIDE, PageSummary, write_page
from visreplay.tasks.viewer.page_data import ImageNumbers, sample_details, sample_summary
from visreplay.tools import ImageStore, ToolError, zoom

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
EVIL = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)>"

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium on the PATH: apt-get install chromium"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A policy that is right, and a base that is mostly wrong, on the same scenes and a video."""
    folder = tmp_path_factory.mktemp("runs")
    samples = [("visual-search-medium", 3), ("video-search", 1)]
    return [
        write_run(folder / "replayed", "policy+token", samples, rollouts=2),
        write_run(folder / "base", "base", samples),
    ]


def opened(*folders: Path) -> list[Run]:
    return [Run.open(folder) for folder in folders]


def blocks(page: Path, kind: str) -> dict[str, str]:
    """The blocks of data of a page, by id."""
    matches = re.findall(rf'<script type="{kind}" id="(\w+)"[^>]*>(.*?)</script>', page.read_text())
    return dict(matches)


# --- contents of the page -----------------------------------------------------------------------


def test_each_image_is_on_the_page_once_and_small(runs: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    written = write_page(opened(*runs), page)
    images = blocks(page, "text/plain")
    assert len(images) == len(set(images.values())) == written.images
    assert written == PageSummary(4, 12, written.images, 0, page.stat().st_size)
    sizes = re.findall(r'data-width="(\d+)"', page.read_text())
    assert "1344" in sizes  # the size of the original, in whose pixels boxes count
    assert LONGEST_SIDE < 1344


def test_the_page_contains_no_other_address(runs: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_page(opened(*runs), page)
    code = re.sub(r'<script type="(text/plain|application/json)".*?</script>', "", page.read_text())
    assert "default-src 'none'" in code
    assert not re.search(r"https?://|\bsrc=|fetch\(|import\(", code)


def test_the_map_of_a_block_lies_over_its_picture(runs: list[Path]) -> None:
    run = Run.open(runs[0])
    scene, video = next(iter(run.records)), list(run.records)[-1]
    pictures = ImageNumbers()
    ((details, *_),) = sample_details(scene, [run], pictures)
    (picture,) = details["opening"]
    assert picture["map"]["grid"] == [1, 8, 8]
    (call,) = details["steps"][0]["calls"]
    assert call["source"] == picture["frames"][0]
    assert call["views"][0]["map"]["grid"][0] == 1
    ((details, *_),) = sample_details(video, [run], pictures)
    (frames,) = details["opening"]
    assert len(frames["frames"]) == len(frames["times"]) == 8
    assert frames["map"]["grid"][0] == 4  # two frames a step in time
    assert all(view["times"] for view in details["steps"][0]["calls"][0]["views"])


def test_steps_without_blocks_have_no_maps(runs: list[Path]) -> None:
    run = Run.open(runs[1])
    ((details,),) = sample_details(next(iter(run.records)), [run], ImageNumbers())
    assert details["opening"][0]["map"] is None


def test_a_record_of_another_shape_is_named(runs: list[Path], tmp_path: Path) -> None:
    run = Run.open(runs[1])
    sample = next(iter(run.records))
    broken = copy.deepcopy(run.records[sample])
    del broken["rollouts"][0]["trajectory"]["steps"]
    run = replace(run, records={sample: broken})
    with pytest.raises(ValueError, match=f"{sample}.*'steps'"):
        write_page([run], tmp_path / "page.html")


def test_a_question_that_one_run_could_not_load_comes_from_another(runs: list[Path]) -> None:
    base = Run.open(runs[1])
    sample, known = next(iter(base.records.items()))
    lost: SampleRecord = {
        "sample_id": sample, "question": None, "expected": None, "category": None,
        "error": "OSError: gone", "rollouts": [],
    }  # fmt: skip
    lame = replace(base, records={sample: lost})
    for order in ([lame, base], [base, lame]):
        summary = sample_summary(sample, order)
        assert [summary[key] for key in ("question", "expected", "category")] == [
            known[key] for key in ("question", "expected", "category")
        ]
    assert sample_summary(sample, [lame])["question"] is None


def test_tools_have_a_share_of_the_time_except_in_old_records(runs: list[Path]) -> None:
    run = Run.open(runs[0])
    sample = next(iter(run.records))
    step = run.records[sample]["rollouts"][0]["trajectory"]["steps"][0]
    (use,) = step["tool_calls"]

    def tools() -> float:
        ((details, *_),) = sample_details(sample, [run], ImageNumbers())
        return details["steps"][0]["tools"]  # type: ignore[no-any-return]

    assert tools() == use["seconds"] > 0
    del use["seconds"]
    assert tools() == 0


def test_numbers_that_json_does_not_have_become_null(runs: list[Path], tmp_path: Path) -> None:
    run = Run.open(runs[0])
    sample, record = next(iter(run.records.items()))
    record["rollouts"][0]["trajectory"]["steps"][0]["replay"]["kl_before"] = float("nan")
    write_page([replace(run, records={sample: record})], tmp_path / "page.html")
    assert "NaN" not in blocks(tmp_path / "page.html", "application/json")["d0"]


def test_deleted_and_damaged_images_are_counted(runs: list[Path], tmp_path: Path) -> None:
    folder = shutil.copytree(runs[0], tmp_path / "run")
    first, second, *_ = sorted((folder / "images").iterdir())
    first.unlink()
    second.write_bytes(second.read_bytes()[:100])
    assert write_page(opened(folder), tmp_path / "page.html").missing == 2


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1"])
def test_pictures_of_every_mode(mode: str, tmp_path: Path, make_agent: MakeAgent) -> None:
    store = ImageStore(tmp_path / "images")
    picture = Image.linear_gradient("L").resize((2000, 40)).convert(mode)
    loop = Loop(make_agent(Method.NONE, protocol="deepeyes", store=store).protocol)
    state = loop.start("?", images=[store.put(picture)])
    state["stop_reason"] = "no_answer"
    trajectory = Trajectory.of(state, policy="p", base=None, protocol="deepeyes", settings={})
    record = record_of(Sample("a", "?", "B"), [rollout_of(trajectory, right=False)])
    written = write_page([Run(tmp_path, {}, {"a": record})], tmp_path / "page.html")
    assert (written.images, written.missing) == (1, 0)


# --- the command --------------------------------------------------------------------------------


def visreplay(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, " ".join(result.output.split())


def test_the_command_writes_the_page(runs: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    code, out = visreplay("view", *runs, "--out", page)
    assert code == 0, out
    assert page.exists()
    assert "4 samples, 12 trajectories" in out


def test_an_unfinished_line_is_left_out(runs: list[Path], tmp_path: Path) -> None:
    folder = shutil.copytree(runs[1], tmp_path / "run")
    with (folder / "run.jsonl").open("a") as file:
        file.write('{"sample_id": "half')
    assert len(Run.open(folder).records) == 4


@pytest.mark.parametrize("line", ["no json", "[1]", '{"settings": {}}', "7"])
def test_a_foreign_line_is_left_out(line: str, runs: list[Path], tmp_path: Path) -> None:
    folder = shutil.copytree(runs[1], tmp_path / "run")
    with (folder / "run.jsonl").open("a") as file:
        file.write(line + "\n")
    code, out = visreplay("view", folder, "--no-open")
    assert code == 0
    assert "line 6 of run.jsonl is damaged and left out" in out
    assert "4 samples" in out


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    code, out = visreplay("view", tmp_path / "nowhere")
    assert code == 2
    assert "nowhere" in out


# --- the page in a browser ----------------------------------------------------------------------


class Tab:
    """A browser tab with the page; it keeps console messages, errors and requests."""

    def __init__(self, context: Any) -> None:
        self.page = context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, path: Path, link: str = "") -> Any:
        self.page.goto(path.as_uri() + link)
        self.page.wait_for_selector(".column", state="attached")
        return self.page

    def until(self, condition: str) -> None:
        """Wait for a condition; the page's security policy forbids `wait_for_function`."""
        for _ in range(300):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"the condition never held: {condition}")

    def texts(self, selector: str) -> list[str]:
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]

    def chosen(self) -> str:
        text: str = self.page.locator(".question .id").inner_text()
        return text.split(" ")[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def tab(browser: Any, request: pytest.FixtureRequest) -> Iterator[Tab]:
    """A tab; after the test, it has no errors and has made no request outside of the page."""
    context = browser.new_context(**getattr(request, "param", {}))
    tab = Tab(context)
    yield tab
    context.close()
    assert tab.errors == []
    assert [url for url in tab.requests if not url.startswith(("file:", "blob:", "data:"))] == []


@pytest.fixture(scope="module")
def page_file(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both runs, and a sample of the first that failed."""
    replayed, base = opened(*runs)
    try:
        zoom(Image.new("RGB", (900, 2)))
    except ToolError as refusal:
        error = f"ToolError: {refusal}"
    failed = record_of(Sample("failed", "Which?", "B"), [])
    failed["error"] = error
    records = {**replayed.records, "failed": failed}
    page = tmp_path_factory.mktemp("page") / "page.html"
    write_page([replace(replayed, records=records), base], page)
    return page


@needs_chromium
def test_a_trajectory_is_shown_whole(tab: Tab, page_file: Path) -> None:
    page = tab.open(page_file)
    replayed = page.locator(".column").first
    assert replayed.get_attribute("aria-label") == "Run A replayed"
    assert replayed.locator(".opening .box").get_attribute("data-step") == "0"
    assert "zoom" in replayed.locator(".call").inner_text()
    assert "→" in replayed.locator(".measures").first.inner_text()
    assert replayed.locator(".bars.time .replay").count() == 2
    parts = [replayed.locator(f".bars.time .{kind}").first for kind in ("replay", "rest", "called")]
    assert all(part.bounding_box()["width"] > 0 for part in parts)
    assert re.search(
        r"s replay, .*s rest, .*[1-9].* m?s tools", replayed.locator(".measures").first.inner_text()
    )
    tab.until("document.querySelector('.observed img').naturalWidth > 0")
    # The box lies where the call put it: a cell of the 8 x 8 grid.
    width = replayed.locator(".opening .picture").bounding_box()["width"]
    box = replayed.locator(".opening .box").bounding_box()["width"]
    assert box == pytest.approx(width / 8, abs=3)


@needs_chromium
def test_samples_are_filtered(tab: Tab, page_file: Path) -> None:
    page = tab.open(page_file)
    assert page.locator("#rows li").count() == 5
    verdicts = page.get_by_role("group", name="Show")
    verdicts.get_by_role("button", name="error").click()
    assert tab.texts("#rows .id") == ["failed"]
    page.get_by_role("combobox", name="Run").select_option("B base")
    verdicts.get_by_role("button", name="wrong").click()
    assert page.locator("#rows li").count() == page.locator("#rows .chip.bad").count() > 0
    verdicts.get_by_role("button", name="flipped").click()
    rows = page.locator("#rows li")
    assert rows.count() > 0
    assert rows.locator(".chip.good").count() == rows.locator(".chip.bad").count() == rows.count()


@needs_chromium
def test_errors_stand_beside_a_run_s_share(tab: Tab, page_file: Path) -> None:
    tab.open(page_file)
    replayed, base = tab.texts("#totals .total")
    assert "%" in replayed and "1 error" in replayed
    assert "%" in base and "errors" not in base


@needs_chromium
def test_the_search_covers_thoughts(tab: Tab, page_file: Path) -> None:
    page = tab.open(page_file)
    page.keyboard.press("/")
    page.keyboard.type("LIT at")
    tab.until("document.querySelectorAll('#rows li').length === 1")
    assert tab.texts("#rows .id") == ["video-search-20000000"]
    page.keyboard.type(" nonsense")
    tab.until("document.querySelectorAll('#rows li').length === 0")
    assert page.locator("#count").inner_text() == "No sample matches."


@needs_chromium
def test_keys_step_through_samples_steps_rollouts_and_runs(tab: Tab, page_file: Path) -> None:
    page = tab.open(page_file)
    first, second = tab.texts("#rows .id")[:2]
    page.keyboard.press("j")
    tab.until(f"document.querySelector('.question .id').innerText.includes('{second}')")
    page.keyboard.press("k")
    tab.until(f"document.querySelector('.question .id').innerText.includes('{first}')")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".focused li.step[data-step='1'][aria-current]")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector(".focused li.step[data-step='0'][aria-current]")
    page.keyboard.press("]")
    page.wait_for_selector(".focused .rollouts [aria-label^='Rollout 2'][aria-pressed='true']")
    page.keyboard.press("r")
    page.wait_for_selector(".column.focused[aria-label='Run B base']")
    assert "run=B" in page.url
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()


@needs_chromium
def test_a_link_leads_to_its_step_and_moving_writes_it(tab: Tab, page_file: Path) -> None:
    sample = get_task("visual-search-medium").sample_ids()[1]
    page = tab.open(page_file, f"#sample={sample}&run=replayed&rollout=2&step=2")
    page.wait_for_selector(".focused li.step[data-step='1'][aria-current]")
    assert tab.chosen() == sample
    assert page.locator(".focused .rollouts [aria-pressed='true']").inner_text() == "2"
    page.keyboard.press("ArrowLeft")
    assert page.url.endswith(f"#sample={sample}&run=A&rollout=2&step=1")
    page.keyboard.press("j")
    assert sample not in page.url


@needs_chromium
def test_runs_of_one_name_have_different_labels(tab: Tab, runs: list[Path], tmp_path: Path) -> None:
    folders = [shutil.copytree(runs[1], tmp_path / seed / "hr4k") for seed in ("s0", "s1")]
    write_page(opened(*folders), tmp_path / "page.html")
    page = tab.open(tmp_path / "page.html")
    names = page.locator(".column").evaluate_all("all => all.map((one) => one.ariaLabel)")
    assert len(set(names)) == 2
    assert len(set(tab.texts("#run option"))) == 3
    page.keyboard.press("r")
    page.wait_for_selector(".column.focused[data-run='1']")
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    page.wait_for_selector(".column.focused[data-run='1']")


@needs_chromium
@pytest.mark.parametrize(
    "link", ["#sample=nowhere", "#%ff", "#sample=failed&rollout=9&step=99", "#step=x&rollout=-1"]
)
def test_invalid_links_open_the_page(link: str, tab: Tab, page_file: Path) -> None:
    assert tab.open(page_file, link).locator(".column").count() == 2


@needs_chromium
def test_maps_lie_over_their_pictures(tab: Tab, page_file: Path) -> None:
    page = tab.open(page_file)
    canvas = page.locator(".opening canvas.map")
    assert canvas.count() == 1
    assert not canvas.is_visible()
    page.get_by_role("button", name="Entropy maps").click()
    tab.until("document.querySelector('.opening canvas.map').painted")
    assert canvas.bounding_box() == page.locator(".opening img").first.bounding_box()
    tab.until("document.querySelector('.opening .legend').innerText.includes('nats')")
    # A dot is white, and stands where a token was replayed; half of them were (quantile 0.5).
    white = page.evaluate(
        """() => {
          const canvas = document.querySelector('.opening canvas.map'), side = canvas.width / 8;
          const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.width).data;
          let white = 0;
          for (let y = 0; y < 8; y++) for (let x = 0; x < 8; x++) {
            const at = 4 * ((y + .5) * side * canvas.width + (x + .5) * side);
            white += all.slice(at, at + 4).every((value) => value === 255);
          }
          return white;
        }"""
    )
    assert 24 <= white <= 64


@needs_chromium
def test_text_of_a_model_is_never_markup(tab: Tab, tmp_path: Path, make_agent: MakeAgent) -> None:
    store = ImageStore(tmp_path / "images")
    agent = make_agent(Method.NONE, protocol="deepeyes", store=store)
    call = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 90, 90], "label": EVIL}}
    turns = [f"<think>{EVIL}</think><tool_call>{json.dumps(call)}</tool_call>"]
    turns.append(f"<answer>{EVIL}\u2028\ud800</answer>")
    state = agent.start(EVIL, images=[Image.linear_gradient("L").convert("RGB")])
    state = build_graph(ScriptedPolicy(turns), agent.protocol).invoke(state)  # type: ignore[assignment]
    rollout = rollout_of(agent.trajectory(state), right=False)
    records = {EVIL: record_of(Sample(EVIL, EVIL, EVIL), [rollout])}
    write_page([Run(tmp_path, {EVIL: EVIL}, records)], tmp_path / "page.html")
    page = tab.open(tmp_path / "page.html")
    assert EVIL in page.locator(".answer").inner_text()
    assert page.locator(".thought").inner_text() == EVIL
    assert page.locator("h2").first.inner_text() == EVIL
    assert page.title() == f"{tmp_path.name} · visreplay"
    assert page.locator("img[src=x]").count() == 0


@needs_chromium
def test_a_crop_of_a_crop_has_its_box_on_the_crop(
    tab: Tab, tmp_path: Path, make_agent: MakeAgent
) -> None:
    store = ImageStore(tmp_path / "images")
    agent: VisualAgent = make_agent(Method.NONE, protocol="deepeyes", store=store)
    boxes = [[0, 0, 560, 560], [140, 140, 280, 280]]
    turns = [
        "<think>look</think><tool_call>"
        + json.dumps({"name": "image_zoom_in_tool", "arguments": {"bbox_2d": box}})
        + "</tool_call>"
        for box in boxes
    ]
    picture = Image.linear_gradient("L").resize((1120, 1120)).convert("RGB")
    state = agent.start("?", images=[picture])
    script = ScriptedPolicy([*turns, "<answer>B</answer>"])
    state = build_graph(script, agent.protocol).invoke(state)  # type: ignore[assignment]
    rollout = rollout_of(agent.trajectory(state), right=True)
    # As in a protocol whose second call is on the crop of the first.
    first, second = (
        rollout["trajectory"]["steps"][i]["tool_calls"][0]["observation"] for i in (0, 1)
    )
    side = store.get(first["images"][0]).width
    second |= {"source": first["images"][0], "box": [side // 4, side // 4, side // 2, side // 2]}
    records = {"a": record_of(Sample("a", "?", "B"), [rollout])}
    write_page([Run(tmp_path, {}, records)], tmp_path / "page.html")
    page = tab.open(tmp_path / "page.html")
    assert tab.texts(".opening .box") == ["1"]
    assert tab.texts("li.step[data-step='0'] .observed .box") == ["2"]
    locator = page.locator("li.step[data-step='1'] .locator")
    width = locator.locator(".picture").bounding_box()["width"]
    assert locator.locator(".box").bounding_box()["width"] == pytest.approx(width / 4, abs=3)


def scripted_record(
    folder: Path, protocol: str, turns: Sequence[str], picture: Image.Image, agent: VisualAgent
) -> SampleRecord:
    """Make the record of a scripted episode whose images are in the run's folder."""
    tool_protocol = get_protocol(protocol, agent.protocol.grid, ImageStore(folder / "images"))
    start = Loop(tool_protocol).start("?", images=[tool_protocol.store.put(picture)])
    state = build_graph(ScriptedPolicy(turns), tool_protocol).invoke(start)
    trajectory = Trajectory.of(state, policy="p", base=None, protocol=protocol, settings={})  # type: ignore[arg-type]
    return record_of(Sample("a", "?", "B"), [rollout_of(trajectory, right=False)])


def grounding(*bbox: float, source: str = "original_image") -> str:
    call = {"bbox_2d": bbox, "source": source}
    return f"<think>look</think><grounding>{json.dumps(call)}</grounding>"


@needs_chromium
def test_boxes_lie_on_the_opening_picture_that_was_resized(
    tab: Tab, tmp_path: Path, make_agent: MakeAgent
) -> None:
    turns = [
        grounding(0.25, 0.5, 0.5, 0.75),
        grounding(0, 0, 0.5, 0.5, source="observation_1"),
        "<think>it</think><answer>B</answer>",
    ]
    picture = Image.linear_gradient("L").resize((1200, 900)).convert("RGB")
    record = scripted_record(tmp_path, "mini-o3", turns, picture, make_agent(Method.NONE))
    trajectory = record["rollouts"][0]["trajectory"]
    # A protocol may show a copy of its own; mini-o3 did in earlier versions.
    small = ImageStore(tmp_path / "images").put(picture.resize((600, 450)))
    trajectory["messages"][1]["content"][0]["image"] = small
    run = Run(tmp_path, {}, {"a": record})
    ((details,),) = sample_details("a", [run], ImageNumbers())
    (view,) = details["opening"]
    first, second = (step["calls"][0] for step in details["steps"][:2])
    assert view["frames"] != [view["of"]] == [first["source"]]
    assert second["source"] == first["views"][0]["frames"][0]
    assert trajectory["images"][0] != trajectory["messages"][1]["content"][0]["image"]
    write_page([run], tmp_path / "page.html")
    page = tab.open(tmp_path / "page.html")
    assert tab.texts(".opening .box") == ["1"]
    frame = page.locator(".opening .picture").bounding_box()
    box = page.locator(".opening .box").bounding_box()
    assert box["x"] - frame["x"] == pytest.approx(frame["width"] / 4, abs=3)
    assert box["y"] - frame["y"] == pytest.approx(frame["height"] / 2, abs=3)
    assert box["width"] == pytest.approx(frame["width"] / 4, abs=3)
    page.locator(".opening .picture").click()
    large = page.locator("#large .picture").bounding_box()["width"]
    assert page.locator("#large .box").bounding_box()["width"] == pytest.approx(large / 4, abs=3)


def distinct(run: Run, count: int) -> dict[str, SampleRecord]:
    """Make `count` records, each with its own id, answer and picture."""
    one = next(iter(run.records.values()))
    reference = one["rollouts"][0]["trajectory"]["images"][0]
    written = json.dumps(one)
    records = {}
    for i in range(count):
        picture = Image.new("RGB", (32, 32), (i % 256, i // 256, 99))
        record = json.loads(written.replace(reference, run.store.put(picture)))
        record |= {"sample_id": f"sample-{i:04}", "expected": f"E{i}"}
        for rollout in record["rollouts"]:
            rollout["trajectory"]["answer"] = f"answer {i}"
        records[record["sample_id"]] = record
    return records


@needs_chromium
def test_a_thousand_trajectories_open(tab: Tab, runs: list[Path], tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(runs[0], tmp_path / "run"))
    run = replace(run, records=distinct(run, 1000))
    written = write_page([run], tmp_path / "page.html")
    assert (written.trajectories, written.missing) == (2000, 0)
    assert written.images > 1000
    page = tab.open(tmp_path / "page.html")
    assert page.locator("#count").inner_text() == "1000 of 1000 samples"
    assert page.locator("#rows li").count() < 60  # only those in sight are built
    page.evaluate("document.getElementById('list').scrollTop = 1e9")
    page.wait_for_selector("#rows li:has-text('sample-0999')")
    assert page.locator("#rows li").count() < 60
    page.locator("#rows li:has-text('sample-0999') button").click()
    tab.until("document.querySelector('.question .id').innerText.includes('0999')")
    tab.until("document.querySelector('.opening img').naturalWidth === 32")
    assert "answer 999" in page.locator(".answer").inner_text()
    page.keyboard.press("/")
    page.keyboard.type("answer 512")
    tab.until("document.querySelectorAll('#rows li').length === 1")
    assert tab.texts("#rows .id") == ["sample-0512"]


DARK = {"color_scheme": "dark"}
PHONE = {"viewport": {"width": 390, "height": 800}, "has_touch": True}


def lightness(tab: Tab) -> float:
    colour = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / (3 * 255)


@needs_chromium
@pytest.mark.parametrize("tab", [DARK], indirect=True)
def test_the_theme_follows_the_system_until_the_button(tab: Tab, page_file: Path) -> None:
    page = tab.open(page_file)
    assert lightness(tab) < 0.2
    page.get_by_role("button", name="Switch between light and dark").click()
    assert lightness(tab) > 0.8


@needs_chromium
@pytest.mark.parametrize("tab", [PHONE], indirect=True)
def test_a_phone_shows_one_pane_and_one_run_at_a_time(tab: Tab, page_file: Path) -> None:
    page = tab.open(page_file)
    assert not page.locator("#detail").is_visible()
    page.locator("#rows button").first.click()
    assert page.locator(".column:visible").count() == 1
    page.get_by_role("group", name="Run").get_by_role("button", name="base").click()
    page.wait_for_selector(".column.focused[aria-label='Run B base']")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("button", name="Back to the samples").click()
    assert page.locator("#rows").is_visible()
