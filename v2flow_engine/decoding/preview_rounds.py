"""How many previews of an image -> after which of its rounds. Arithmetic only: who plans them loads no decoder."""

from __future__ import annotations


def preview_rounds(rounds: int, count: int) -> list[int]:
    """After which of an image's rounds `count` previews are to be made, spread evenly; fewer where there are fewer.

    The last round is none of them: after it, the picture itself is there.
    """
    count = min(count, rounds - 1)
    return sorted({max(1, (k + 1) * rounds // (count + 1)) for k in range(count)})
