"""Tiny packages of the same layout as the real ones, with hand-made artwork, and a folder that holds them."""

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from v2flow_engine.training.emoji import sources
from v2flow_engine.training.emoji.splits import split_of
from v2flow_engine.training.emoji.wordings import LANGUAGES

LABELS = ["red apple", "robot", "face with tears of joy", "glasses", "orca", "tooth", "man: bald", "kite"]
RED_DISC = '<circle cx="16" cy="16" r="12" fill="#ff0000"/>'


def hexcodes() -> list[str]:
    """As many hex codes as labels, of which the last is a held-out emoji and the others are not."""
    candidates = [f"1F{number:03X}" for number in range(0x300, 0x700)]
    heldout = [code for code in candidates if split_of(code, "flat", None, 1) == "heldout_emoji"]
    seen = [code for code in candidates if code not in heldout]
    return [*seen[: len(LABELS) - 1], heldout[0]]


def captions() -> list[dict]:
    """Entries for every label, plus what the catalogue must leave out or treat apart."""
    entries = [
        {"label": label, "hexcode": code, "tags": ["thing", label.split()[0]], "group": 4}
        for label, code in zip(LABELS, hexcodes(), strict=True)
    ]
    entries[0]["skins"] = [{"label": "red apple: light", "hexcode": f"{entries[0]['hexcode']}-1F3FB"}]
    flag = {"label": "black flag", "hexcode": "1F3F4", "tags": ["flag"], "group": 9}
    copyright_sign = {"label": "copyright", "hexcode": "00A9-FE0F", "tags": ["c"], "group": 8}
    letter = {"label": "regional indicator A", "hexcode": "1F1E6"}
    hair = {"label": "red hair", "hexcode": "1F9B0", "group": 2}
    return [*entries, flag, copyright_sign, letter, hair]


def foreign_captions(language: str) -> list[dict]:
    """Entries whose labels are the English ones behind a word of the language."""
    return [{"label": f"Wort-{language} {each['label']}", "hexcode": each["hexcode"]} for each in captions()]


def icon_set(codes: list[str]) -> dict[str, bytes]:
    """The files of an icon package: every code is a red disc in a view of 32 x 32."""
    icons = {f"icon-{code.lower()}": {"body": RED_DISC} for code in codes}
    chars = {code.lower(): f"icon-{code.lower()}" for code in codes}
    return {
        "icons.json": json.dumps({"prefix": "tiny", "icons": icons, "width": 32, "height": 32}).encode(),
        "chars.json": json.dumps(chars).encode(),
    }


def webp_disc() -> bytes:
    """A half-transparent blue square as a WebP of 64 pixels."""
    buffer = io.BytesIO()
    Image.new("RGBA", (64, 64), (0, 0, 255, 128)).save(buffer, "WEBP", lossless=True, exact=True)
    return buffer.getvalue()


def write_tarball(path: Path, files: dict[str, bytes]) -> str:
    """Writes an npm-like tarball and returns its sha256."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def tiny_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the four tarballs; their checksums are pinned in place of the real ones."""
    folder = tmp_path / "tarballs"
    folder.mkdir()
    codes = hexcodes()
    extra = ["1f3f4", "a9", f"{codes[0]}-1f3fb", "1f1e6", "1f9b0"]
    solid = webp_disc()
    contents = {
        "captions": {
            "en/data.json": json.dumps(captions()).encode(),
            **{f"{each}/data.json": json.dumps(foreign_captions(each)).encode() for each in LANGUAGES},
        },
        "3d": {
            f"assets/{code.lower()}.webp": solid for code in (*codes[:-2], codes[-1], "1f3f4", "00a9-fe0f")
        },
        "cartoon": icon_set([*codes, *extra]),
        "flat": icon_set([*codes[:-2], codes[-1], *extra]),
    }
    pinned = tuple(
        replace(package, sha256=write_tarball(folder / package.filename, contents[package.role]))
        for package in sources.PACKAGES
    )
    monkeypatch.setattr(sources, "PACKAGES", pinned)
    return folder
