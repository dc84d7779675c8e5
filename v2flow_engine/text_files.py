"""A user's text file -> its content, or one line that says why not."""

from __future__ import annotations

from pathlib import Path

from v2flow_engine.errors import DataError


def read_text(path: Path, what: str, encoding: str = "utf-8") -> str:
    """The file's content; `what` names it where that cannot be. Raises `DataError`, for what is not UTF-8 too."""
    try:
        return path.read_text(encoding=encoding)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DataError(f"the {what} {path} cannot be read: {reason}") from error
