"""Chat templates: what follows the last turn of a conversation, as text.

A chat template may render earlier turns differently once later ones exist (drop the thinking, add
a default system prompt), and re-tokenising what a model wrote may give other ids. So a
conversation is never rendered as a whole: only what comes *after* the last assistant turn is, and
the ids that the policy generated stay as they are.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from jinja2 import TemplateError
from PIL import Image

from visreplay.replay_core.control_tokens import ControlTokens
from visreplay.replay_core.errors import ContextError
from visreplay.replay_core.template_sandbox import render_template
from visreplay.tools import ToolError
from visreplay.tools import load_image as load_rgb

ChatMessage = Mapping[str, Any]
"""A message: `role`, `content` (a list of parts, each with its `type` and maybe `text`), and the
`token_ids` that the assistant generated."""

_SENTINEL = f"\u241e{uuid4().hex}\u241e"
"""The stand-in for an assistant's turn: each process draws its own, so no message holds it."""


def render(processor: Any, messages: Sequence[ChatMessage], start: int = 0) -> str:
    """Render the chat template's text of `messages[start:]`, whatever it does to earlier turns.

    It ends with the opening of the assistant's turn; placeholders are not expanded. What the
    assistant generated is not rendered: its ids are in the context already, and so is the end
    of its turn if it generated that too.

    Args:
        processor: As in `fill_template`.
        messages: The conversation.
        start: 0, or the index that follows the last assistant message.

    Raises:
        ContextError: `start` does not follow an assistant turn, or the template drops it; or the
            template cannot render the conversation.
    """
    if start == 0:
        return _fill_template(processor, messages)
    last = messages[start - 1]
    if last["role"] != "assistant":
        raise ContextError(f"message {start - 1} is the {last['role']}'s, not the assistant's")
    stand_in = {"role": "assistant", "content": [{"type": "text", "text": _SENTINEL}]}
    conversation = [*messages[: start - 1], stand_in, *messages[start:]]
    _, found, continuation = _fill_template(processor, conversation).rpartition(_SENTINEL)
    if not found:
        raise ContextError("the chat template does not render what the assistant wrote")
    tokenizer = processor.tokenizer
    if last.get("token_ids", [])[-1:] == [tokenizer.eos_token_id]:
        continuation = continuation.removeprefix(tokenizer.eos_token)
    return continuation


def render_user_turn(processor: Any, text: str, images: int, context_ids: Sequence[int]) -> str:
    """Render one user turn, to be appended to a context.

    Args:
        processor: As in `render`.
        text: The text of the turn.
        images: Number of images, which come before the text.
        context_ids: The tokens of the context. If there are any, the last turn is taken to be the
            assistant's, and is closed if the end of the turn is not there yet.

    Raises:
        ContextError: As `render`.
    """
    parts = [*[{"type": "image"}] * images, {"type": "text", "text": text}]
    turn = {"role": "user", "content": parts}
    if not context_ids:
        return render(processor, [turn])
    # What came before is in the context already; templates only need turns that alternate.
    earlier = {"role": "user", "content": [{"type": "text", "text": ""}]}
    last = {"role": "assistant", "content": [], "token_ids": list(context_ids[-1:])}
    return render(processor, [earlier, last, turn], start=2)


def fill_template(
    processor: Any, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False
) -> str:
    """Render the chat template's text of messages, within the limits of `template_sandbox`.

    Args:
        processor: With `chat_template`, or a tokenizer that has one, and `tokenizer`.
        messages: As the template reads them.
        add_generation_prompt: Whether the opening of the assistant's turn follows.

    Raises:
        TemplateError: The template is wrong, or goes beyond a limit. A template may raise any
            other exception too.
    """
    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("default")
    if not isinstance(template, str):
        raise TemplateError("there is no template")
    variables = {
        **processor.tokenizer.special_tokens_map,
        "messages": messages,
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    return render_template(template, variables)


def load_image(image: Image.Image | str | Path) -> Image.Image:
    """Load an image as upright RGB, as everywhere else: a file is decoded within limits.

    Args:
        image: An image of PIL, or the path of an image file.

    Raises:
        ContextError: there is no such file, or no image is in it.
    """
    try:
        if isinstance(image, Image.Image):
            return load_rgb(image)
        return load_rgb(os.path.expanduser(image), name="it")
    except ToolError as error:
        raise ContextError(
            f"no image can be read from {str(image)!r} ({error}): give an image of PIL, or the "
            "path of an image file"
        ) from error


def _fill_template(processor: Any, messages: Sequence[ChatMessage]) -> str:
    """Render the chat template's text of messages and of the assistant's opening.

    Templates render bare `image` and `video` placeholders, not references.
    """
    control = ControlTokens.of(processor)
    conversation = [_plain(message, control) for message in messages]
    try:
        text = fill_template(processor, conversation, add_generation_prompt=True)
    except Exception as error:  # a template is a program, and raises what it likes
        raise ContextError(
            f"the chat template cannot render the conversation ({type(error).__name__}: {error}): "
            "use a checkpoint with another template, or other messages"
        ) from error
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ContextError(
            f"the conversation holds {error.object[error.start]!a}, half of a surrogate pair, "
            "which no text in UTF-8 has: leave it out"
        ) from error
    return text


def _plain(message: ChatMessage, control: ControlTokens) -> dict[str, Any]:
    """Make a message as templates read it: no control tokens in its texts, no references."""
    parts = message["content"]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    broken = iter(control.broken_in(texts))
    content = [
        {"type": "text", "text": next(broken)} if part["type"] == "text" else {"type": part["type"]}
        for part in parts
    ]
    return {"role": message["role"], "content": content}
