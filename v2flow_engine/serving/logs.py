"""Where a server's log goes: standard error, one JSON object in each line."""

from __future__ import annotations

import json
import logging
import secrets
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

OWN = ("v2flow", "v2flow_engine")
FIELDS = "fields"
# The id of the request that is being served, if any; what is logged meanwhile carries it.
current_request: ContextVar[str | None] = ContextVar("current_request", default=None)


def new_request_id() -> str:
    """As `x-request-id` has it."""
    return f"req_{secrets.token_hex(12)}"


def log_fields(logger: logging.Logger, **fields: Any) -> None:
    """Log, at INFO, a line that has these fields in place of a message."""
    logger.info("%s", fields, extra={FIELDS: fields})


class JsonLines(logging.Formatter):
    """time (UTC), level, logger, message or fields; request_id and exception where there are some."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as one line: JSON escapes all line ends."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
        }
        if (request_id := current_request.get()) is not None:
            told["request_id"] = request_id
        told |= getattr(record, FIELDS, None) or {"message": record.getMessage()}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


def log_to_stderr() -> None:
    """Show what this project logs from INFO on, and other packages' warnings where nobody else shows them.

    Called once by a server's process, never on import.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.captureWarnings(True)
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(handler)
    for name in OWN:
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
