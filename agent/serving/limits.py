"""The limits of a server, and their defaults."""

from dataclasses import dataclass

from visreplay.agent.policy.session_cache import CACHE_BYTES


@dataclass(frozen=True)
class ServerLimits:
    """Limits of requests, and of what a server does at once.

    Attributes:
        body_bytes: Bytes of a request's body.
        body_seconds: Time that a client may take to send it.
        json_bytes: Bytes of its JSON, without images and videos in base64.
        json_values: Values of its JSON, the keys of objects included.
        held_bytes: Bytes of all requests that are received, wait or are answered, and of answers
            that are not read yet, together.
        connections: Connections at once; beyond that, the oldest one that waits for its client is
            closed.
        media: Images and videos of a request.
        media_seconds: Time that reading them may take.
        pixels: Pixels of all images and frames of a request together.
        held_pixels: Pixels of all images and frames of all requests that are not answered yet,
            together.
        frames: Frames of a video that the policy sees.
        video_seconds: Length of a video.
        context: Tokens of a conversation.
        max_new_tokens: Tokens of a reply; also the default where neither request nor recipe gives a
            number.
        running: Turns that are prefilled or decoded at once; each holds a context in memory.
        waiting: Requests that may wait for admission.
        cache_bytes: Bytes of the cache of conversations.
    """

    body_bytes: int = 20 * 2**20
    body_seconds: float = 60
    json_bytes: int = 2 * 2**20
    json_values: int = 30_000
    held_bytes: int = 256 * 2**20
    connections: int = 512
    media: int = 256
    media_seconds: float = 120
    pixels: int = 64_000_000
    held_pixels: int = 256_000_000
    frames: int = 64
    video_seconds: float = 600
    context: int = 32_768
    max_new_tokens: int = 2048
    running: int = 16
    waiting: int = 64
    cache_bytes: int = CACHE_BYTES

    def __post_init__(self) -> None:
        """Check that limits go together.

        Raises:
            ValueError: The largest request is more than all requests together may be.
        """
        if self.held_bytes < self.body_bytes:
            raise ValueError(
                f"all requests together may have {self.held_bytes:,} bytes, but one may have "
                f"{self.body_bytes:,}: raise held_bytes (--max-held) or lower body_bytes "
                "(--max-body)"
            )
        if self.held_pixels < self.pixels:
            raise ValueError(
                f"all requests together may have {self.held_pixels:,} pixels, but one may have "
                f"{self.pixels:,}: raise held_pixels (--max-held-megapixels) or lower pixels "
                "(--max-megapixels)"
            )
