"""Emoji -> what else people call them: synonyms, descriptions, and their labels in other languages.

A wording with a word that the prompts of unseen_words.tsv ask in is left out, so that no caption ever says it.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from v2flow_engine.errors import DataError
from v2flow_engine.evaluation.unseen_words import GENERIC_WORDS, content_words, read_questions
from v2flow_engine.tables import read_table
from v2flow_engine.training.emoji.captions import words_of
from v2flow_engine.training.emoji.catalogue import Emoji, normalise_hexcode
from v2flow_engine.training.emoji.sources import find_package, read_members
from v2flow_engine.training.emoji.words import plural

WORDINGS = Path(__file__).parent / "wordings.tsv"
COLUMNS = ("label", "wording")
LANGUAGES = ("es", "fr", "de", "it", "pt", "nl")
# Its nouns begin with a capital letter; those of the others do so only here and there in the package.
_CAPITALISED = "de"


def add_wordings(emoji: Iterable[Emoji], packages_dir: Path) -> list[Emoji]:
    """The same emoji with all their wordings: those of the table, then their labels in `LANGUAGES`."""
    table, foreign = read_wordings(), read_foreign_labels(packages_dir)
    return [
        replace(each, wordings=allowed((*table.get(each.label, ()), *foreign.get(each.hexcode, ()))))
        for each in emoji
    ]


def allowed(wordings: Iterable[str]) -> tuple[str, ...]:
    """Those without a word that is kept for the unseen prompts, each once and in their order."""
    return tuple(wording for wording in dict.fromkeys(wordings) if not kept_out(wording))


def kept_out(wording: str) -> list[str]:
    """The words of a wording, or their plurals, that the unseen prompts have in the singular or plural."""
    words = {*words_of(wording), *words_of(plural(wording))}
    return sorted(_kept_words() & (words | {plural(word) for word in words}))


def read_wordings(path: Path = WORDINGS) -> dict[str, tuple[str, ...]]:
    """Label -> wordings, of a table of `COLUMNS` between tabs, its first line their names.

    Raises `DataError` naming the line for one that is not so, and for a file that cannot be read.
    """
    table: dict[str, list[str]] = {}
    for _, (label, wording) in read_table(path, COLUMNS, "wordings"):
        table.setdefault(label, []).append(wording)
    return {label: tuple(wordings) for label, wordings in table.items()}


def read_foreign_labels(packages_dir: Path) -> dict[str, Sequence[str]]:
    """Hex code -> labels in the order of `LANGUAGES`, in lower case where the language has its nouns so."""
    tarball = find_package(packages_dir, "captions")
    files = {f"{language}/data.json": language for language in LANGUAGES}
    contents = {files[name]: content for name, content in read_members(tarball, files.__contains__)}
    labels: dict[str, list[str]] = {}
    for language in LANGUAGES:
        if language not in contents:
            raise DataError(f"{tarball} holds no {language}/data.json")
        try:
            entries = json.loads(contents[language])
        except json.JSONDecodeError as error:
            raise DataError(f"{language}/data.json in {tarball} is not JSON: {error}") from error
        for entry in entries:
            label = entry["label"] if language == _CAPITALISED else entry["label"].lower()
            labels.setdefault(normalise_hexcode(entry["hexcode"]), []).append(label)
    return labels


@cache
def _kept_words() -> frozenset[str]:
    words = {word for each in read_questions() for word in content_words(each.prompt)} - GENERIC_WORDS
    return frozenset(words | {plural(word) for word in words})
