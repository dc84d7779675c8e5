"""A list, newest first, and a cursor -> one page of it, as OpenAI's clients turn pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from v2flow_engine.serving.errors import ApiError


def page(items: Sequence[Any], after: str | None, limit: int) -> tuple[list[Any], dict[str, Any]]:
    """The items of a page, and what its answer says of it. Raises `ApiError` for a cursor that names none of them."""
    first = 0
    if after is not None:
        places = [place for place, item in enumerate(items) if item.id == after]
        if not places:
            raise ApiError(400, "after names none of these.", param="after", code="invalid_value")
        first = places[0] + 1
    shown = list(items[first : first + limit])
    return shown, {
        "first_id": shown[0].id if shown else None,
        "last_id": shown[-1].id if shown else None,
        "has_more": first + limit < len(items),
    }
