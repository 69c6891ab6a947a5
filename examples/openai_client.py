"""An agent on `visreplay serve`, with nothing but OpenAI's client.

It asks for a letter in a picture. When the policy calls the zoom tool, it returns that region.

    pip install 'visreplay[serve]' openai
    python examples/openai_client.py

The server is started here with the embedded pair, on a free port, unless OPENAI_BASE_URL names one:

    visreplay serve
    OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none python examples/openai_client.py
"""

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from openai import OpenAI
from PIL import Image

from visreplay.tasks import get_task
from visreplay.tools import load_image

ZOOM = {
    "type": "function",
    "function": {
        "name": "zoom",
        "description": "Look at a region of the picture, in cells of an 8 x 8 grid.",
        "parameters": {
            "type": "object",
            "properties": {
                "label": {"type": "string"},
                "bbox_2d": {"type": "array", "items": {"type": "number"}},
            },
            "required": ["bbox_2d"],
        },
    },
}


@contextmanager
def server() -> Iterator[OpenAI]:
    """Connect to the server in the environment, or else start one."""
    if "OPENAI_BASE_URL" in os.environ:
        yield OpenAI()
        return
    command = "from visreplay.tasks.commands.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "serve", "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        output = ""
        for line in process.stderr:
            output += line
            if match := re.search(r"at (http://\S+)", line):
                yield OpenAI(base_url=match[1], api_key="none")
                break
        else:
            sys.exit(f"the server did not start:\n{output}")
    finally:
        process.terminate()
        process.communicate()


def part(image: Image.Image) -> dict[str, Any]:
    """Make a picture a part of a message."""
    file = io.BytesIO()
    image.save(file, "png")
    uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": uri}}


def main() -> None:
    """Let the policy answer one question."""
    task = get_task("visual-search-medium")
    sample = task.load(task.sample_ids()[0])
    picture = load_image(sample.images[0])
    print(sample.question)
    messages: list[Any] = [
        {
            "role": "user",
            "content": [part(picture), {"type": "text", "text": sample.question}],
        }
    ]
    with server() as client:
        print("models:", ", ".join(model.id for model in client.models.list()))
        for _ in range(4):
            create: Any = client.chat.completions.create
            completion = create(model="policy+replay", messages=messages, tools=[ZOOM])
            message = completion.choices[0].message
            usage = completion.usage
            print(
                f"{usage.prompt_tokens} prompt tokens, of which "
                f"{usage.prompt_tokens_details.cached_tokens} were cached; "
                f"{completion.replay['new_visual_tokens']} new visual tokens replayed"
            )
            print(message.content)
            messages.append(message)
            if not message.tool_calls:
                break
            for call in message.tool_calls:
                print("call:", call.function.name, call.function.arguments)
                box = json.loads(call.function.arguments)["bbox_2d"]
                cell = picture.width / 8
                crop = picture.crop(tuple(round(cell * side) for side in box)).resize((168, 168))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": [part(crop)]})
    print("right answer:", sample.answer)


if __name__ == "__main__":
    main()
