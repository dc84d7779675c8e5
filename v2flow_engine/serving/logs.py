"""Where a server's log goes: standard error, one line for each event."""

from __future__ import annotations

import logging


def log_to_stderr() -> None:
    """Show what this project logs from INFO on; called once by a server's process, never on import."""
    for name in ("v2flow", "v2flow_engine"):
        logger = logging.getLogger(name)
        if not logger.handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
            logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
