"""Streaming of one long reply, token by token: `make bench`.

Tokens of real text go through `CompletionBuilder` and become server-sent events, as in `visreplay
serve`, with tool calls, a stop string and log-probabilities; no model runs. The cost of a token at
some length is that of the last 256 tokens before it. Writes a row of `benchmarks/latest.json`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial

from rich.console import Console
from rows import Row, table, timed, write

from visreplay.agent.chat.renderer import ChatRenderer
from visreplay.agent.chat.reply_text import ReplyStream
from visreplay.agent.chat.turn_memory import TurnMemory
from visreplay.agent.openai.completion import CompletionBuilder
from visreplay.agent.openai.response_schema import as_json
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.policy.replay_policy import Reading
from visreplay.agent.protocols import get_protocol
from visreplay.agent.serving.decoding import TokenEvent
from visreplay.replay_core import (
    Method,
    ReplayConfig,
    ReplaySession,
    TokenLogprob,
    load_pair,
)
from visreplay.tools import ImageStore

SHORT, LONG = 256, 8192
TARGET = 1.5
TEXT = "The sign left of the <tower> says “café 你好”, and 3 people 😀 look at it.\n"


class Stream:
    """A reply whose tokens are made events.

    Args:
        renderer: Parses it.
        session: A session of the policy; it stays as it is.
    """

    def __init__(self, renderer: ChatRenderer, session: ReplaySession) -> None:
        reading = Reading((), session, None, 0, 0, (), 0.0)
        streams = [ReplyStream(renderer, ["END OF TEXT"])]
        self._builder = CompletionBuilder(
            "id", 0, "policy", streams, reading, True, TurnMemory(), b""
        )
        self.characters = 0

    def push(self, ids: Sequence[int]) -> None:
        """Make the events of some tokens."""
        for token_id in ids:
            logprob = TokenLogprob(token_id, -1.0, ((token_id, -1.0),))
            for chunk in self._builder.chunks(TokenEvent(0, token_id, logprob)):
                self.characters += len(json.dumps(as_json(chunk)))


def measure(console: Console, repeats: int) -> Row:
    """Compare the cost of a token far into a reply with that near its beginning."""
    pair = load_pair("embedded", replay="none", device="cpu")
    protocol = get_protocol("hermes", token_grid(pair.processor), ImageStore())
    renderer = ChatRenderer(protocol, pair.tokenizer)
    line = pair.tokenizer.encode(TEXT, add_special_tokens=False)
    ids = (line * (LONG // len(line) + 1))[:LONG]
    short: list[float] = []
    long: list[float] = []
    with ReplaySession(pair, ReplayConfig(Method.NONE)) as session:
        for _ in range(repeats):
            stream = Stream(renderer, session)
            short.append(1e6 * timed(partial(stream.push, ids[:SHORT])) / SHORT)
            stream.push(ids[SHORT : LONG - SHORT])
            long.append(1e6 * timed(partial(stream.push, ids[LONG - SHORT :])) / SHORT)
            console.print(f"a token: {short[-1]:.1f} us, then {long[-1]:.1f} us")
    name = f"streaming, a token at {LONG:,} tokens / at {SHORT}"
    return Row.of(name, long, short, TARGET, "us", at_most=True)


def main() -> None:
    """Measure, print, and write unless it is a trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--trial", action="store_true", help="do not write")
    chosen = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    rows = [measure(console, chosen.repeats)]
    console.print(table(rows))
    if not chosen.trial:
        write(rows)


if __name__ == "__main__":
    main()
