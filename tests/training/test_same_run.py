"""What may change when a run goes on, and what may not."""

from __future__ import annotations

from typing import Any

import pytest

from v2flow_engine.training.same_run import what_differs

LOOP = {"steps": 10, "batch_size": 4, "log_every": 5}
RUN: dict[str, Any] = {"stage": "llm", "settings": {"loop": LOOP, "head": "all"}, "pictures": [3, 4]}


@pytest.mark.parametrize(
    "settings",
    [
        {"loop": LOOP | {"steps": 20, "log_every": 1}},
        {"loop": LOOP | {"accumulate": 2, "checkpoint_every": 7, "sample_every": 9}},
        {"text_share": 0.5, "text_weight": 4.0},
    ],
)
def test_a_run_may_go_on_with(settings: dict[str, Any]) -> None:
    changed = RUN | {"settings": RUN["settings"] | settings}
    assert what_differs(RUN, RUN) == what_differs(RUN, changed) == what_differs(changed, RUN) == []


def test_what_differs_is_named_by_itself() -> None:
    other = {
        "stage": "llm",
        "settings": {"loop": LOOP | {"batch_size": 8}},
        "pictures": (3, 5),
        "text": ["a"],
    }
    assert what_differs(RUN, other) == [
        "settings.loop.batch_size was 4, now 8",
        "settings.head was 'all', now None",
        "pictures was [3, 4], now [3, 5]",
        "text was None, now ['a']",
    ]
