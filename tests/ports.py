"""Where a test's own servers can listen."""

from __future__ import annotations

import socket
from contextlib import ExitStack


def free_ports(count: int) -> list[int]:
    """Different ones of 127.0.0.1, all free a moment ago."""
    with ExitStack() as open_together:
        listeners = [
            open_together.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [listener.getsockname()[1] for listener in listeners]


def free_port() -> int:
    """One."""
    return free_ports(1)[0]
