"""The prompt of a policy's first turn: the tokens of a sample, and the pictures behind them.

protocol -> messages -> segment, whose visual blocks show the pictures of the messages in order
"""

from dataclasses import dataclass

from PIL import Image

from visreplay.agent import Recipe, get_protocol
from visreplay.agent.policy.encoder import ContextEncoder, token_grid
from visreplay.replay_core import ModelPair, Segment
from visreplay.tasks.types import Sample
from visreplay.tools import ImageStore, load_image, zoom


@dataclass(frozen=True, eq=False)
class Prompt:
    """The context of a first turn.

    Attributes:
        segment: Its tokens and visual blocks.
        pictures: For every block, the picture at each of its steps in time, as the model sees it.
    """

    segment: Segment
    pictures: list[list[Image.Image]]

    @classmethod
    def of(cls, sample: Sample, recipe: Recipe | str, pair: ModelPair) -> "Prompt":
        """Encode a sample for the policy of a pair, as an agent of that recipe does.

        Raises:
            ToolError: The media cannot be read, or do not suit the protocol.
        """
        # One store per sample: a store in memory never forgets, and a run has many samples.
        store = ImageStore()
        protocol = get_protocol(recipe, token_grid(pair.processor), store)
        messages = protocol.open(
            sample.parts or sample.question,
            [store.put(load_image(image)) for image in sample.images],
            None if sample.video is None else str(sample.video),
        )
        encoder = ContextEncoder(pair.processor, store, pair.policy, grid=protocol.grid)
        segment = encoder.encode(messages)
        frames_by_part = []
        for message in messages:
            for part in message["content"]:
                if part["type"] == "image":
                    frames_by_part.append([zoom(store.get(part["image"]), grid=encoder.grid)])
                elif part["type"] == "video":
                    frames_by_part.append([store.get(frame) for frame in part["frames"]])
        pictures = []
        for block, frames in zip(segment.blocks, frames_by_part, strict=True):
            steps = int(block.inputs[f"{block.kind}_grid_thw"][0, 0])
            pictures.append([frames[step * len(frames) // steps] for step in range(steps)])
        return cls(segment, pictures)
