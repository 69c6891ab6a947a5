"""The policy of an episode: a model behind an OpenAI-compatible endpoint writes the turns."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Lock
from typing import Any, Literal

from cachetools import LRUCache

from visreplay.agent.messages import Message, text, text_of
from visreplay.agent.policy.encoder import check_text
from visreplay.agent.policy.endpoint import Choice, Endpoint, EndpointError
from visreplay.agent.policy.replay_policy import PolicyTurn
from visreplay.agent.policy.sampling import Sampling, requested
from visreplay.tools import ImageStore, TokenGrid, zoom
from visreplay.tools.image import png_base64

Json = dict[str, Any]

CACHE_BYTES = 256 * 2**20
"""Memory for pictures as they are sent: every turn sends all of them again."""


class RemotePolicy:
    """A model that is behind a URL, and so without replay.

    It is sent the whole conversation at each turn: texts as they are, images as PNG files at the
    size of the grid, and a video as its frames, each after a line with its time. What it writes
    comes back as text, so its messages have no token ids. It may be used from several threads.

    Args:
        endpoint: Where the model is.
        model: Its name there.
        store: Resolves image references.
        sampling: How to decode (`sampling.requested`).
        recipe_sampling: How to decode where `sampling` says nothing: the settings of the protocol's
            recipe.
        stop_strings: Texts that end a turn, and stay in it (`ended`).
        grid: The pixel budget of any image; None takes that of `TokenGrid`.
        parallel: Largest number of requests at once.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        store: ImageStore,
        *,
        sampling: Sampling = Sampling(),
        recipe_sampling: Sampling = Sampling(),
        stop_strings: tuple[str, ...] = (),
        grid: TokenGrid | None = None,
        parallel: int = 8,
    ) -> None:
        self.endpoint = endpoint
        self.model = model
        self.sampling = sampling
        self.stop_strings = stop_strings
        self.grid = TokenGrid() if grid is None else grid
        self.parallel = parallel
        self._recipe_sampling = recipe_sampling
        self._store = store
        self._pictures: LRUCache[tuple[str, bool], str] = LRUCache(CACHE_BYTES, getsizeof=len)
        self._lock = Lock()

    def act(self, messages: Sequence[Message], *, seed: int = 0) -> PolicyTurn:
        """Send the conversation, and take the next turn from the answer.

        Raises:
            EndpointError: There is no usable answer.
            ValueError: The conversation does not end with a turn that the policy can answer.
        """
        began = time.perf_counter()
        check_text(messages, None)
        if not messages or messages[-1]["role"] == "assistant":
            raise ValueError("the conversation must end with a turn that the policy can answer")
        choice = self.endpoint.complete(
            model=self.model,
            messages=[self._converted(message) for message in messages],
            **self._decoding(seed),
        )
        finish_reason = self._finish_reason(choice)
        written = ended(choice, self.stop_strings)
        if written.endswith(self.stop_strings):
            finish_reason = "stop"  # whatever the endpoint wrote after it, up to the limit perhaps
        return PolicyTurn(
            written,
            {"role": "assistant", "content": [text(written)]},
            finish_reason,
            replay=None,
            seconds=time.perf_counter() - began,
        )

    def act_together(
        self, conversations: Sequence[tuple[Sequence[Message], int]]
    ) -> list[PolicyTurn]:
        """Write the next turns of several conversations, with several requests at once.

        Args:
            conversations: The messages and the seed of each, as in `act`.

        Raises:
            EndpointError: There is no usable answer to one of them.
        """
        if len(conversations) == 1:
            return [self.act(messages, seed=seed) for messages, seed in conversations]
        threads = ThreadPoolExecutor(self.parallel)
        try:
            turns = [threads.submit(self.act, each, seed=seed) for each, seed in conversations]
            return [turn.result() for turn in turns]
        finally:
            threads.shutdown(cancel_futures=True)

    def resolved(self) -> Sampling:
        """Give the settings of decoding that are sent; None is left to the endpoint."""
        return requested(self.sampling, self._recipe_sampling)

    def close(self) -> None:
        """Drop the pictures that are kept, and close the connections; a later turn opens new ones.

        The policy can be used again.
        """
        with self._lock:
            self._pictures.clear()
        self.endpoint.close()

    def _decoding(self, seed: int) -> Json:
        """Build the fields of a request that say how to decode."""
        sampling = self.resolved()
        fields: Json = {"temperature": sampling.temperature, "max_tokens": sampling.max_new_tokens}
        if sampling.top_p is not None:
            fields["top_p"] = sampling.top_p
        if not sampling.greedy:
            fields["seed"] = seed
        if self.stop_strings:
            fields["stop"] = list(self.stop_strings)
        extra = {"top_k": sampling.top_k, "repetition_penalty": sampling.repetition_penalty}
        if extra := {name: value for name, value in extra.items() if value is not None}:
            fields["extra_body"] = extra  # vLLM's fields, which OpenAI's own API does not have
        return fields

    def _converted(self, message: Message) -> Json:
        """Convert a message to OpenAI's form."""
        if message["role"] == "assistant":
            return {"role": "assistant", "content": text_of(message)}
        parts: list[Json] = []
        for part in message["content"]:
            if part["type"] == "text":
                _add_text(parts, part["text"])
            elif part["type"] == "image":
                parts.append(self._picture(part["image"]))
            else:
                for frame, moment in zip(part["frames"], part["times"], strict=True):
                    _add_text(parts, f"Frame at {moment:.2f} s:\n")
                    parts.append(self._picture(frame, of_video=True))
                    _add_text(parts, "\n")
        if all(part["type"] == "text" for part in parts):
            return {"role": message["role"], "content": "".join(part["text"] for part in parts)}
        return {"role": message["role"], "content": parts}

    def _picture(self, reference: str, of_video: bool = False) -> Json:
        """Make the part of a picture. A frame of a video may be smaller than images."""
        key = reference, of_video
        with self._lock:
            url = self._pictures.get(key)
        if url is None:
            grid = replace(self.grid, min_pixels=1) if of_video else self.grid
            url = f"data:image/png;base64,{png_base64(zoom(self._store.get(reference), grid=grid))}"
            if len(url) <= CACHE_BYTES:
                with self._lock:
                    self._pictures[key] = url
        return {"type": "image_url", "image_url": {"url": url}}

    def _finish_reason(self, choice: Choice) -> Literal["stop", "length"]:
        """Check that an answer is a turn, and tell why it ended.

        Raises:
            EndpointError: It is none.
        """
        reply, reason = choice.message, choice.finish_reason
        if reason == "content_filter":
            raise self._unusable(
                "stopped the answer by its content filter",
                "leave the sample out, or change the filter at the endpoint",
            )
        if reply.tool_calls or reason in ("tool_calls", "function_call"):
            raise self._unusable(
                "took the tool calls out of the text, where the protocol reads them",
                "serve the model without a parser of tool calls",
            )
        if reply.refusal and not reply.content:
            raise self._unusable(
                f"declined ({self.endpoint.quoted(reply.refusal)})", "leave the sample out"
            )
        if not reply.content:
            limit = self.resolved().max_new_tokens
            raise self._unusable(
                f"gave an answer without content (finish_reason "
                f"{self.endpoint.quoted(repr(reason))})",
                f"a model that reasons apart from its text may need more than {limit} tokens "
                "(--max-new-tokens)",
            )
        if reason == "stop":
            return "stop"
        if reason == "length":
            return "length"
        raise self._unusable(
            f"gave the finish_reason {self.endpoint.quoted(repr(reason))}, which is neither "
            "'stop' nor 'length'",
            "whether the turn is whole cannot be told; use an endpoint that says it",
        )

    def _unusable(self, problem: str, way_out: str) -> EndpointError:
        return self.endpoint.error(f"answered with status 200, but {problem}", way_out)


def ended(choice: Choice, stop_strings: Sequence[str]) -> str:
    """Give the text of a turn with the stop string that ended it, which endpoints cut off.

    An endpoint that names the string (vLLM, SGLang) is believed. Elsewhere, whether a turn ended by
    itself or by a string, and by which, is not told: the closing tag is put back whose opening tag
    came last and is open, since a policy that ends its turn itself closes its tags. A string that
    is no closing tag cannot be told then, and is not put back. What an endpoint wrote after a stop
    string is cut off.

    Args:
        choice: The answer.
        stop_strings: The texts that end a turn.
    """
    written = choice.message.content or ""
    ends = [at + len(stop) for stop in stop_strings if (at := written.find(stop)) >= 0]
    if ends:
        return written[: min(ends)]
    if choice.finish_reason != "stop":
        return written
    if choice.model_fields_set & {"stop_reason", "matched_stop"}:
        named = choice.stop_reason or choice.matched_stop
        return f"{written}{named}" if named in stop_strings else written
    tags = [stop for stop in stop_strings if stop.startswith("</")]
    opened = {stop: written.rfind(f"<{stop[2:]}") for stop in tags}
    last = max(tags, key=opened.__getitem__, default="")
    return written + last if opened.get(last, -1) >= 0 else written


def _add_text(parts: list[Json], words: str) -> None:
    """Add a text, to the last part if that is one: some templates put a line break between two."""
    if parts and parts[-1]["type"] == "text":
        parts[-1]["text"] += words
    else:
        parts.append({"type": "text", "text": words})
