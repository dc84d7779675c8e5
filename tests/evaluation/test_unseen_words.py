"""The prompts that come along have words that no caption has; a file with other lines is refused, line by line."""

import random
from collections import Counter
from pathlib import Path

import pytest

from v2flow_engine.errors import DataError
from v2flow_engine.evaluation.unseen_words import (
    GENERIC_WORDS,
    KINDS,
    Question,
    check_unseen,
    content_words,
    read_questions,
    seen,
)
from v2flow_engine.training.emoji.captions import (
    canonical_caption,
    caption_words,
    words_of,
    write_caption,
)
from v2flow_engine.training.emoji.catalogue import STYLES, read_labels
from v2flow_engine.training.emoji.compose import COUNTS, PALETTE
from v2flow_engine.training.emoji.wordings import read_wordings

Subjects = list[tuple[str, tuple[str, ...]]]
HEADER = "prompt\tlabel\tkind\n"


@pytest.fixture(scope="module")
def subjects() -> Subjects:
    """(label, tags) of the common emoji."""
    path = Path(__file__).parent / "common_captions.tsv"
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    return [(label, tuple(filter(None, tags.split(",")))) for label, tags in lines]


@pytest.fixture(scope="module")
def vocabulary(subjects: Subjects) -> frozenset[str]:
    """What captions of the common emoji may say, with their English wordings."""
    wordings = read_wordings()
    return caption_words(((label, (*tags, *wordings[label])) for label, tags in subjects), PALETTE)


def test_the_vocabulary_has_every_word_of_captions(subjects: Subjects, vocabulary: frozenset[str]) -> None:
    assert {label for label, _ in subjects} == set(read_labels("common") or ())
    rng, wordings = random.Random(0), read_wordings()
    said: set[str] = set()
    for index in range(20_000):
        label, tags = subjects[index % len(subjects)]
        style, background, count = rng.choice(STYLES), rng.choice(list(PALETTE)), rng.choice(COUNTS)
        facts = {"label": label, "tags": tags, "style": style, "background": background, "count": count}
        caption = write_caption(rng, **facts, wordings=wordings[label])
        said.update(words_of(caption), words_of(canonical_caption(label, style, background, count)))
    assert said <= vocabulary
    assert len(said) > 500  # of singular and plural forms of some 700 words
    assert {
        "dog",
        "dogs",
        "moo",
        "render",
        "teal",
        "couple",
        "times",
        "jack",
        "puppy",
        "puppies",
        "motorcar",
    } <= vocabulary


def test_the_prompts_have_words_that_no_caption_has(vocabulary: frozenset[str]) -> None:
    questions = read_questions()
    check_unseen(questions, read_labels("common") or (), vocabulary)
    # check_unseen is what the command relies on, so this says the rule once more, in its own words.
    for each in questions:
        unseen = [word for word in content_words(each.prompt) if not seen([word], vocabulary)]
        assert unseen, each
        assert each.kind == "description" or unseen == content_words(each.prompt), each


def test_no_word_of_a_prompt_contains_a_word_of_its_emoji(subjects: Subjects) -> None:
    """A subword tokenizer would see the one in the other."""
    tags_of = dict(subjects)
    fixed = caption_words([], [])
    for each in read_questions():
        own = caption_words([(each.label, tags_of[each.label])], []) - fixed
        for word in set(content_words(each.prompt)) - GENERIC_WORDS:
            assert not [part for part in own if len(part) > 2 and part in word], each


def test_the_prompts_are_spread() -> None:
    questions = read_questions()
    assert len(questions) == len({each.prompt for each in questions}) == 200
    assert Counter(each.kind for each in questions) == {"synonym": 90, "description": 80, "language": 30}
    labels = Counter(each.label for each in questions)
    assert len(labels) >= 110
    assert max(labels.values()) <= 3


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", r"line 1: expected the header prompt TAB label TAB kind, got ''"),
        ("a pooch\tdog face\tsynonym\n", r"line 1: expected the header"),
        (HEADER, "has no prompts"),
        (HEADER + "a pooch\tdog face\tsynonym\na pooch\n", r"line 3: expected prompt TAB label TAB kind"),
        (HEADER + "a pooch\t\tsynonym\n", r"line 2: expected prompt TAB label TAB kind"),
        (HEADER + "a pooch\tdog face\tpun\n", r"line 2: kind 'pun' is unknown; expected one of synonym,"),
        (b"\xff\xfe", "it is not UTF-8"),
    ],
)
def test_a_bad_file_is_told_by_line(tmp_path: Path, content: str | bytes, expected: str) -> None:
    path = tmp_path / "prompts.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=expected):
        read_questions(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.tsv cannot be read: No such file"):
        read_questions(tmp_path / "nowhere.tsv")


@pytest.mark.parametrize(
    ("prompt", "label", "kind", "expected"),
    [
        ("a puppy", "dog face", "synonym", "captions have 'puppy'"),
        ("Dogs!", "dog face", "synonym", "captions have 'dogs'"),
        ("a mutt", "dog face", "synonym", "captions have 'mutt'"),  # a wording
        ("a novel", "books", "synonym", "captions have 'novel'"),  # its plural is a tag
        ("the animal that goes moo", "cow face", "description", "captions have 'moo'"),
        ("a pooch animal", "dog face", "synonym", "captions have 'animal'"),
        ("the animal", "dog face", "description", "has no word of its own"),
        ("what is it", "dog face", "synonym", "has no word of its own"),
        ("a pooch", "pooch", "synonym", "no emoji asked for is labelled 'pooch'"),
    ],
)
def test_seen_words_are_refused(
    vocabulary: frozenset[str], prompt: str, label: str, kind: str, expected: str
) -> None:
    assert kind in KINDS
    with pytest.raises(DataError, match=f"file, line 7: .*{expected}"):
        check_unseen([Question(prompt, label, kind, "file, line 7")], read_labels("common") or (), vocabulary)
