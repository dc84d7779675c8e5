"""Whatever is logged in a server's process, by whom ever, is one JSON object in a line."""

from __future__ import annotations

import json
import subprocess
import sys

LOGGING = """
import logging, warnings
from v2flow_engine.serving.logs import current_request, log_fields, log_to_stderr

log_to_stderr()
log_to_stderr()
own, other = logging.getLogger("v2flow_engine.x"), logging.getLogger("uvicorn.error")
own.info("two\\nlines of %s", "mine")
own.debug("not shown")
log_fields(own, status=200, seconds=0.5)
other.info("not shown")
token = current_request.set("req_1")
try:
    1 / 0
except ZeroDivisionError:
    other.exception("what went wrong")
current_request.reset(token)
warnings.warn("be careful")
"""


def test_every_line_is_json() -> None:
    done = subprocess.run([sys.executable, "-c", LOGGING], capture_output=True, text=True, check=True)
    lines = [json.loads(each) for each in done.stderr.splitlines()]
    assert not done.stdout and len(lines) == 4
    assert all(each.pop("time").endswith("+00:00") for each in lines)
    text, fields, error, warning = lines
    own = {"level": "INFO", "logger": "v2flow_engine.x"}
    assert text == own | {"message": "two\nlines of mine"}
    assert fields == own | {"status": 200, "seconds": 0.5}
    assert "ZeroDivisionError" in error.pop("exception")
    assert error == {
        "level": "ERROR",
        "logger": "uvicorn.error",
        "request_id": "req_1",
        "message": "what went wrong",
    }
    assert warning["logger"] == "py.warnings" and "be careful" in warning["message"]
