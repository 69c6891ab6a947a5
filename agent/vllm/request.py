"""A turn as a request to vLLM: tokens in, tokens out, pictures by their sizes alone."""

import base64
from collections.abc import Mapping
from typing import Any

import ormsgpack
from torch import Tensor

from visreplay.agent.vllm.exports import Lease, pictures_of
from visreplay.replay_core import ConfigError, ReplaySession
from visreplay.replay_core.generation import TokenWriter
from visreplay_connector.handles import PARAMETER

_RAW = 3
"""The MessagePack extension in which vLLM sends the bytes of a tensor."""

TEMPERATURES = (0.01, 2.0)
"""vLLM raises lower temperatures, but for 0, to the first, and refuses those above the second."""


def request_body(
    session: ReplaySession, lease: Lease, writer: TokenWriter, seed: int | None
) -> dict[str, Any]:
    """Build the body of `POST /inference/v1/generate`.

    Args:
        session: A session that has read the whole conversation.
        lease: The files with its keys and values.
        writer: The continuation, with its first token.
        seed: As in `Decoding`.

    Raises:
        ConfigError: vLLM would do something else than what is asked for.
    """
    sampler = writer.sampler
    lowest, highest = TEMPERATURES
    if not sampler.greedy and not lowest <= sampler.temperature <= highest:
        raise ConfigError(
            f"temperature is {sampler.temperature}, but vLLM takes 0, or {lowest} to {highest}: "
            "choose one of these, or the embedded engine"
        )
    sampling: dict[str, Any] = {
        "temperature": 0.0 if sampler.greedy else sampler.temperature,
        "top_p": sampler.top_p,
        "top_k": sampler.top_k,
        "repetition_penalty": sampler.repetition_penalty,
        "max_tokens": writer.limit - len(writer.ids),
        # The policy's own end tokens, and no others.
        "ignore_eos": True,
        "stop_token_ids": sorted(writer.stops.eos_ids),
        "skip_special_tokens": False,
    }
    stop = list(writer.stops.stop_strings) or None
    optional = {"logprobs": writer.top, "seed": seed, "stop": stop}
    sampling |= {name: value for name, value in optional.items() if value is not None}
    body = {
        "token_ids": [*session.token_ids, *writer.ids],
        "sampling_params": sampling,
        "cache_salt": lease.salt,
        "kv_transfer_params": {PARAMETER: lease.handle},
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if session.blocks:
        body["features"] = _features(session, lease.salt)
    return body


def _features(session: ReplaySession, salt: str) -> dict[str, Any]:
    hashes: dict[str, list[str]] = {}
    places: dict[str, list[dict[str, int]]] = {}
    items: dict[str, list[str]] = {}
    for block, picture in zip(session.blocks, pictures_of(session, salt), strict=True):
        kind, sizes = block.kind, block.sizes
        if session.pair.policy.frames_apart:  # to vLLM, each of them is an image
            kind, sizes = "image", {n.replace("video_", "image_"): x for n, x in sizes.items()}
        hashes.setdefault(kind, []).append(picture.identifier)
        places.setdefault(kind, []).append({"offset": block.start, "length": block.length})
        items.setdefault(kind, []).append(sizes_item(sizes))
    return {"mm_hashes": hashes, "mm_placeholders": places, "kwargs_data": items}


def sizes_item(sizes: Mapping[str, Tensor]) -> str:
    """Write the sizes of one image or video as vLLM reads its inputs, in base64."""
    item = {}
    for name, batch in sizes.items():
        tensor = batch[0].cpu().contiguous()
        raw = ormsgpack.Ext(_RAW, tensor.numpy().tobytes())
        data = [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), raw]
        item[name] = {"data": data, "field": ["batched", {"keep_on_cpu": True}]}
    return base64.b64encode(ormsgpack.packb(item)).decode()
