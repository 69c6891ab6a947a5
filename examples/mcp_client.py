"""Start `visreplay mcp` over stdio with the official client: its tools, a zoom, and a question.

pip install 'visreplay[mcp]'
python examples/mcp_client.py
"""

import asyncio
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import ImageContent, TextContent

from visreplay.tasks import get_task


async def progress(done: float, most: float | None, message: str | None) -> None:
    """Print a step as soon as it has ended."""
    print(f"  {done:.0f}/{f'{most:.0f}' if most else '?'}  {message}")


async def main(folder: Path) -> None:
    """Use the server; it may open the files of the folder, and no others."""
    task = get_task("visual-search-medium")
    sample = task.load(task.sample_ids()[0])
    sample.images[0].save(folder / "scene.png")
    # In a client's configuration: "command": "visreplay", "args": ["mcp", "--root", FOLDER]. For a
    # 7B pair add "--policy", "ChenShawn/DeepEyes-7B", "--base", "Qwen/Qwen2.5-VL-7B-Instruct".
    arguments = ["-m", "visreplay.tasks", "mcp", "--root", str(folder)]
    server = StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        for tool in (await session.list_tools()).tools:
            print(f"{tool.name}: {tool.description}")

        box = {"image": "scene.png", "bbox": [0, 0, 336, 336]}
        line, picture = (await session.call_tool("zoom", box)).content
        assert isinstance(line, TextContent) and isinstance(picture, ImageContent)
        print(f"\nzoom: {line.text}\n  {len(picture.data)} characters of {picture.mimeType}")

        print(f"\nask: {sample.question}")
        request = {"question": sample.question, "images": ["scene.png"]}
        answer = await session.call_tool("ask", request, progress_callback=progress)
        print(f"answer: {(answer.structuredContent or {})['answer']}; expected: {sample.answer}")


with TemporaryDirectory() as name:
    asyncio.run(main(Path(name)))
