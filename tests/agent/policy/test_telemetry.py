import numpy as np
import torch
from PIL import Image
from shared import MakeAgent

from visreplay.agent.policy.telemetry import block_map
from visreplay.replay_core import BlockRecord
from visreplay.tools import ImageStore


def record(entropy_LT: torch.Tensor, chosen_LT: torch.Tensor) -> BlockRecord:
    count = entropy_LT.shape[1]
    return BlockRecord(0, count, "image", "digest", count, entropy_LT, chosen_LT)


def test_a_map_has_a_pixel_a_token() -> None:
    entropy_LT = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 1.0, 2.0, 3.0, 4.0, 3.0]])
    chosen_LT = entropy_LT < torch.tensor([[1.5], [0.5]])
    store = ImageStore()
    block = block_map(record(entropy_LT, chosen_LT), (1, 2, 3), store)
    assert (block["kind"], block["grid"], block["max_entropy"]) == ("image", [1, 2, 3], 4.0)
    red, green, blue = np.moveaxis(np.asarray(store.get(block["map"])), -1, 0)
    assert red.tolist() == [[0, 64, 128], [191, 255, 255]]
    assert green.tolist() == [[255, 128, 0], [0, 0, 0]]
    assert not blue.any()


def test_state_replay_marks_what_it_replaced() -> None:
    entropy_LT, store = torch.ones(1, 2), ImageStore()
    chosen = record(entropy_LT, torch.tensor([[True, True]]))
    replaced = torch.tensor([[False, True]])
    edited = BlockRecord(0, 2, "image", "digest", 2, entropy_LT, chosen.chosen_LT, replaced)
    pixels = np.asarray(store.get(block_map(edited, (1, 1, 2), store)["map"]))
    assert pixels[0, :, 1].tolist() == [0, 255]


def test_every_step_tells_of_the_blocks_that_were_new_in_it(make_agent: MakeAgent) -> None:
    agent = make_agent()
    trajectory = agent.run(
        "Which character is on the red marker?", images=[Image.effect_noise((400, 300), 90)]
    )
    first = trajectory.steps[0]["replay"]
    assert first is not None
    assert [block["kind"] for block in first["blocks"]] == ["image"]
    steps, rows, columns = first["blocks"][0]["grid"]
    assert steps * rows * columns == first["new_visual_tokens"]
    assert first["blocks"][0]["map"] in trajectory.references()
