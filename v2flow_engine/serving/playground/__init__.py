"""The page at `/`: its files, which need no build step and no network beside this server."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from v2flow_engine.serving.errors import ApiError

MEDIA_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    **dict.fromkeys(
        ("api.js", "cards.js", "editor.js", "history.js", "main.js", "mask.js"),
        "text/javascript; charset=utf-8",
    ),
}
HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
def page() -> Response:
    """The page itself; it asks for a key where one is needed."""
    return _file("index.html")


@router.get("/playground/{name}")
def part(name: str) -> Response:
    """What the page loads: the files named above, and no others."""
    if name not in MEDIA_TYPES:
        raise ApiError(404, "There is nothing at this address.", code="not_found")
    return _file(name)


def _file(name: str) -> Response:
    content = (files(__package__) / name).read_bytes()
    return Response(content, media_type=MEDIA_TYPES[name], headers=HEADERS)
