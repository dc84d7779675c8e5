"""Captions say what the picture shows, in many ways."""

import hashlib
import random
import re

import pytest

from v2flow_engine.training.emoji.captions import canonical_caption, write_caption
from v2flow_engine.training.emoji.compose import PALETTE

COUNT_SAID = {2: r"\b(two|pair|couple|2)\b|x2|2x", 3: r"\b(three|3)\b|x3|3x", 4: r"\b(four|4)\b|x4|4x"}


def captions(number: int = 2000, **facts) -> list[str]:
    defaults = {
        "label": "robot",
        "tags": ["machine", "metal"],
        "style": "flat",
        "background": "teal",
        "count": 1,
    }
    rng = random.Random(0)
    return [write_caption(rng, **{**defaults, **facts}) for _ in range(number)]


def share(texts: list[str], pattern: str) -> float:
    return sum(bool(re.search(pattern, text)) for text in texts) / len(texts)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_counts_above_one_are_always_said_and_no_other(count: int) -> None:
    texts = captions(count=count)
    assert share(texts, COUNT_SAID[count]) == 1.0
    others = "|".join(pattern for other, pattern in COUNT_SAID.items() if other != count)
    assert share(texts, others) == 0.0
    assert share(texts, r"\brobots\b") > 0.5


def test_one_is_never_said_as_many() -> None:
    texts = captions(count=1)
    assert share(texts, "|".join(COUNT_SAID.values())) == 0.0
    assert 0.05 < share(texts, r"\b(one|single|1)\b") < 0.3


@pytest.mark.parametrize(("style", "word"), [("flat", "flat"), ("3d", "3d"), ("cartoon", "cartoon")])
def test_style_is_mostly_said_and_never_another(style: str, word: str) -> None:
    texts = captions(style=style, count=2)
    assert 0.7 < share(texts, rf"\b{word}\b") < 0.9
    assert share(texts, "|".join(rf"\b{other}\b" for other in {"flat", "3d", "cartoon"} - {style})) == 0.0


@pytest.mark.parametrize("background", list(PALETTE))
def test_background_is_mostly_said_and_never_another(background: str) -> None:
    texts = captions(background=background, count=3)
    assert 0.75 < share(texts, rf"\b{background}\b") < 0.95
    assert share(texts, "|".join(rf"\b{other}\b" for other in PALETTE if other != background)) == 0.0
    assert share(texts, r"\ba orange|\ban (?!orange)") == 0.0


@pytest.mark.parametrize("background", [[12, 200, 31], None])
def test_a_background_without_a_name_is_not_said(background: list[int] | None) -> None:
    assert share(captions(background=background), "background|against|on a") == 0.0


def test_label_or_tag_is_always_there() -> None:
    texts = captions()
    assert share(texts, "robot|machine|metal") == 1.0
    assert 0.8 < share(texts, "robot") < 1.0
    assert share(texts, "machine|metal") > 0.15


def test_tags_that_mean_something_else_here_are_not_used() -> None:
    texts = captions(label="heart", tags=["blue", "two"], background="red")
    assert share(texts, "blue|two") == 0.0


def test_captions_vary_and_follow_the_seed() -> None:
    assert len(set(captions(number=500, count=2))) > 150
    assert captions(number=50) == captions(number=50)


def test_captions_without_wordings_are_what_they_were_before_there_were_any() -> None:
    rng = random.Random(0)
    facts = {"label": "robot", "tags": ["machine", "metal"]}
    texts = [
        write_caption(rng, **facts, style=style, background=background, count=count)
        for style in ("flat", "3d", "cartoon")
        for background in ("orange", "teal", None)
        for count in (1, 2, 3, 4)
        for _ in range(100)
    ]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    assert digest == "da8935fcb9e44b5dec8ddbc4ecd795c7a8469269dc27d9587ac1baa83b4ff27d"


def test_a_share_of_the_captions_of_a_single_one_is_worded_freely() -> None:
    wordings = ["WALL-E", "what Asimov wrote laws for"]
    texts = captions(wordings=wordings)
    worded = [text for text in texts if text.startswith(tuple(wordings))]
    assert 0.37 < len(worded) / len(texts) < 0.43
    assert 0.45 < share(worded, wordings[0]) < 0.55
    assert share(worded, r"robot|machine|metal|\ba single|\bone\b") == 0.0
    assert 0.75 < share(worded, r"\bflat\b") < 0.85
    assert 0.8 < share(worded, r"\bteal\b") < 0.9
    assert 0.01 < sum(text in wordings for text in worded) / len(worded) < 0.06
    assert {
        "WALL-E in flat style on a teal background",
        "WALL-E, flat style, teal background",
        "what Asimov wrote laws for, flat, on teal",
    } <= set(worded)
    rest = [text for text in texts if text not in worded]
    assert share(rest, "robot|machine|metal") == 1.0 and share(rest, "WALL-E|Asimov") == 0.0


def test_wordings_mean_one_thing_and_are_not_counted() -> None:
    assert captions(wordings=["WALL-E"], count=3) == captions(count=3)


@pytest.mark.parametrize(
    ("label", "style", "background", "count", "caption"),
    [
        ("red apple", "flat", "blue", 1, "a flat red apple on a blue background"),
        ("red apple", "flat", "blue", 3, "three flat red apples on a blue background"),
        ("eyes", "cartoon", "orange", 1, "cartoon eyes on an orange background"),
        ("man: bald", "3d", "gray", 2, "two 3d bald men on a gray background"),
    ],
)
def test_canonical_caption(label: str, style: str, background: str, count: int, caption: str) -> None:
    assert canonical_caption(label, style, background, count) == caption
