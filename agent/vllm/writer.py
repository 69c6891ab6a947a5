"""Turns that vLLM writes, of conversations that were read and replayed here."""

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from visreplay.agent.policy.writing import Ended, Wish, Written
from visreplay.agent.vllm.client import (
    EngineClient,
    EngineDownError,
    EngineError,
    LoadFailedError,
)
from visreplay.agent.vllm.exports import Exports
from visreplay.agent.vllm.request import request_body
from visreplay.replay_core import ReplaySession, TokenLogprob
from visreplay.replay_core.generation import TokenWriter, run_to_end

_AGAIN_SECONDS = 30.0
"""Time after which a server that was down is asked again."""


class VllmWriter:
    """Writes turns through vLLM: a session's keys and values go there, and tokens come back.

    A conversation stays with one server, which keeps blocks of it. If that server goes down, its
    turns are written by the others from their beginning.

    Args:
        clients: The servers, which all serve the same weights.
        exports: The files that they load.
        at_once: Number of turns of one call that are written at once.
    """

    def __init__(
        self, clients: Sequence[EngineClient], exports: Exports, at_once: int = 64
    ) -> None:
        if not clients:
            raise ValueError("there are no engines: name at least one")
        self.exports = exports
        self._clients = list(clients)
        self._down: dict[EngineClient, float] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(at_once, "visreplay-vllm")

    def stream(self, session: ReplaySession, **options: Any) -> Generator[Written, None, Ended]:
        """Write a continuation, and yield its tokens as they come.

        The first token is drawn here: replay may have edited the conversation's last token, which
        the engine would otherwise compute without it.

        Args:
            session: Has read the conversation; it stays as it is.
            **options: As of `ReplaySession.join`.

        Raises:
            EngineError: No engine wrote the turn, or not from what was replayed.
            ConfigError: vLLM would do something else than what is asked for.
        """
        session = session.fork()  # one session may not be worked on in several threads
        begun = session.writer(**options)
        begun.write(session.next_logits)
        yield _last(begun)
        if begun.finished:
            return _ended(session, begun)
        yielded = list(begun.ids)
        for client in self._in_turn(session):
            for anew in (False, True):
                writer = session.writer(**options)
                writer.add(*_last(begun))
                try:
                    return (
                        yield from self._attempt(
                            client, session, writer, yielded, anew, options.get("seed")
                        )
                    )
                except LoadFailedError as error:
                    failure: EngineError = error
                except EngineDownError as error:
                    failure = error
                    with self._lock:
                        self._down[client] = time.monotonic()
                    break  # to the next server
            else:
                break
        raise failure

    def _attempt(
        self,
        client: EngineClient,
        session: ReplaySession,
        writer: TokenWriter,
        yielded: list[int],
        anew: bool,
        seed: int | None,
    ) -> Generator[Written, None, Ended]:
        """Let a server write a turn behind its first token, and yield what is new of it."""
        with self.exports.lease(session, anew=anew) as lease:
            body = request_body(session, lease, writer, seed)
            for written in _tokens(client, body, writer):
                place = len(writer.ids) - 1
                if place == len(yielded):
                    yielded.append(written[0])
                    yield written
                elif written[0] != yielded[place]:
                    raise EngineError(
                        f"the engine at {client.url} writes a turn otherwise than the one that "
                        f"went down in the middle of it, from token {place} on: ask again"
                    )
        return _ended(session, writer)

    def together(self, wishes: Sequence[Wish]) -> Generator[None, None, list[Ended]]:
        """Write several continuations at once, and pause as each of them ends.

        Args:
            wishes: The session and the options of each, as in `stream`.
        """
        running = [
            self._threads.submit(run_to_end, self.stream(session, **options))
            for session, options in wishes
        ]
        ended = []
        for each in running:
            ended.append(each.result())
            yield
        return ended

    def forget(self, sessions: Sequence[ReplaySession]) -> None:
        """Remove the files of some sessions that no turn needs."""
        self.exports.forget({session.lineage for session in sessions})

    def close(self) -> None:
        """Remove the files, and close the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.exports.close()
        for client in self._clients:
            client.close()

    def _in_turn(self, session: ReplaySession) -> list[EngineClient]:
        """List the servers to try: the session's own first, and those that are down last."""
        first = int(session.lineage, 16) % len(self._clients)
        late = time.monotonic() - _AGAIN_SECONDS
        with self._lock:
            down = {client for client, since in self._down.items() if since > late}
        in_turn = self._clients[first:] + self._clients[:first]
        return sorted(in_turn, key=lambda client: client in down)


def _last(writer: TokenWriter) -> Written:
    """Return the token that was drawn last."""
    return writer.ids[-1], writer.logprobs[-1] if writer.logprobs else None


def _ended(session: ReplaySession, writer: TokenWriter) -> Ended:
    twin = session.fork()
    twin.extend_generated(writer.ids)
    return twin, writer.generation(session.pair.tokenizer)


def _tokens(client: EngineClient, body: dict[str, Any], writer: TokenWriter) -> Iterator[Written]:
    """Yield the tokens of a request, and check that it took the whole conversation as replayed."""
    usage: dict[str, Any] | None = None
    for piece in client.stream(body):
        usage = piece.get("usage") or usage
        for choice in piece.get("choices") or ():
            entries = ((choice.get("logprobs") or {}).get("content")) or ()
            for number, token_id in enumerate(choice.get("token_ids") or ()):
                if writer.finished:
                    break
                logprob = _logprob(entries[number], writer.top) if entries else None
                writer.add(token_id, logprob)
                yield token_id, logprob
    details = (usage or {}).get("prompt_tokens_details") or {}
    cached, wanted = details.get("cached_tokens"), len(body["token_ids"]) - 1
    if cached != wanted:
        raise EngineError(
            f"the engine at {client.url} took {cached} tokens of the prompt as they were replayed, "
            f"not {wanted}: start it with --enable-prompt-tokens-details, and with the connector"
        )
    if not writer.finished:
        raise EngineError(
            f"the engine at {client.url} ended a turn after {len(writer.ids)} tokens, before its "
            "end: allow it longer contexts (--max-model-len)"
        )


def _logprob(entry: dict[str, Any], top: int | None) -> TokenLogprob | None:
    if top is None:
        return None
    # The drawn token comes first, whether it is among the most probable ones or not.
    ranked = sorted(entry.get("top_logprobs") or (), key=lambda each: -each["logprob"])[:top]
    best = tuple((each["token_id"], each["logprob"]) for each in ranked)
    return TokenLogprob(entry["token_id"], entry["logprob"], best)
