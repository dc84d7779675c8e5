"""Where rows come from: every format, local and remote, and what is wrong with a row or a file."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from v2flow_engine.errors import DataError
from v2flow_engine.offline.sources import FlagSource, SourceRow, open_source


def rows(name: str | Path, **options: Any) -> list[SourceRow]:
    """All rows, and the same ones when read again."""
    source = open_source(str(name), **options)
    first = list(source.rows())
    assert list(source.rows()) == first
    return first


def prompts(name: str | Path, **options: Any) -> list[str]:
    """The prompts of all rows."""
    return [row.columns["prompt"] for row in rows(name, **options)]


def test_a_text_file_gives_a_prompt_per_line_and_says_where_it_stood(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeff# a comment\n\n  a cat \r\n\ttwo 🐈 # no comment\n  # neither\nlast".encode())
    found = rows(path)
    assert [row.columns["prompt"] for row in found] == ["a cat", "two 🐈 # no comment", "last"]
    assert [row.origin for row in found] == [f"{path}, line {n}" for n in (3, 4, 6)]
    assert [row.number for row in found] == [1, 2, 3]


def test_standard_input_is_a_dash() -> None:
    found = rows("-", stdin=io.BytesIO(b"a cat\na dog\n"))
    assert [(row.columns["prompt"], row.origin) for row in found] == [
        ("a cat", "standard input, line 1"),
        ("a dog", "standard input, line 2"),
    ]
    assert rows("-", stdin=io.BytesIO(b' {"prompt": "a cat", "n": 2}\n'))[0].columns == {
        "prompt": "a cat",
        "n": 2,
    }


def test_standard_input_tells_its_format_by_its_first_bytes() -> None:
    parquet, tar = io.BytesIO(), io.BytesIO()
    pq.write_table(pa.table({"prompt": ["a cat"]}), parquet)
    with tarfile.open(fileobj=tar, mode="w") as file:
        info = tarfile.TarInfo("1.txt")
        info.size = 5
        file.addfile(info, io.BytesIO(b"a dog"))
    for written, prompt in ((parquet, "a cat"), (tar, "a dog")):
        written.seek(0)
        assert prompts("-", stdin=written) == [prompt]


def test_flags_are_taken_as_they_are() -> None:
    found = list(FlagSource(["# a", ""]).rows())
    assert [(row.columns["prompt"], row.origin) for row in found] == [
        ("# a", "--prompt 1"),
        ("", "--prompt 2"),
    ]


def test_jsonl_keeps_types_and_bad_lines_are_rows_with_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "a cat", "seed": 3}\n\n{"prompt": \n["a"]\n\xff\n{"prompt": "a dog"}\n')
    found = rows(path)
    assert [row.columns for row in (found[0], found[4])] == [
        {"prompt": "a cat", "seed": 3},
        {"prompt": "a dog"},
    ]
    assert [row.problem.partition(" (")[0] for row in found[1:4]] == [
        "not a JSON object", "not a JSON object but list", "prompts must be UTF-8 text",
    ]  # fmt: skip
    assert found[3].origin == f"{path}, line 5"


def test_csv_with_a_header(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,seed,topic\n"a cat, a dog\nand a hen",7,x\nan owl,,y,surplus\n', encoding="utf-8")
    found = rows(path)
    assert found[0].columns == {"prompt": "a cat, a dog\nand a hen", "seed": "7", "topic": "x"}
    assert found[1].columns == {"prompt": "an owl", "topic": "y"}
    assert "more fields than the header's 3" in found[1].problem


def test_csv_keeps_a_column_without_a_name_and_long_fields(tmp_path: Path) -> None:
    """An index that pandas writes has an empty header."""
    path = tmp_path / "rows.csv"
    path.write_text(f",prompt\n0,a cat\n1,{'long ' * 40_000}\n2,an owl\n", encoding="utf-8")
    found = rows(path)
    assert [row.columns[""] for row in found] == ["0", "1", "2"]
    assert found[2].columns["prompt"] == "an owl" and not any(row.problem for row in found)


def test_a_line_that_no_parser_can_hold_is_one_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": ' + "[" * 100_000 + '\n{"prompt": "a cat"}\n')
    deep, good = rows(path)
    assert "not a JSON object" in deep.problem and good.columns == {"prompt": "a cat"}


def test_parquet_without_its_pictures(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table = {"prompt": ["a cat", "a dog"], "seed": [1, None], "tags": [["x"], []], "image": [b"1", b"2"]}
    pictures = [
        {"bytes": b"1", "path": "1.png"},
        {"bytes": b"2", "path": "2.png"},
    ]  # as `datasets` keeps them
    table |= {"picture": pictures, "several": [[each] for each in pictures], "codes": [{"a": 1}, {"a": 2}]}
    pq.write_table(pa.table(table), path)
    assert [row.columns for row in rows(path)] == [
        {"prompt": "a cat", "seed": 1, "tags": ["x"], "codes": {"a": 1}},
        {"prompt": "a dog", "tags": [], "codes": {"a": 2}},
    ]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        rows(path)


def test_parquet_text_in_another_encoding_is_the_problem_of_its_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    latin = pa.array([b"a cat", b"caf\xe9", b"an owl"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": latin}), path)
    found = rows(path)
    assert [row.columns.get("prompt") for row in found] == ["a cat", None, "an owl"]
    assert "text must be UTF-8" in found[1].problem


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    """A tar of these members."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_webdataset_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    members = {
        "d/1.jpg": b"x",
        "d/1.txt": b"a cat\n",
        "d/1.json": b'{"seed": 4}',
        "d/2.json": b"[]",
        "d/3.jpg": b"",
    }
    write_tar(path, members)
    found = rows(path)
    assert found[0].columns == {"__key__": "d/1", "prompt": "a cat", "seed": 4}
    assert found[0].origin == f"{path}, sample d/1"
    assert "holds no JSON object" in found[1].problem
    assert found[2].columns == {"__key__": "d/3"}
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match="not a readable tar"):
        rows(path)


def test_folders_globs_compression_and_urls(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "b.txt").write_text("two\n")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "one"}\n'))
    (tmp_path / "below" / "c.csv").write_text("prompt\nthree\n")
    (tmp_path / "README.md").write_text("not prompts\n")
    assert prompts(tmp_path) == ["one", "two", "three"]
    assert prompts(f"{tmp_path}/*.txt") == ["two"]
    assert prompts(f"file://{tmp_path}/b.txt") == ["two"]
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/p.jsonl", b'{"prompt": "far"}\n')
    assert prompts("memory://bucket/p.jsonl") == prompts("memory://bucket/*.jsonl") == ["far"]
    assert prompts(tmp_path / "README.md") == ["not prompts"]
    memory.pipe("/bucket/p.jsonl?signature=1.2", b'{"prompt": "signed"}\n')
    assert prompts("memory://bucket/p.jsonl?signature=1.2") == ["signed"]
    assert prompts(tmp_path / "a.jsonl.gz", input_format="text") == ['{"prompt": "one"}']


def test_an_archive_that_is_cut_short_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"a cat\n" * 1000)[:-10])
    with pytest.raises(DataError, match=r"a\.txt\.gz: cannot read prompts \(Compressed file ended"):
        rows(path)


@pytest.mark.parametrize("name", ["rows.json", "rows.tsv", "rows.json.gz"])
def test_a_suffix_that_may_be_several_things_is_asked_about(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = b'{"prompt": "a cat"}\n'
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(DataError, match="may be several things; say which with --input-format"):
        rows(path)
    assert prompts(path, input_format="jsonl") == ["a cat"]


def test_bad_files_are_named(tmp_path: Path) -> None:
    for path, said in [
        (tmp_path, "a folder without files that end in"),
        (tmp_path / "no", "cannot read prompts \\(No such file"),
        (tmp_path / "*.txt", "no file matches"),
        ("nowhere://x", "Protocol not known"),
    ]:
        with pytest.raises(DataError, match=said) as caught:
            open_source(str(path))
        assert str(path) in str(caught.value)


def test_a_file_that_vanishes_is_told(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("a cat\n")
    stream = open_source(str(tmp_path)).rows()
    assert next(stream).columns == {"prompt": "a cat"}
    (tmp_path / "b.txt").unlink()
    with pytest.raises(DataError, match=r"b\.txt: cannot read prompts \(No such file"):
        next(stream)
