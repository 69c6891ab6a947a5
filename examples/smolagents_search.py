"""A smolagents agent, whose model runs with replay, answers a question about a picture.

pip install 'visreplay[smolagents]'
python examples/smolagents_search.py
"""

from PIL import Image
from smolagents import ToolCallingAgent, tool

from visreplay.agent.smolagents.model import ReplayModel
from visreplay.agent.smolagents.tools import PLAIN_PROMPTS, keep_images
from visreplay.tasks import get_task
from visreplay.tools import TokenGrid, load_image, parse_box
from visreplay.tools import zoom as enlarged

task = get_task("visual-search-medium")
sample = task.load(task.sample_ids()[0])
picture = load_image(sample.images[0])  # or load_image("photo.jpg")


@tool
def zoom(label: str, bbox_2d: list[float]) -> Image.Image:
    """Look at a region of the picture.

    Args:
        label: A name for the region.
        bbox_2d: The region [x1, y1, x2, y2], counted in cells of an 8 x 8 grid.
    """
    # Other checkpoints count in pixels (picture.size), from 0 to 1 (1, 1), or from 0 to 1000.
    box = parse_box(bbox_2d, (8, 8), picture.size)
    return enlarged(picture, box, grid=TokenGrid().capped(168 * 168))


# The tiny pair that ships. A 7B pair: "ChenShawn/DeepEyes-7B", "Qwen/Qwen2.5-VL-7B-Instruct";
# the tool of DeepEyes-7B is called image_zoom_in_tool.
model = ReplayModel.from_pretrained("embedded")
agent = ToolCallingAgent(
    [zoom], model, prompt_templates=PLAIN_PROMPTS, step_callbacks=[keep_images], max_steps=4
)
answer = agent.run(sample.question, images=[picture])
print(f"{sample.question} {answer}, and it is {sample.answer}")
