"""Packages come in verified or not at all."""

import os
from pathlib import Path

import pytest

from v2flow_engine.errors import DataError, OutputError
from v2flow_engine.training.emoji import sources
from v2flow_engine.training.emoji.sources import copy_packages, fetch_packages, read_member


def install_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts an executable called npm in front of everything else on the path."""
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")


def test_filenames_are_those_of_the_package_client() -> None:
    assert [package.filename for package in sources.PACKAGES] == [
        "emojibase-data-17.0.0.tgz",
        "lobehub-fluent-emoji-3d-1.1.0.tgz",
        "iconify-json-noto-1.2.9.tgz",
        "iconify-json-fluent-emoji-flat-1.2.6.tgz",
    ]


def test_copy_verifies_and_keeps(tiny_packages: Path, tmp_path: Path) -> None:
    found = copy_packages(tiny_packages, tmp_path / "kept")
    assert set(found) == {package.name for package in sources.PACKAGES}
    assert all(path.parent == tmp_path / "kept" and path.is_file() for path in found.values())
    again = copy_packages(tmp_path / "kept", tmp_path / "kept")
    assert again == found


def test_a_wrong_checksum_is_refused_and_leaves_nothing(tiny_packages: Path, tmp_path: Path) -> None:
    package = sources.PACKAGES[2]
    (tiny_packages / package.filename).write_bytes(b"something else")
    with pytest.raises(DataError, match=rf"{package.name} .*sha256 [0-9a-f]+, expected {package.sha256}"):
        copy_packages(tiny_packages, tmp_path / "kept")
    left = {path.name for path in (tmp_path / "kept").iterdir()}
    assert left == {each.filename for each in sources.PACKAGES[:2]}


def test_missing_tarballs_and_folders_are_named(tiny_packages: Path, tmp_path: Path) -> None:
    (tiny_packages / sources.PACKAGES[0].filename).unlink()
    with pytest.raises(DataError, match="has no emojibase-data-17"):
        copy_packages(tiny_packages, tmp_path / "kept")
    with pytest.raises(DataError, match="does not exist"):
        copy_packages(tmp_path / "nowhere", tmp_path / "kept")


def test_fetching_runs_npm_pack_for_what_is_missing(
    tiny_packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An npm that "downloads" from a folder: the same command line, the same file in the current folder."""
    script = f"""
echo "$@" >> {tmp_path}/calls
name=$(echo "$2" | sed 's/^@//; s|/|-|; s/@/-/')
cp {tiny_packages}/$name.tgz ."""
    install_npm(tmp_path / "bin", script, monkeypatch)
    fetch_packages(tmp_path / "kept")
    calls = (tmp_path / "calls").read_text().splitlines()
    wishes = [f"{package.name}@{package.version}" for package in sources.PACKAGES]
    assert [call.split()[:2] for call in calls] == [["pack", wish] for wish in wishes]
    fetch_packages(tmp_path / "kept")
    assert len((tmp_path / "calls").read_text().splitlines()) == len(calls), "nothing is fetched twice"


def test_npm_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_npm(tmp_path / "bin", "echo 'npm error network is down' >&2; exit 7", monkeypatch)
    with pytest.raises(
        DataError, match=r"npm pack emojibase-data@17.0.0 failed .* 7: npm error network is down"
    ):
        fetch_packages(tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []


def test_missing_npm_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="npm is needed"):
        fetch_packages(tmp_path / "kept")


def test_a_place_that_cannot_be_written_is_named(tiny_packages: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write to"):
        copy_packages(tiny_packages, tmp_path / "file" / "packages")


def test_reading_what_is_no_package(tmp_path: Path) -> None:
    broken = tmp_path / "broken.tgz"
    broken.write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be read as a package"):
        read_member(broken, "en/data.json")
