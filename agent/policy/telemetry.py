"""Reports on replay as JSON values and small pictures: for records, pages and streams."""

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
    appended: ReplayReport,
    segment: Segment,
    records: Sequence[BlockRecord],
    adapter: ModelAdapter,
    store: ImageStore | None,
) -> dict[str, Any] | None:
    """Make the `replay` record of a step; None where no replay ran.

    Args:
        appended: The report on the append.
        segment: The appended segment.
        records: Records of its visual blocks, in order.
        adapter: The policy's adapter, which knows how visual tokens are laid out.
        store: Where the maps are put; without one there are none.

    Returns:
        The report's fields, and as `blocks` the `block_map` of each visual block.
    """
    if appended.method is Method.NONE:
        return None
    blocks = [
        block_map(record, adapter.token_grid(block), store)
        for block, record in zip(segment.blocks, records, strict=True)
    ]
    return {**asdict(appended), "method": str(appended.method), "blocks": blocks}


def with_maps(
    replay: dict[str, Any], records: Sequence[BlockRecord], store: ImageStore
) -> dict[str, Any]:
    """Draw the maps of an earlier `replay` record that a store does not hold.

    Args:
        replay: A result of `replay_record`.
        records: The records of its visual blocks, in order.
        store: Where the maps are put.
    """
    blocks = [
        block if block.get("map", "") in store else block_map(record, tuple(block["grid"]), store)
        for block, record in zip(replay["blocks"], records, strict=True)
    ]
    return {**replay, "blocks": blocks}


def report(
    step: int, context_tokens: int, known_tokens: int, replay: dict[str, Any] | None
) -> None:
    """Send a report on replay on the `custom` stream of the current LangGraph run.

    Outside of a run nothing happens. The event holds no pixels and no tokens:

        {"type": "replay", "step": 1, "context_tokens": 153, "known_tokens": 110, "replay": {...}}

    Args:
        step: Number of the turn that the policy is about to write, from 0.
        context_tokens: Number of tokens in the context.
        known_tokens: How many of these had been read before.
        replay: A result of `replay_record`.
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
    """Draw the base's entropy and the replayed share of every token of a visual block.

    Args:
        record: The record of the block.
        grid: Number of its tokens in time, height and width.
        store: Where the picture is put; None makes none.

    Returns:
        `kind`, `grid`, `max_entropy` in nats, and with a store `map`, the reference of an RGB
        picture with a pixel for each token, steps in time below one another. Red is the base's
        entropy, averaged over the layers, with 255 for `max_entropy`; green is the share of layers
        in which the token was replayed, with 255 for all.
    """
    entropy_T = record.entropy_LT.float().mean(dim=0)
    highest = float(entropy_T.max())
    fields = {"kind": record.kind, "grid": list(grid), "max_entropy": highest}
    if store is None:
        return fields
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
    return {**fields, "map": store.put(Image.fromarray(np.ascontiguousarray(pixels.numpy())))}
