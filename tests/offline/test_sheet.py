"""The contact sheet: every picture, every prompt as text, nothing from the network."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import pytest

from v2flow_engine.offline import sheet
from v2flow_engine.offline.manifest import ManifestEntry

HOSTILE = "a \"cat\" </figure><script>alert(1)</script> & 'dog'"


class Page(HTMLParser):
    """What a browser would see: sources of pictures, the text of captions, how many scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.links: list[str] = []
        self.scripts = 0
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.sources.append(values["src"] or "")
        if tag == "a":
            self.links.append(values["href"] or "")
        self.scripts += tag == "script"

    def handle_data(self, data: str) -> None:
        self.text += data


def entries(directory: Path, count: int, prompt: str = "a cat") -> list[ManifestEntry]:
    """Manifest entries with files behind them."""
    made = []
    for i in range(count):
        name = f"{i:06d}-a-cat.png"
        (directory / name).write_bytes(b"picture %d" % i)
        made.append(ManifestEntry(i, prompt, i, {"model": "tiny", "size": "64x32"}, name, "", 9, 0.1))
    return made


def test_pictures_are_embedded_and_captions_are_text(tmp_path: Path) -> None:
    path = sheet.write_sheet(tmp_path, entries(tmp_path, 3, HOSTILE))
    page = Page(path.read_text(encoding="utf-8"))
    assert [base64.b64decode(s.removeprefix("data:image/png;base64,")) for s in page.sources] == [
        b"picture 0", b"picture 1", b"picture 2",
    ]  # fmt: skip
    assert page.text.count(HOSTILE) == 3
    assert page.scripts == 1
    assert "3 pictures" in page.text
    assert "http" not in path.read_text(encoding="utf-8")


def test_many_pictures_are_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "MAX_EMBEDDED_BYTES", 20)
    monkeypatch.setattr(sheet, "MAX_CARDS", 4)
    page = Page(sheet.write_sheet(tmp_path, entries(tmp_path, 6)).read_text(encoding="utf-8"))
    assert page.sources == page.links == [f"{i:06d}-a-cat.png" for i in range(4)]
    assert "6 pictures, the first 4 shown" in page.text


def test_failures_are_listed(tmp_path: Path) -> None:
    errors = [{"id": 1, "prompt": HOSTILE, "seed": 0, "error": "<too long>"}]
    page = Page(sheet.write_sheet(tmp_path, entries(tmp_path, 1), errors).read_text(encoding="utf-8"))
    assert f"#1 {HOSTILE}: <too long>" in page.text
    assert "1 picture, 1 failed" in page.text
    assert page.scripts == 1
