"""Turns that vLLM writes, of conversations that were read and replayed here."""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Unpack

from visreplay.agent.policy.writing import Ended, Wish, Written
from visreplay.agent.vllm.client import EngineClient, EngineError, LoadFailedError
from visreplay.agent.vllm.exports import Exports
from visreplay.agent.vllm.request import request_body
from visreplay.replay_core import ReplaySession, TokenLogprob
from visreplay.replay_core.decoding import Decoding
from visreplay.replay_core.generation import TokenWriter, run_to_end

class VllmWriter:
    """Writes turns through vLLM: a session's keys and values go there, and tokens come back.

    Args:
        client: The server.
        exports: The files that it loads.
        at_once: Number of turns of one call that are written at once.
    """

    def __init__(self, client: EngineClient, exports: Exports, at_once: int = 64) -> None:
        self.client = client
        self.exports = exports
        self._threads = ThreadPoolExecutor(at_once, "visreplay-vllm")

    def stream(
        self,
        session: ReplaySession,
        *,
        max_new_tokens: int,
        logprobs: int | None = None,
        **decoding: Unpack[Decoding],
    ) -> Generator[Written, None, Ended]:
        """Write a continuation, and yield its tokens as they come.

        What the engine could not load is exported anew, once, if nothing was written yet.

        Args:
            session: Has read the conversation; it stays as it is.
            max_new_tokens: As in `ReplaySession.generate`.
            logprobs: As in `ReplaySession.join`.
            **decoding: As in `Decoding`.

        Returns:
            A fork of the session with the new tokens, and the generation.

        Raises:
            EngineError: The engine did not write the turn, or not from what was replayed.
            ConfigError: vLLM would do something else than what is asked for.
        """
        writer = session.writer(max_new_tokens=max_new_tokens, logprobs=logprobs, **decoding)
        for attempt in range(2):
            with self.exports.lease(session, anew=attempt > 0) as lease:
                body = request_body(session, lease, writer, decoding.get("seed"))
                try:
                    yield from self._tokens(body, writer)
                    break
                except LoadFailedError:
                    if attempt or writer.ids:
                        raise
        twin = session.fork()
        twin.extend_generated(writer.ids)
        return twin, writer.generation(session.pair.tokenizer)

    def together(self, wishes: Sequence[Wish]) -> list[Ended]:
        """Write several continuations at once.

        Args:
            wishes: The session and the options of each, as in `stream`.
        """
        running = [
            self._threads.submit(run_to_end, self.stream(session, **options))
            for session, options in wishes
        ]
        return [each.result() for each in running]

    def _tokens(self, body: dict[str, Any], writer: TokenWriter) -> Generator[Written, None, None]:
        """Yield the tokens of a request, and check that vLLM computed the last one alone."""
        usage: dict[str, Any] | None = None
        for piece in self.client.stream(body):
            usage = piece.get("usage") or usage
            for choice in piece.get("choices") or ():
                entries = ((choice.get("logprobs") or {}).get("content")) or ()
                ids = choice.get("token_ids") or ()
                for number, token_id in enumerate(ids):
                    if writer.finished:
                        break
                    logprob = _logprob(entries[number], writer.top) if entries else None
                    writer.add(token_id, logprob)
                    yield token_id, logprob
        details = (usage or {}).get("prompt_tokens_details") or {}
        cached, wanted = details.get("cached_tokens"), len(body["token_ids"]) - 1
        if cached != wanted:
            raise EngineError(
                f"the engine at {self.client.url} took {cached} tokens of the prompt as they were "
                f"replayed, not {wanted}: start it with --enable-prompt-tokens-details, and with "
                "the connector"
            )
        if not writer.finished:
            raise EngineError(
                f"the engine at {self.client.url} ended a turn after {len(writer.ids)} tokens, "
                "before its end"
            )

    def forget(self, sessions: Sequence[ReplaySession]) -> None:
        """Remove the files of some sessions that no turn needs."""
        self.exports.forget({session.lineage for session in sessions})

    def close(self) -> None:
        """Remove the files, and close the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.exports.close()
        self.client.close()


def _logprob(entry: dict[str, Any], top: int | None) -> TokenLogprob | None:
    if top is None:
        return None
    # The drawn token comes first, whether it is among the most probable ones or not.
    ranked = sorted(entry.get("top_logprobs") or (), key=lambda each: -each["logprob"])[:top]
    best = tuple((each["token_id"], each["logprob"]) for each in ranked)
    return TokenLogprob(entry["token_id"], entry["logprob"], best)
