"""What a picture shows (label, tags, style, background, count) -> a caption in varied English.

Pure and quick: training writes a new caption for every epoch. Does not know pictures, files or splits.
"""

import random
import re
from collections.abc import Iterable, Sequence

from v2flow_engine.training.emoji.words import is_plural, plural, spoken_label, with_article

COUNT_WORDS: dict[int, str] = {1: "one", 2: "two", 3: "three", 4: "four"}

_COUNT_PREFIXES: dict[int, tuple[str, ...]] = {
    1: ("one", "1", "a single"),
    2: ("two", "two", "two", "2", "a pair of", "a couple of"),
    3: ("three", "three", "three", "3", "a group of three"),
    4: ("four", "four", "four", "4", "a group of four"),
}
_STYLE_OBJECTS: dict[str, tuple[str, ...]] = {
    "flat": ("flat emoji", "flat icon", "flat picture", "flat style emoji"),
    "3d": ("3d emoji", "3d icon", "3d render", "3d picture"),
    "cartoon": ("cartoon", "cartoon emoji", "cartoon picture", "cartoon drawing"),
}
_STYLE_SUFFIXES: dict[str, tuple[str, ...]] = {
    "flat": ("in flat style", "flat style", "in a flat style"),
    "3d": ("in 3d", "in 3d style", "3d style"),
    "cartoon": ("in cartoon style", "cartoon style", "as a cartoon"),
}
_BACKGROUNDS: tuple[str, ...] = (
    "on a {} background", "on a {} background", "on a {} background", "on {}", "against {}",
    "against a {} background", "with a {} background", "{} background", "in front of a {} background",
)  # fmt: skip
_BACKGROUND_TAGS: tuple[str, ...] = ("{} background", "background {}", "on {}")

_TIMES: tuple[str, ...] = ("{0} x{1}", "{1}x {0}", "{0}, {1} times")

_STYLE_SAID = 0.8
_BACKGROUND_SAID = 0.85
_SINGLE_SAID = 0.2
_TAG_ONLY = 0.12
_TAG_ADDED = 0.22
# Of the captions of a single thing that has wordings.
_WORDING_SHARE = 0.4
_WORDING_KEYWORDS = 0.25
_PREPOSITIONS = ("in ", "as ", "on ", "against ", "with ")

# Tags that would be taken for the background's colour or for the count.
_NOT_NOUNS = frozenset({
    "white", "black", "gray", "grey", "red", "orange", "yellow", "green", "teal", "blue", "purple", "pink",
    "brown", "one", "two", "three", "four", "1", "2", "3", "4", "pair", "couple", "group",
})  # fmt: skip


def canonical_caption(label: str, style: str, background: str, count: int) -> str:
    """The one full caption of a picture: "three flat red apples on a blue background"."""
    noun = f"{style} {spoken_label(label)}"
    return f"{_counted(noun, COUNT_WORDS[count] if count > 1 else None)} {_on(background)}"


def write_caption(
    rng: random.Random,
    *,
    label: str,
    tags: Sequence[str],
    style: str,
    background: str | Sequence[int] | None,
    count: int,
    wordings: Sequence[str] = (),
) -> str:
    """A caption drawn at random from many forms; what it says is true, but style or colour may go unsaid.

    A count above one is always said. A background that is not a name ([r, g, b] or None) is never said.
    wordings: phrases that mean one such thing; a share of the captions of a single one has one of them as its noun.
    """
    said_style = style if rng.random() < _STYLE_SAID else None
    said_background = background if isinstance(background, str) and rng.random() < _BACKGROUND_SAID else None
    if wordings and count == 1 and rng.random() < _WORDING_SHARE:
        return _worded(rng, rng.choice(wordings), said_style, said_background)
    noun, extra = _subject(rng, spoken_label(label), tags)
    draw = rng.random()
    if draw < 0.16:
        return _keywords(rng, noun, extra, said_style, said_background, count)
    if draw < 0.26:
        return _times(rng, noun, extra, said_style, said_background, count)
    return _sentence(rng, noun, extra, said_style, said_background, count)


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, split at whatever is no letter: "T-shirts x2" -> t, shirts, x."""
    return re.findall(r"[^\W\d_]+", text.lower())


def caption_words(
    subjects: Iterable[tuple[str, Sequence[str]]], backgrounds: Iterable[str]
) -> frozenset[str]:
    """Every word that a caption of these subjects (label, tags) on these backgrounds can have, as `words_of` it.

    Each is there in the plural too, whether or not a caption says it so. Where captions have wordings, pass them
    as further tags.
    """
    texts = [text for label, tags in subjects for text in (label, spoken_label(label), *tags)]
    texts += [plural(text) for text in texts]
    texts += [*backgrounds, *_BACKGROUNDS, *_BACKGROUND_TAGS, *_TIMES, *COUNT_WORDS.values(), "a", "an"]
    for forms in (_COUNT_PREFIXES, _STYLE_OBJECTS, _STYLE_SUFFIXES):
        texts += [*map(str, forms), *(text for each in forms.values() for text in each)]
    words = {word for text in texts for word in words_of(text)}
    return frozenset(words | {plural(word) for word in words})


def _subject(rng: random.Random, label: str, tags: Sequence[str]) -> tuple[str, str | None]:
    """(the noun, a tag to add or None)."""
    draw = rng.random()
    if not tags or draw >= _TAG_ONLY + _TAG_ADDED:
        return label, None
    tag = rng.choice(tags)
    if tag in _NOT_NOUNS or tag in label:
        return label, None
    return (tag, None) if draw < _TAG_ONLY else (label, tag)


def _sentence(
    rng: random.Random, noun: str, extra: str | None, style: str | None, background: str | None, count: int
) -> str:
    prefix = _count_prefix(rng, count)
    form = rng.random()
    if style is None:
        phrase = _counted(noun, prefix)
    elif form < 0.6:
        phrase = _counted(f"{style} {noun}", prefix)
    elif form < 0.8:
        phrase = f"{with_article(rng.choice(_STYLE_OBJECTS[style]))} of {_counted(noun, prefix)}"
    else:
        phrase = f"{_counted(noun, prefix)} {rng.choice(_STYLE_SUFFIXES[style])}"
    if extra is not None:
        phrase = f"{phrase}, {extra}," if background is not None else f"{phrase}, {extra}"
    if background is None:
        return phrase
    if rng.random() < 0.12:
        lead = f"{background} background" if rng.random() < 0.5 else _on(background)
        return f"{lead}, {phrase.removesuffix(',')}"
    return f"{phrase} {_on(background, rng.choice(_BACKGROUNDS))}"


def _keywords(
    rng: random.Random, noun: str, extra: str | None, style: str | None, background: str | None, count: int
) -> str:
    """Words in any order between commas: "red apple, two, blue background, flat"."""
    counted = rng.random() < 0.5
    parts = [_counted(noun, rng.choice(_COUNT_PREFIXES[count])) if counted and count > 1 else noun]
    if not counted and count > 1:
        parts.append(rng.choice((COUNT_WORDS[count], str(count))))
    if extra is not None:
        parts.append(extra)
    if style is not None:
        parts.append(style)
    if background is not None:
        parts.append(_on(background, rng.choice(_BACKGROUND_TAGS)))
    rng.shuffle(parts)
    return ", ".join(parts)


def _times(
    rng: random.Random, noun: str, extra: str | None, style: str | None, background: str | None, count: int
) -> str:
    """A bare noun with a multiplier: "flat red apple x3 on blue"."""
    phrase = f"{style} {noun}" if style is not None else noun
    if count > 1:
        phrase = rng.choice(_TIMES).format(phrase, count)
    if extra is not None:
        phrase = f"{phrase}, {extra}"
    if background is None:
        return phrase
    comma = "," if rng.random() < 0.5 else ""
    return f"{phrase}{comma} {_on(background, rng.choice(_BACKGROUNDS))}"


def _worded(rng: random.Random, wording: str, style: str | None, background: str | None) -> str:
    """A phrase as it is, and what it leaves open behind it: "a motorcar in flat style, blue background"."""
    keywords = rng.random() < _WORDING_KEYWORDS
    parts = []
    if style is not None:
        parts.append(style if keywords else rng.choice(_STYLE_SUFFIXES[style]))
    if background is not None:
        parts.append(_on(background, rng.choice(_BACKGROUND_TAGS if keywords else _BACKGROUNDS)))
    for part in parts:
        wording += f" {part}" if not keywords and part.startswith(_PREPOSITIONS) else f", {part}"
    return wording


def _count_prefix(rng: random.Random, count: int) -> str | None:
    if count == 1 and rng.random() >= _SINGLE_SAID:
        return None if rng.random() < 0.6 else ""
    return rng.choice(_COUNT_PREFIXES[count])


def _counted(phrase: str, prefix: str | None) -> str:
    """A phrase after its count; prefix None: a single one with its article; "": the bare phrase."""
    if prefix is None:
        return phrase if is_plural(phrase) else with_article(phrase)
    if prefix == "":
        return phrase
    return f"{prefix} {phrase if prefix in _COUNT_PREFIXES[1] else plural(phrase)}"


def _on(background: str, form: str = "on a {} background") -> str:
    if background == "orange":
        form = form.replace(" a {}", " an {}")
    return form.format(background)
