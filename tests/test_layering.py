"""The rules of imports (docs/architecture.md): layers, doors of frameworks, no circles."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LAYERS = {
    "tools": {"tools"},
    "replay_core": {"replay_core", "tools"},
    "agent": {"agent", "tools", "replay_core"},
    "tasks": {"tasks", "agent", "tools", "replay_core"},
}
"""What each folder may import of visreplay: nothing imports upwards."""

LANGCHAIN = (
    "agent/langchain/",
    "agent/episode/graph.py",
    "agent/episode/agent.py",  # a run's configuration, and the type of checkpointers
    "agent/episode/visual_agent.py",
    "agent/episode/remote_agent.py",
    "agent/policy/telemetry.py",  # the writer of the custom stream
    "agent/smolagents/tools.py",  # wraps LangChain's tools
)
HTTP = ("agent/openai/", "agent/serving/", "tasks/commands/serve.py", "tasks/commands/mcp.py")
DOORS = {
    "langchain": LANGCHAIN,
    "langchain_core": LANGCHAIN,
    "langgraph": LANGCHAIN,
    "smolagents": ("agent/smolagents/",),
    "fastapi": HTTP,
    "starlette": HTTP,
    "uvicorn": HTTP,
    "prometheus_client": HTTP,
    "mcp": ("agent/mcp/",),
    "openai": ("agent/policy/endpoint.py",),
    "httpx": ("tools/fetch.py", "agent/vllm/"),
    "visreplay_connector": ("agent/vllm/",),
    "vllm": (),
    "inspect_ai": ("agent/inspect/", "tasks/evaluation/export.py"),
    "peft": ("replay_core/lora", "replay_core/pair.py"),
    "matplotlib": (
        "tasks/analysis/plots.py",
        "tasks/analysis/noise_plots.py",
        "tasks/analysis/pass_curves.py",
    ),
    "av": ("tools/video_decoding.py", "tools/video_timeline.py"),  # in child processes alone
    "decord": (),
    "math_verify": ("tasks/scoring/mathematics.py",),
    "typer": ("tasks/commands/",),
    "ray": ("tasks/evaluation/ray_workers.py",),
}
"""Where each framework may be imported."""

APART = (
    "agent/langchain",
    "agent/smolagents",
    "agent/inspect",
    "agent/openai",
    "agent/mcp",
    "agent/vllm",
)
"""Doors that never import each other's code."""

WHEN_CALLED = {("replay_core/pair.py", "replay_core/session.py")}
"""Imports that close a circle, but only when called: `pair.generate` opens a session."""

FILES = [
    str(path.relative_to(ROOT))
    for folder in LAYERS
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def imports(file: str) -> list[str]:
    """List the dotted names that a file imports, inside of functions too."""
    modules = []
    for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} is a relative import"
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
    return modules


def place(module: str) -> str | None:
    """Find the file of ours that a dotted name leads to; None if it is somebody else's."""
    top, *rest = module.split(".")
    if top != "visreplay" or rest[0] not in LAYERS:
        return None
    path = Path(*rest)
    for candidate in (path, path.parent):
        for file in (candidate.with_suffix(".py"), candidate / "__init__.py"):
            if (ROOT / file).is_file():
                return str(file)
    raise AssertionError(f"there is no {module}")


def package(file: str) -> str:
    """Name the node of a file in the graph of packages: its folder, or itself at a root."""
    path = Path(file)
    return str(path.parent if len(path.parts) > 2 else path)


@pytest.mark.parametrize("file", FILES)
def test_imports_go_downwards(file: str) -> None:
    layer = Path(file).parts[0]
    for module in imports(file):
        top, _, rest = module.partition(".")
        assert top not in LAYERS, f"import visreplay.{module}, not {module}"
        if top == "visreplay" and rest != "__version__":
            assert rest.partition(".")[0] in LAYERS[layer], f"{module} is above {file}"


@pytest.mark.parametrize("file", FILES)
def test_each_framework_has_one_door(file: str) -> None:
    for module in imports(file):
        door = DOORS.get(module.partition(".")[0])
        assert door is None or file.startswith(door), f"{file} imports {module}"


def test_the_connector_stands_alone() -> None:
    """It is installed where vLLM is, and nothing of ours."""
    folder = ROOT / "connector" / "visreplay_connector"
    used = {name for path in folder.glob("*.py") for name in imports(str(path.relative_to(ROOT)))}
    tops = {name.partition(".")[0] for name in used} - sys.stdlib_module_names
    ours = {"visreplay_connector"}
    assert tops == {"vllm", "torch", "safetensors", "packaging", "huggingface_hub", *ours}
    plain = {"handles", "pictures", "fetching", "engine_checks", "serve", "__init__"}
    for name in plain:  # which visreplay reads too, or which run before vLLM is there
        found = {
            each.partition(".")[0]
            for each in imports(str((folder / f"{name}.py").relative_to(ROOT)))
        }
        assert found - sys.stdlib_module_names <= {"packaging", *ours}, name


def test_the_core_takes_from_the_tools_only_how_an_image_is_loaded() -> None:
    used = {name for file in FILES if file.startswith("replay_core/") for name in imports(file)}
    theirs = {name for name in used if name.startswith("visreplay.tools")}
    assert theirs == {"visreplay.tools.ToolError", "visreplay.tools.load_image"}


def test_doors_do_not_know_each_other() -> None:
    for file in FILES:
        ours = next((door for door in APART if file.startswith(f"{door}/")), None)
        theirs = [place(module) or "" for module in imports(file)]
        others = tuple(f"{door}/" for door in APART if ours and door != ours)
        assert not any(each.startswith(others) for each in theirs if others), file


def test_no_package_imports_itself_by_way_of_others() -> None:
    graph: dict[str, set[str]] = {}
    for file in FILES:
        known = {package(place(module) or file) for module in imports(file)}
        # A face is lazy: what it offers is not what it needs.
        known = {each for each in known if not each.endswith("__init__.py")}
        known = {each for each in known if (file, each) not in WHEN_CALLED}
        graph.setdefault(package(file), set()).update(known - {package(file)})
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_there_are_files_to_look_at() -> None:
    assert len(FILES) > 100
