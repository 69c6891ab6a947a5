import json
from html.parser import HTMLParser

from PIL import Image

from visreplay.agent import Loop, ScriptedPolicy, Trajectory, build_graph, protocol_named
from visreplay.tasks.page import Shown, render_page
from visreplay.tools import ImageStore, TokenGrid

CALL = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [256, 256, 512, 512]}}
EVIL = "<script>alert(1)</script>"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def page(answer: str) -> str:
    store = ImageStore()
    protocol = protocol_named("deepeyes", TokenGrid(), store)
    turns = [
        f"<think>{EVIL}</think><tool_call>{json.dumps(CALL)}</tool_call>",
        f"<answer>{answer}</answer>",
    ]
    picture = Image.linear_gradient("L").convert("RGB").resize((1024, 1024))
    start = Loop(protocol).start(EVIL, images=[store.put(picture)])
    state = build_graph(ScriptedPolicy(turns), protocol).invoke(start)
    settings = {"replay": {"method": "none"}}
    trajectory = Trajectory.of(state, policy="p", base=None, protocol="deepeyes", settings=settings)  # type: ignore[arg-type]
    return render_page([Shown(trajectory, "B")], store)


def test_the_page_is_self_contained() -> None:
    tags = Tags()
    tags.feed(page("B"))
    sources = [attributes["src"] for _, attributes in tags.seen if "src" in attributes]
    assert len(sources) == 2  # the picture and the crop
    assert all(source and source.startswith("data:image/jpeg") for source in sources)
    assert not any("href" in attributes for _, attributes in tags.seen)


def test_what_a_model_writes_is_text() -> None:
    html = page(EVIL)
    assert EVIL not in html
    assert "&lt;script&gt;" in html


def test_the_called_box_is_drawn_over_the_picture() -> None:
    assert "left:25.0%;top:25.0%;width:25.0%;height:25.0%" in page("B")


def test_the_verdict_is_shown() -> None:
    assert 'class="right"' in page("B")
    assert "wrong, it is B" in page("C")


def test_every_call_of_a_turn_is_shown_with_what_came_of_it() -> None:
    store = ImageStore()
    protocol = protocol_named("qwen3-vl", TokenGrid(), store)
    boxes = ([250, 250, 500, 500], [9, 9, 0, 0])
    calls = [{**CALL, "arguments": {"bbox_2d": box, "label": "x", "img_idx": 1}} for box in boxes]
    written = "".join(f"<tool_call>{json.dumps(call)}</tool_call>" for call in calls)
    images = [store.put(Image.new("RGB", (1024, 1024), colour)) for colour in ("red", "blue")]
    start = Loop(protocol).start("?", images=images)
    state = build_graph(ScriptedPolicy([written, "B"]), protocol).invoke(start)
    trajectory = Trajectory.of(
        state,  # type: ignore[arg-type]
        policy="p",
        base=None,
        protocol="qwen3-vl",
        settings={"replay": {"method": "none"}},
    )
    html = render_page([Shown(trajectory)], store)
    assert html.count("<code>") == 2
    assert "has no area" in html
    # The box is drawn over the second picture alone.
    assert html.count('class="box"') == 1
    assert html.index('class="box"') > html.index("<img", html.index("<img") + 1)
