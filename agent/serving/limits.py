"""What the OpenAI-compatible server takes of its clients."""

from dataclasses import dataclass

from visreplay.agent.policy.session_cache import CACHE_BYTES


@dataclass(frozen=True)
class ServerLimits:
    """What requests may take.

    Attributes:
        body_bytes: Of a request's body.
        body_seconds: For which a client may take to send it.
        media: Images and clips of a request.
        media_seconds: For which reading them may take.
        pixels: Of all images and frames of a request together.
        frames: That a clip is shown with.
        video_seconds: Of a clip.
        context: Tokens of a conversation.
        new_tokens: Of an answer, which are also those of an answer that says nothing of them.
        running: Answers that are written at once; each holds a context in memory.
        waiting: Requests that may wait for that.
        cache_bytes: Of what was read and is kept.
    """

    body_bytes: int = 20 * 2**20
    body_seconds: float = 60
    media: int = 256
    media_seconds: float = 120
    pixels: int = 64_000_000
    frames: int = 64
    video_seconds: float = 600
    context: int = 32_768
    new_tokens: int = 2048
    running: int = 16
    waiting: int = 64
    cache_bytes: int = CACHE_BYTES
