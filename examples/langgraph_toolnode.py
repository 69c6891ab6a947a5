"""Your own LangGraph graph of policy and ToolNode, stopped before a tool and resumed from SQLite.

pip install visreplay langgraph-checkpoint-sqlite
python examples/langgraph_toolnode.py
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from visreplay.agent import ReplayChatModel, protocol_tools, question
from visreplay.tasks import get_task
from visreplay.tools import ImageStore


def load(folder: Path) -> tuple[ReplayChatModel, StateGraph]:
    """Load a model that keeps its images in a folder, and build a graph around it."""
    # The tiny pair that ships. A 7B pair: "ChenShawn/DeepEyes-7B", "Qwen/Qwen2.5-VL-7B-Instruct".
    model = ReplayChatModel.from_pretrained(
        "embedded",
        store=ImageStore(folder / "images"),  # messages refer to it: checkpoints hold no pixels
    )
    tools = protocol_tools(model)
    policy = model.bind_tools(tools)
    graph = StateGraph(MessagesState)
    graph.add_node("policy", lambda state: {"messages": [policy.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "policy")
    graph.add_conditional_edges("policy", tools_condition)
    graph.add_edge("tools", "policy")
    return model, graph


task = get_task("visual-search-medium")
sample = task.load(task.sample_ids()[0])
thread = {"configurable": {"thread_id": "1"}}
with TemporaryDirectory() as name:
    folder = Path(name)
    file = folder / "checkpoints.sqlite"
    with SqliteSaver.from_conn_string(str(file)) as saver:
        model, graph = load(folder)
        state = {"messages": [question(model, sample.question, sample.images)]}
        graph.compile(saver, interrupt_before=["tools"]).invoke(state, thread)
    print(f"stopped before the tool; {file.stat().st_size / 1024:.0f} KB of checkpoints")

    with SqliteSaver.from_conn_string(str(file)) as saver:  # as another process could
        _, graph = load(folder)
        end = graph.compile(saver).invoke(None, thread)
for message in end["messages"]:
    message.pretty_print()
usage = end["messages"][-1].usage_metadata
print(f"\nthe resumed process read {usage['input_tokens']} tokens; expected: {sample.answer}")
