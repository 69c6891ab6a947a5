"""Tools that show images, for the agents of smolagents."""

from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from PIL import Image
from smolagents import AgentImage, MultiStepAgent, PromptTemplates, Tool
from smolagents.agents import (
    FinalAnswerPromptTemplate,
    ManagedAgentPromptTemplate,
    PlanningPromptTemplate,
)
from smolagents.memory import ActionStep

from visreplay.agent.chat.media_parts import image_reference
from visreplay.agent.chat.renderer import MAX_URI
from visreplay.tools import ImageStore, Media, ToolError
from visreplay.tools.media import REFERENCE

_STORED = "image.png"
"""The name under which an agent that calls tools keeps the image that a tool returned."""

PLAIN_PROMPTS = PromptTemplates(
    system_prompt="{{ custom_instructions or '' }}",
    planning=PlanningPromptTemplate(
        initial_plan="{{ task }}\n\nWrite a short plan, and <end_plan> after it.",
        update_plan_pre_messages="",
        update_plan_post_messages="{{ task }}\n\nWrite a new plan, and <end_plan> after it.",
    ),
    managed_agent=ManagedAgentPromptTemplate(task="{{ task }}", report="{{ final_answer }}"),
    final_answer=FinalAnswerPromptTemplate(
        pre_messages="", post_messages="{{ task }}\n\nGive the final answer now."
    ),
)
"""Prompts for `ToolCallingAgent`: the task alone, since the protocol offers the tools itself.

smolagents' own prompts want calls in another form than a policy was trained on.
"""


def keep_images(memory_step: ActionStep, agent: MultiStepAgent) -> None:
    """Keep the images that a step's tools return: a step callback.

    Without it, smolagents shows the model no image of a tool, and the task's images again after
    each step. When the tools of one step of a `ToolCallingAgent` return several images, smolagents
    itself keeps one. From a `CodeAgent`'s step the last value is taken, which may be a list of
    images: `step_callbacks=[keep_images]`.
    """
    values = memory_step.action_output
    images = list(values) if isinstance(values, list | tuple) else [values]
    if f"Stored '{_STORED}' in memory." in (memory_step.observations or "").splitlines():
        images.append(agent.state.get(_STORED))
    raw = [image.to_raw() if isinstance(image, AgentImage) else image for image in images]
    memory_step.observations_images = [
        image for image in raw if isinstance(image, Image.Image)
    ] or None


class LangChainTool(Tool):
    """A tool of LangChain for the agents of smolagents, with the images that it returns.

    `Tool.from_langchain` turns images into text, and refuses arguments of several types. Here an
    image goes into the store, and a line `visreplay:...` stands for it. `ReplayModel` shows the
    image in the place of its line, also with several calls and several images, and the agent's
    memory holds no pixels: `LangChainTool(tool, model.chat.store)`.

    Args:
        tool: LangChain's tool.
        store: The image store of the model.
    """

    skip_forward_signature_validation = True
    output_type = "string"

    def __init__(self, tool: BaseTool, store: ImageStore) -> None:
        function = convert_to_openai_tool(tool)["function"]
        parameters = function["parameters"]
        self.name = function["name"]
        self.description = function["description"]
        self.inputs = {
            name: _input(schema, optional=name not in parameters.get("required", ()))
            for name, schema in parameters["properties"].items()
        }
        self.tool = tool
        self.store = store
        super().__init__()  # type: ignore[no-untyped-call]

    def forward(self, **arguments: Any) -> str:
        """Run the tool.

        Args:
            **arguments: The arguments of its schema.

        Raises:
            ToolError: The tool failed, or returned something that is neither text nor an image.
        """
        call = {"name": self.tool.name, "args": arguments, "id": "call", "type": "tool_call"}
        message = self.tool.invoke(call)
        if message.status == "error":
            raise ToolError(message.text)
        media = Media(self.store, max_uri=MAX_URI)
        if isinstance(message.content, str):
            return str(message.content)
        return "\n".join(_line(item, media) for item in message.content)


def _line(item: Any, media: Media) -> str:
    """A piece of a tool's content as a line: its text, or the reference of its image."""
    if isinstance(item, str):
        return item
    return str(item["text"]) if "text" in item else REFERENCE + image_reference(item, media)


def _input(schema: dict[str, Any], *, optional: bool) -> dict[str, Any]:
    """An argument in the form of smolagents."""
    kinds = [kind.get("type", "any") for kind in schema.get("anyOf", [schema])]
    some = [kind for kind in kinds if kind != "null"]
    described = {name: value for name, value in schema.items() if name not in ("title", "anyOf")}
    if "anyOf" in schema:
        items = [kind["items"] for kind in schema["anyOf"] if "items" in kind]
        described |= {"items": items[0]} if items else {}
    described["type"] = some[0] if len(some) == 1 else some
    described.setdefault("description", "")
    return {**described, "nullable": True} if optional or "null" in kinds else described
