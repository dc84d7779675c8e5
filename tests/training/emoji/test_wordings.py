"""Wordings: the table that comes along is whole and fit, a bad one is refused, other languages are joined."""

from collections import Counter
from pathlib import Path

import pytest

from v2flow_engine.errors import DataError
from v2flow_engine.training.emoji.captions import words_of
from v2flow_engine.training.emoji.catalogue import load_catalogue, read_labels
from v2flow_engine.training.emoji.wordings import (
    LANGUAGES,
    add_wordings,
    allowed,
    kept_out,
    read_foreign_labels,
    read_wordings,
)

HEADER = "label\twording\n"


def test_every_common_emoji_has_wordings() -> None:
    table = read_wordings()
    assert list(table) == list(read_labels("common") or ())
    assert all(16 <= len(wordings) <= 30 for wordings in table.values())
    counts = Counter(wording.lower() for wordings in table.values() for wording in wordings)
    assert max(counts.values()) == 1  # none means two things


def test_wordings_are_short_phrases_of_one_thing() -> None:
    captions_say = {"two", "three", "four", "pair", "couple", "flat", "3d", "cartoon", "background"}
    for label, wordings in read_wordings().items():
        for wording in wordings:
            assert wording == wording.strip() and not wording.endswith("."), wording
            assert len(wording.split()) <= 9, wording
            assert not captions_say & set(words_of(wording)), wording
            assert wording.lower() != label, wording


def test_none_of_the_table_is_kept_out() -> None:
    assert {
        wording: kept_out(wording)
        for wordings in read_wordings().values()
        for wording in wordings
        if kept_out(wording)
    } == {}


@pytest.mark.parametrize(
    ("wording", "words"),
    [
        ("a hound", []),
        ("that animal from the tree", []),  # generic words and function words may be said
        ("a Pooch", ["pooch"]),
        ("some pooches", ["pooches"]),
        ("it keeps on wagging its tails", ["keeps", "tails"]),
        ("a tail", ["tail", "tails"]),
        ("cara de perro", ["perro"]),
    ],
)
def test_words_of_the_unseen_prompts_are_kept_out(wording: str, words: list[str]) -> None:
    assert set(words) <= set(kept_out(wording))
    assert bool(kept_out(wording)) == bool(words)


def test_allowed_keeps_the_order_and_each_once() -> None:
    assert allowed(["ein Hund", "a pooch", "chien", "ein Hund"]) == ("ein Hund", "chien")


def test_emoji_get_the_table_and_other_languages(tiny_packages: Path) -> None:
    found = {each.label: each for each in add_wordings(load_catalogue(tiny_packages), tiny_packages)}
    foreign = tuple(f"Wort-{each} robot" if each == "de" else f"wort-{each} robot" for each in LANGUAGES)
    assert found["robot"].wordings == (*read_wordings()["robot"], *foreign)
    assert found["orca"].wordings == ()  # the prompts ask for one
    assert found["copyright"].wordings[0] == "wort-es copyright"  # joined without FE0F and zeros
    assert [each.label for each in load_catalogue(tiny_packages) if each.wordings] == []


def test_a_package_without_a_language_is_told(tiny_packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("v2flow_engine.training.emoji.wordings.LANGUAGES", ("es", "xx"))
    with pytest.raises(DataError, match=r"emojibase-data.*\.tgz holds no xx/data\.json"):
        read_foreign_labels(tiny_packages)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", r"line 1: expected the header label TAB wording, got ''"),
        ("label\tphrase\n", r"line 1: expected the header label TAB wording, got 'label\\tphrase'"),
        (HEADER + "dog face\ta mutt\ndog face\n", r"line 3: expected label TAB wording, got 'dog face'"),
        (HEADER + "dog face\t \n", r"line 2: expected label TAB wording"),
        (HEADER + "dog face\ta mutt\ten\n", r"line 2: expected label TAB wording"),
        (b"\xff\xfe", "it is not UTF-8"),
    ],
)
def test_a_bad_table_is_told_by_line(tmp_path: Path, content: str | bytes, expected: str) -> None:
    path = tmp_path / "wordings.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=expected):
        read_wordings(path)


def test_a_missing_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.tsv cannot be read: No such file"):
        read_wordings(tmp_path / "nowhere.tsv")
