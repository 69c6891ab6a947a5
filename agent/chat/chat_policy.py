"""A pair of models that chats: messages and tools in, replies out, whichever framework asks."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from visreplay.agent.chat.renderer import ChatRenderer, ParsedReply
from visreplay.agent.chat.reply_text import ReplyStream
from visreplay.agent.chat.tool_choice import ToolChoice, ToolOffer, offer_tools
from visreplay.agent.chat.turn_memory import TurnMemory
from visreplay.agent.messages import Message
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.policy.replay_policy import PolicyTurn, ReplayPolicy
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.policy.session_cache import SessionCache
from visreplay.agent.policy.writing import Writer
from visreplay.agent.protocols import Recipe, ToolProtocol, choose_recipe, get_protocol
from visreplay.agent.protocols.tool_schemas import Signature
from visreplay.replay_core import ModelPair, ReplayConfig
from visreplay.tools import ImageStore, Media

STORE_BYTES = 2**30
"""Memory of the image store that a `ChatPolicy` makes for itself."""


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A reply to a conversation.

    Attributes:
        parsed: Its text and its calls. What a stop string cut off is not among them.
        turn: The whole turn as the policy wrote it, with its tokens and what replay did.
    """

    parsed: ParsedReply
    turn: PolicyTurn

    @property
    def token_ids(self) -> list[int]:
        """The tokens of the turn, what a stop string cut off included."""
        return self.turn.message["token_ids"]

    @property
    def finish_reason(self) -> str:
        """Why the turn ended: "tool_calls" for a reply with calls, else "stop" or "length"."""
        return "tool_calls" if self.parsed.tool_calls else self.turn.finish_reason


class ChatPolicy:
    """The policy of a pair under replay, for conversations in a protocol.

    It receives the whole history at each call, and continues from the longest beginning that it
    has read before: a turn costs its new tokens alone. Calls may come from several threads.

    Args:
        pair: Policy and base.
        replay: How to replay: a configuration, or "token", "state" or "none" for the pair's own.
        protocol: How tools are called and their results shown (a key of `PROTOCOLS`); "auto" goes
            by the policy's name.
        recipe: The texts, budgets and limits of the policy's training: a recipe, the path of its
            file, or the name of one that ships. None chooses by the policy's name.
        store: Where the images of messages are put; by default a gigabyte of memory, from which
            the least recently used ones go first.
        media: What messages may refer to; its store is `store`. None reads only what is in the
            store, and what comes with a message.
        sampling: How to decode, unless a call says otherwise.
        sessions: The cache of sessions that have read something; policies may share one.
        memory: The tokens of earlier turns; policies may share one.
        max_context: Limit of a conversation in tokens; None leaves it to the model.
        maps: Whether pictures of entropies and replayed tokens are put into the store.
        writer: What writes the turns (`VllmSettings.opened`); None takes the pair's own model.

    Attributes:
        renderer: Renders messages in the protocol, and parses replies in it.
        policy: Reads conversations and writes turns.
    """

    def __init__(
        self,
        pair: ModelPair,
        replay: ReplayConfig | str = "token",
        protocol: str = "auto",
        store: ImageStore | None = None,
        *,
        recipe: Recipe | str | Path | None = None,
        media: Media | None = None,
        sampling: Sampling = Sampling(),
        sessions: SessionCache | None = None,
        memory: TurnMemory | None = None,
        max_context: int | None = None,
        maps: bool = True,
        writer: Writer | None = None,
    ) -> None:
        if store is None:
            store = ImageStore(memory_bytes=STORE_BYTES, forgetful=True)
        chosen = choose_recipe(pair.names[0], protocol, recipe)
        self.pair = pair
        self.store = store
        self.replay = pair.replay_config(replay)
        self.protocol: ToolProtocol = get_protocol(chosen, token_grid(pair.processor), store)
        self.renderer = ChatRenderer(self.protocol, pair.tokenizer, media)
        self.memory = TurnMemory() if memory is None else memory
        self.policy = ReplayPolicy(
            pair,
            self.replay,
            store,
            sampling=sampling,
            recipe_sampling=self.protocol.sampling,
            stop_strings=self.protocol.stop_strings,
            sessions=sessions,
            max_context=max_context,
            maps=maps,
            grid=self.protocol.grid,
            writer=writer,
        )

    def offer(self, tools: Sequence[Signature], choice: ToolChoice = None) -> ToolOffer:
        """Offer tools for a turn; see `offer_tools`."""
        return offer_tools(self.protocol, tools, choice)

    def reply(
        self,
        messages: Sequence[Message],
        offer: ToolOffer = ToolOffer(),
        *,
        seed: int | None = None,
        sampling: Sampling = Sampling(),
        stop: Sequence[str] = (),
    ) -> ChatReply:
        """Write the next turn of a conversation.

        Args:
            messages: The whole history.
            offer: The tools that the policy may call.
            seed: Seed of the sampler; None takes torch's global generator.
            sampling: How to decode this turn, where it differs from the others.
            stop: Texts that end the turn, and are left out of it.

        Raises:
            MessageError: A message cannot be shown, or there is nothing to answer.
            ContextError: The conversation is too long.
        """
        *_, reply = self.stream(messages, offer, seed=seed, sampling=sampling, stop=stop)
        assert isinstance(reply, ChatReply)
        return reply

    def stream(
        self,
        messages: Sequence[Message],
        offer: ToolOffer = ToolOffer(),
        *,
        seed: int | None = None,
        sampling: Sampling = Sampling(),
        stop: Sequence[str] = (),
    ) -> Iterator[str | ChatReply]:
        """Write the next turn as `reply` does, and give its text as it is written.

        Yields:
            The pieces of `parsed.content`, each as soon as no later token can take it back; at the
            end the whole reply.
        """
        conversation = self.renderer.conversation(messages, offer.tools)
        writing = self.policy.stream(
            conversation, seed=seed, sampling=sampling, stop_strings=stop, opening=offer.opening
        )
        text = ReplyStream(self.renderer, stop, calls=offer.calls)
        while True:
            try:
                piece = text.push(next(writing))
            except StopIteration as end:
                turn: PolicyTurn = end.value
                break
            if piece:
                yield piece
        reply = ChatReply(text.finish(turn.text), turn)
        if rest := reply.parsed.content[text.sent :]:
            yield rest
        yield reply

    def replying(
        self,
        messages: Sequence[Message],
        offer: ToolOffer = ToolOffer(),
        *,
        seeds: Sequence[int | None] = (None,),
        sampling: Sampling = Sampling(),
        stop: Sequence[str] = (),
        ends: Sequence[str] = (),
        logprobs: int | None = None,
    ) -> Generator[None, None, list[ChatReply]]:
        """Write several next turns as a batch, after one reading of the conversation.

        The generator pauses after every piece of the conversation and every token of the turns, so
        that a caller can stop in between.

        Args:
            messages: As in `reply`, and so are the others.
            offer: See there. Calls are parsed only if it has tools.
            seeds: The seed of each turn.
            sampling: See there.
            stop: See there.
            ends: More texts that end a turn; they stay in it.
            logprobs: Keep each token's log-probability, and those of so many most probable tokens;
                None keeps none.

        Returns:
            A reply for each seed, as the value of the generator.
        """
        conversation = self.renderer.conversation(messages, offer.tools)
        reading = yield from self.policy.read(conversation, offer.opening)
        decoding = self.policy.decoding(sampling, (*stop, *ends))
        wishes = [
            (reading.session, {"seed": seed, "logprobs": logprobs, **decoding}) for seed in seeds
        ]
        ended = yield from self.policy.writer.together(wishes)
        replies = []
        for each in ended:
            turn = self.policy.turn(reading, *each)
            text = ReplyStream(self.renderer, stop, calls=offer.calls and bool(offer.tools))
            replies.append(ChatReply(text.finish(turn.text), turn))
        return replies

    def close(self) -> None:
        """Free the caches."""
        self.policy.close()
