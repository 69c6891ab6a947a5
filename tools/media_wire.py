"""Messages between `media_pool` and `media_worker`: JSON, with an open file beside it."""

import json
import os
import socket
import struct
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from visreplay.tools.disk import write_all

_LENGTH = struct.Struct("!I")


def send(
    connection: socket.socket, values: Mapping[str, Any], descriptor: int | None = None
) -> None:
    """Send a message; the file stays open here too."""
    message = json.dumps(values).encode()
    head = [_LENGTH.pack(len(message))]
    socket.send_fds(connection, head, [] if descriptor is None else [descriptor])
    connection.sendall(message)


def receive(
    connection: socket.socket, seconds: float | None = None
) -> tuple[dict[str, Any], int | None]:
    """Wait for a message.

    Args:
        connection: The socket.
        seconds: Time for the whole message; None waits for ever.

    Returns:
        The JSON, and the descriptor of the file beside it, to be closed by the caller.

    Raises:
        TimeoutError: The message does not come in time.
        EOFError: The other end is gone.
    """
    until = None if seconds is None else time.monotonic() + seconds
    connection.settimeout(_left(until))
    head, descriptors, _, _ = socket.recv_fds(connection, _LENGTH.size, 1)
    try:
        if len(head) < _LENGTH.size:
            raise EOFError
        (length,) = _LENGTH.unpack(head)
        message = bytearray()
        while len(message) < length:
            connection.settimeout(_left(until))
            new = connection.recv(length - len(message))
            if not new:
                raise EOFError
            message += new
        return json.loads(message), descriptors[0] if descriptors else None
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _left(until: float | None) -> float | None:
    # 0 would mean not to wait at all.
    return None if until is None else max(until - time.monotonic(), 1e-3)


def anonymous_file(content: bytes = b"") -> int:
    """Make a file without a name, which lives in memory where the system can do that.

    Args:
        content: The bytes to write into it.

    Returns:
        Its descriptor, to be closed by the caller.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("visreplay", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    write_all(descriptor, content)
    return descriptor
