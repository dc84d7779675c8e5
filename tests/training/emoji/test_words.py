"""English of labels."""

import pytest

from v2flow_engine.training.emoji.words import is_plural, plural, spoken_label, with_article


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("red apple", "red apples"),
        ("face with tears of joy", "faces with tears of joy"),
        ("man", "men"),
        ("woman mountain biking", "women mountain biking"),
        ("person in suit levitating", "people in suit levitating"),
        ("slightly smiling face", "slightly smiling faces"),
        ("backhand index pointing right", "backhand indexes pointing right"),
        ("magnifying glass tilted left", "magnifying glasses tilted left"),
        ("Japanese free of charge button", "Japanese free of charge buttons"),
        ("clinking glasses", "clinking glasses"),
        ("cherry blossom", "cherry blossoms"),
        ("butterfly", "butterflies"),
        ("monkey", "monkeys"),
        ("snowman", "snowmen"),
        ("bus", "buses"),
        ("tropical fish", "tropical fish"),
        ("thumbs up", "thumbs up"),
        ("keycap 8", "keycap 8"),
    ],
)
def test_plural(one: str, many: str) -> None:
    assert plural(one) == many
    assert plural(many) == many or not is_plural(many)


@pytest.mark.parametrize(
    "phrase",
    [
        "an apple",
        "a unicorn",
        "an hourglass",
        "an ATM sign",
        "a ewe",
        "a COOL button",
        "an X-ray",
        "a flat eye",
    ],
)
def test_article(phrase: str) -> None:
    assert with_article(phrase.split(" ", 1)[1]) == phrase


@pytest.mark.parametrize(
    ("label", "spoken"),
    [
        ("man: red hair", "man with red hair"),
        ("person: beard", "person with a beard"),
        ("woman: bald", "bald woman"),
        ("family: man, woman, boy", "family of man, woman and boy"),
        ("woman walking: facing right", "woman walking facing right"),
        ("A button (blood type)", "A button"),
        ("Japanese “here” button", "Japanese here button"),
        ("keycap: 5", "keycap 5"),
    ],
)
def test_spoken_label(label: str, spoken: str) -> None:
    assert spoken_label(label) == spoken
