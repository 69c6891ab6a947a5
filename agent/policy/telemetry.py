"""What replay did in a step, as JSON values and small pictures: for records, pages and streams."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from langgraph.config import get_stream_writer
from PIL import Image

from visreplay.replay_core import BlockRecord, Method, ModelAdapter, ReplayReport, Segment
from visreplay.tools import ImageStore


def replay_record(
    report: ReplayReport,
    segment: Segment,
    records: Sequence[BlockRecord],
    adapter: ModelAdapter,
    store: ImageStore | None,
) -> dict[str, Any] | None:
    """The `replay` of a step; None where no replay ran.

    Args:
        report: Of the append.
        segment: What was appended.
        records: Of its visual blocks, in order.
        adapter: The policy's: knows how visual tokens lie.
        store: Where the maps are put; without one there are none.

    Returns:
        The report's fields, and as `blocks` what `block_map` gives for each visual block.
    """
    if report.method is Method.NONE:
        return None
    blocks = [
        block_map(record, adapter.token_grid(block), store)
        for block, record in zip(segment.blocks, records, strict=True)
    ]
    return {**asdict(report), "method": str(report.method), "blocks": blocks}


def tell(step: int, context_tokens: int, known_tokens: int, replay: dict[str, Any] | None) -> None:
    """Send what replay did on the `custom` stream of the LangGraph run that this is called in.

    Outside of a run nothing happens. What is sent holds no pixels and no tokens:

        {"type": "replay", "step": 1, "context_tokens": 153, "known_tokens": 110, "replay": {...}}

    Args:
        step: Number of the turn that the policy is about to write: how many it wrote before.
        context_tokens: How many tokens the turn answers.
        known_tokens: How many of these had been read before.
        replay: Of `replay_record`.
    """
    try:
        write = get_stream_writer()
    except (RuntimeError, KeyError):  # in no runnable at all, or in one that is no graph
        return
    write(
        {
            "type": "replay",
            "step": step,
            "context_tokens": context_tokens,
            "known_tokens": known_tokens,
            "replay": replay,
        }
    )


def block_map(
    record: BlockRecord, grid: tuple[int, int, int], store: ImageStore | None
) -> dict[str, Any]:
    """Base entropy and replayed share of every token of a visual block, as a picture.

    Args:
        record: What replay did on the block.
        grid: Its tokens in time, height and width.
        store: Where the picture is put; None makes none.

    Returns:
        `kind`, `grid`, `max_entropy` in nats, and with a store `map`, the reference of an RGB
        picture with a pixel a token, steps in time below one another. Red is the mean of the
        base's entropy over the layers, 255 being `max_entropy`; green the share of layers in which
        the token was replayed, 255 being all.
    """
    entropy_T = record.entropy_LT.float().mean(dim=0)
    highest = float(entropy_T.max())
    told = {"kind": record.kind, "grid": list(grid), "max_entropy": highest}
    if store is None:
        return told
    replayed_LT = record.chosen_LT if record.replaced_LT is None else record.replaced_LT
    channels = torch.stack(
        [
            entropy_T / max(highest, 1e-12),
            replayed_LT.float().mean(dim=0),
            torch.zeros_like(entropy_T),
        ],
        dim=-1,
    )
    steps, rows, columns = grid
    pixels = (255 * channels).round().to(torch.uint8).reshape(steps * rows, columns, 3)
    return {**told, "map": store.put(Image.fromarray(np.ascontiguousarray(pixels.numpy())))}
