"""Where prompts come from."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from v2flow_engine.errors import DataError
from v2flow_engine.offline.sources import prompts_from_file, prompts_from_flags


def test_a_file_gives_a_prompt_per_line_and_says_where_it_stood(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeff# a comment\n\n  a cat \r\n\ttwo 🐈 # no comment\n  # neither\nlast".encode())
    prompts = prompts_from_file(str(path))
    assert [p.text for p in prompts] == ["a cat", "two 🐈 # no comment", "last"]
    assert [p.origin for p in prompts] == [f"{path}, line {n}" for n in (3, 4, 6)]


def test_standard_input_is_a_dash() -> None:
    prompts = prompts_from_file("-", stdin=io.BytesIO(b"a cat\na dog\n"))
    assert [(p.text, p.origin) for p in prompts] == [
        ("a cat", "standard input, line 1"),
        ("a dog", "standard input, line 2"),
    ]


def test_flags_are_taken_as_they_are() -> None:
    assert [(p.text, p.origin) for p in prompts_from_flags(["# a", ""])] == [
        ("# a", "--prompt 1"),
        ("", "--prompt 2"),
    ]


def test_bad_files_are_named(tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text("\n# only a comment\n")
    binary.write_bytes(b"a cat\n\xff\xfe\n")
    for path, said in [
        (empty, "holds no prompt"),
        (binary, "UTF-8"),
        (tmp_path, "cannot read"),
        (tmp_path / "no", "No such"),
    ]:
        with pytest.raises(DataError, match=said) as caught:
            prompts_from_file(str(path))
        assert str(path) in str(caught.value)
