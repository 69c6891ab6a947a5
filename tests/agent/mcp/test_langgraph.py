"""The MCP server's tools in a LangGraph agent, by way of langchain-mcp-adapters."""

import base64
import io

import anyio
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_mcp_adapters.client import MultiServerMCPClient
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from PIL import Image
from served import PICTURE, same


def test_a_langgraph_agent_looks_closer(url: str) -> None:
    """An agent by rule: crop, zoom into what came back, name a file that is not there, end."""

    def act(state: MessagesState) -> dict[str, list[AIMessage]]:
        results = [message for message in state["messages"] if isinstance(message, ToolMessage)]
        if not results:
            step = ("crop", {"image": "scene.png", "bbox": [0, 0, 200, 200]})
        elif len(results) == 1:
            reference = results[0].artifact["structured_content"]["image"]
            step = ("zoom", {"image": reference, "bbox": [0, 0, 50, 50]})
        elif len(results) == 2:
            step = ("zoom", {"image": "../private.png"})
        else:
            return {"messages": [AIMessage("enough")]}
        name, arguments = step
        calls = [{"name": name, "args": arguments, "id": str(len(results))}]
        return {"messages": [AIMessage("", tool_calls=calls)]}

    async def play() -> list[ToolMessage]:
        client = MultiServerMCPClient({"eyes": {"transport": "streamable_http", "url": url}})
        graph = StateGraph(MessagesState)
        graph.add_node("act", act)
        graph.add_node("tools", ToolNode(await client.get_tools()))
        graph.add_edge(START, "act")
        graph.add_conditional_edges("act", tools_condition)
        graph.add_edge("tools", "act")
        end = await graph.compile().ainvoke({"messages": [HumanMessage("look")]})
        return [message for message in end["messages"] if isinstance(message, ToolMessage)]

    cut, closer, refused = anyio.run(play)
    line, picture = cut.content
    assert line["text"].startswith("box [0, 0, 200, 200] px")
    crop = Image.open(io.BytesIO(base64.b64decode(picture["base64"])))
    assert same(crop, PICTURE.crop((0, 0, 200, 200)))
    assert closer.artifact["structured_content"]["source_size"] == [200, 200]
    assert refused.status == "error"
    assert "outside the folders" in str(refused.content)
