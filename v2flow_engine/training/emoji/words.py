"""English noun phrases as emoji labels use them: spoken form, plural, article. Pure functions of text."""

import re
from functools import lru_cache

_IRREGULAR = {
    "man": "men", "woman": "women", "person": "people", "child": "children", "foot": "feet", "tooth": "teeth",
    "goose": "geese", "mouse": "mice", "ox": "oxen", "leaf": "leaves", "knife": "knives", "wolf": "wolves",
    "loaf": "loaves", "gas": "gases", "scarf": "scarves", "elf": "elves", "half": "halves", "hero": "heroes",
    "superhero": "superheroes", "tomato": "tomatoes", "potato": "potatoes", "mango": "mangoes",
    "echo": "echoes", "volcano": "volcanoes", "mosquito": "mosquitoes", "lens": "lenses", "sheaf": "sheaves",
}  # fmt: skip
_PLURALS = frozenset(_IRREGULAR.values()) | {"skis", "taxis", "saris"}
_SINGULARS_IN_S = frozenset({"gas", "lens", "canvas", "christmas", "rhinoceros"})
_UNCHANGED = frozenset({
    "sheep", "deer", "moose", "sushi", "broccoli", "rice", "bread", "popcorn", "butter", "salt", "honey",
    "bacon", "money", "ice", "tofu", "garlic", "sake", "luggage", "spaghetti", "information",
    "construction", "tennis", "cooking", "smoking", "littering", "rolling", "up", "down", "left", "right",
    "open", "closed", "back", "alive", "off", "on", "asleep", "done", "away", "together", "vertically",
    "horizontally", "locked", "unlocked", "registered", "prohibited", "foggy",
})  # fmt: skip

# Where the head of a phrase is, if not at its end.
_PEOPLE = frozenset({"man", "woman", "person"})
_FINAL_HEADS = frozenset({"button", "sign"})
_HEADS_BEFORE_PARTICIPLE = frozenset({
    "man", "woman", "person", "men", "women", "people", "face", "head", "index", "hand", "cat", "globe",
    "arrow", "page",
})  # fmt: skip
_AFTER_HEAD = frozenset({
    "with", "of", "in", "on", "at", "without", "from", "for", "under", "over", "behind", "wearing", "to",
    "tilted", "pointed",
})  # fmt: skip

_VOWEL_LETTERS = frozenset("AEFHILMNORSX8")
_READ_AS_WORDS = frozenset({"BACK", "COOL", "END", "FREE", "NEW", "ON!", "SOON", "TOP", "UP!"})
_CONSONANT_SOUNDS = ("uni", "use", "eu", "one", "ewe")
_VOWEL_SOUNDS = ("hour", "honest", "heir", "11", "18")


@lru_cache(maxsize=8192)
def spoken_label(label: str) -> str:
    """A label of the catalogue as one would say it: "man: red hair" -> "man with red hair"."""
    label = re.sub("[“”]|⊛ | \\(.*\\)", "", label.replace("’", "'"))
    head, colon, rest = label.partition(": ")
    if not colon:
        return label
    if rest == "bald":
        return f"bald {head}"
    if head == "family" or head.startswith(("kiss", "couple")):
        *others, last = rest.split(", ")
        return f"{head} of {', '.join(others)} and {last}" if others else f"{head} of {last}"
    if rest.endswith("hair") or rest == "beard":
        return f"{head} with {'a ' if rest == 'beard' else ''}{rest}"
    return f"{head} {rest}"


@lru_cache(maxsize=32768)
def plural(phrase: str) -> str:
    """The plural of a noun phrase: "face with tears of joy" -> "faces with tears of joy"."""
    words = phrase.split(" ")
    head = _head_index(words)
    words[head] = _plural_word(words[head])
    return " ".join(words)


@lru_cache(maxsize=32768)
def is_plural(phrase: str) -> bool:
    """Whether a noun phrase is a plural already ("grapes", "clinking glasses"): it takes no article."""
    words = phrase.split(" ")
    return _is_plural_word(words[_head_index(words)].lower())


@lru_cache(maxsize=65536)
def with_article(phrase: str) -> str:
    """ "apple" -> "an apple"; by sound, so "a unicorn", "an hourglass", "an ATM sign"."""
    word = re.split("[ -]", phrase, maxsplit=1)[0]
    lower = word.lower()
    if len(word) == 1 or (word.isupper() and word not in _READ_AS_WORDS):
        vowel = word[:1].upper() in _VOWEL_LETTERS
    elif lower.startswith(_VOWEL_SOUNDS):
        vowel = True
    else:
        vowel = lower.startswith(tuple("aeiou")) and not lower.startswith(_CONSONANT_SOUNDS)
    return f"{'an' if vowel else 'a'} {phrase}"


def _head_index(words: list[str]) -> int:
    last = len(words) - 1
    if words[last] in _FINAL_HEADS:
        return last
    for index in range(1, len(words)):
        participle = words[index].endswith("ing")
        if words[index] in _AFTER_HEAD or (participle and words[index - 1] in _HEADS_BEFORE_PARTICIPLE):
            return index - 1
        if participle and index == last and words[0] in _PEOPLE:  # "woman mountain biking"
            return 0
    return last


def _is_plural_word(word: str) -> bool:
    if word in _PLURALS:
        return True
    ends_in_s = word.endswith("s") and len(word) > 2 and not word.endswith(("ss", "us", "is"))
    return ends_in_s and word not in _SINGULARS_IN_S


def _plural_word(word: str) -> str:
    lower = word.lower()
    if lower in _IRREGULAR:
        return _IRREGULAR[lower]
    if lower in _UNCHANGED or lower.endswith("fish") or not lower[-1:].isalpha() or _is_plural_word(lower):
        return word
    if lower.endswith(("woman", "man")) and lower not in ("human", "talisman"):
        return f"{word[:-2]}en"
    if lower.endswith(("s", "x", "z", "ch", "sh")):
        return f"{word}es"
    if lower.endswith("y") and lower[-2:-1] not in tuple("aeiou"):
        return f"{word[:-1]}ies"
    return f"{word}s"
