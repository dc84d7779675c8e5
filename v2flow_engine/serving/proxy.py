"""What Ray Serve's HTTP proxy is told in its own process, before it listens.

Named by `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`, which must be set where Ray's nodes start. Without it all works,
but a request's head may take for ever to arrive.
"""

from __future__ import annotations

from typing import Any

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK = f"{__name__}:bound_heads"


def bound_heads() -> list[Any]:
    """Make uvicorn use the protocol that cuts off slow heads, as in a single process. Adds no middleware."""
    from uvicorn import config

    from v2flow_engine.serving.head_timeout import head_timeout_protocol
    from v2flow_engine.serving.settings import Limits

    config.HTTP_PROTOCOLS["auto"] = head_timeout_protocol(Limits().header_seconds)
    return []
