"""A file of prompts -> what each asks for, in words that no training caption of these emoji can have.

What a model draws of them it knows from what its LLM had read before. Does not know pictures.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from v2flow_engine.errors import DataError
from v2flow_engine.tables import read_table
from v2flow_engine.training.emoji.captions import words_of
from v2flow_engine.training.emoji.words import plural

UNSEEN_WORDS = Path(__file__).parent / "unseen_words.tsv"
COLUMNS = ("prompt", "label", "kind")
KINDS = ("synonym", "description", "language")

# They say nothing of what is meant, so captions may have them.
FUNCTION_WORDS = frozenset({
    "a", "an", "the", "that", "this", "of", "to", "for", "with", "from", "in", "into", "on", "at", "by", "out",
    "after", "along", "and", "or", "is", "are", "it", "its", "his", "her", "you", "your", "they", "them", "who",
    "what", "which", "where", "when", "something", "someone", "s",
    "un", "una", "une", "um", "uma", "el", "la", "le", "les", "los", "las", "il", "lo", "de", "du", "des", "der",
    "das", "ein", "eine",
})  # fmt: skip
# What a description may call a thing that it then tells from others of the sort; captions have most of them.
GENERIC_WORDS = frozenset({
    "animal", "bird", "insect", "flower", "plant", "tree", "fruit", "vegetable", "food", "drink", "vehicle",
    "instrument", "clothing", "tool", "thing", "creature",
})  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A prompt, and the label of the emoji that it means. `kind`: one of `KINDS`. `place`: where it was read."""

    prompt: str
    label: str
    kind: str
    place: str


def read_questions(path: Path = UNSEEN_WORDS) -> list[Question]:
    """The lines of a table of `COLUMNS` between tabs, its first line their names.

    Raises `DataError` naming the line for one that is not so, and for a file that cannot be read or is empty.
    """
    questions = [_question(place, *cells) for place, cells in read_table(path, COLUMNS, "prompts")]
    if not questions:
        raise DataError(f"{path} has no prompts; expected lines of {' TAB '.join(COLUMNS)} below the header")
    return questions


def content_words(prompt: str) -> list[str]:
    """Its words that say what is meant: all but `FUNCTION_WORDS`."""
    return [word for word in words_of(prompt) if word not in FUNCTION_WORDS]


def seen(words: Sequence[str], vocabulary: Collection[str]) -> list[str]:
    """Those of the words that the vocabulary has, as they are or in the plural."""
    return [word for word in words if word in vocabulary or plural(word) in vocabulary]


def check_unseen(questions: Sequence[Question], labels: Collection[str], vocabulary: Collection[str]) -> None:
    """Raise `DataError` for the first that is not as it should be.

    labels: what may be meant. vocabulary: what captions may say (`caption_words`). No content word may be one of
    these, but for `GENERIC_WORDS` in descriptions, which need another word beside them.
    """
    for each in questions:
        if each.label not in labels:
            raise DataError(f"{each.place}: no emoji asked for is labelled {each.label!r}")
        words = content_words(each.prompt)
        if each.kind == "description":
            words = [word for word in words if word not in GENERIC_WORDS]
        if not words:
            raise DataError(f"{each.place}: {each.prompt!r} has no word of its own; expected at least one")
        found = seen(words, vocabulary)
        if found:
            raise DataError(
                f"{each.place}: captions have {', '.join(map(repr, found))} of {each.prompt!r}; "
                "expected words that none has"
            )


def _question(place: str, prompt: str, label: str, kind: str) -> Question:
    if kind not in KINDS:
        raise DataError(f"{place}: kind {kind!r} is unknown; expected one of {', '.join(KINDS)}")
    return Question(prompt, label, kind, place)
