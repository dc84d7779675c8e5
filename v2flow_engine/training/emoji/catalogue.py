"""Verified packages -> the emoji there are: hex code, label, tags and the styles each is drawn in.

Joins captions and artwork on the hex code with FE0F (a request for colour, not part of the identity) and
leading zeros dropped. Skin-tone variants and components (letters of flags, hair) are left out, and so are
flags in the style "3d", whose artwork is of another, unstated origin. Does not know how artwork is drawn.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from v2flow_engine.errors import DataError
from v2flow_engine.training.emoji.sources import find_package, read_member, read_members

STYLES: tuple[str, ...] = ("flat", "3d", "cartoon")
COMMON = Path(__file__).parent / "common.txt"
SVG_STYLES: tuple[str, ...] = ("flat", "cartoon")

_FLAGS_GROUP = 9
_COMPONENT_GROUPS = (None, 2)


@dataclass(frozen=True)
class Emoji:
    """One emoji: `hexcode` is normalised, `label` and `tags` are English, `styles` in the order of STYLES.

    `wordings`: phrases in any language that captions may have in place of the label; none unless they are added.
    """

    hexcode: str
    label: str
    tags: tuple[str, ...]
    styles: tuple[str, ...]
    wordings: tuple[str, ...] = ()


def normalise_hexcode(hexcode: str) -> str:
    """ "00ae-fe0f" -> "AE": upper case, without FE0F and without leading zeros."""
    points = (point.lstrip("0") for point in hexcode.upper().split("-"))
    return "-".join(point for point in points if point != "FE0F")


def load_catalogue(packages_dir: Path) -> list[Emoji]:
    """Every emoji that has a caption and artwork in at least one style, sorted by hex code."""
    drawn = {style: set(_drawn_hexcodes(packages_dir, style)) for style in STYLES}
    emoji = []
    for entry in _read_json(find_package(packages_dir, "captions"), "en/data.json"):
        if entry.get("group") in _COMPONENT_GROUPS:
            continue
        hexcode = normalise_hexcode(entry["hexcode"])
        styles = tuple(
            style
            for style in STYLES
            if hexcode in drawn[style] and not (style == "3d" and entry["group"] == _FLAGS_GROUP)
        )
        if styles:
            emoji.append(Emoji(hexcode, entry["label"], tuple(entry.get("tags", ())), styles))
    return sorted(emoji, key=lambda each: each.hexcode)


def read_labels(choice: str) -> tuple[str, ...] | None:
    """ "all" -> None; "common" -> the labels of common.txt; else the labels in that file, one a line, # comments."""
    if choice == "all":
        return None
    path = COMMON if choice == "common" else Path(choice)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise DataError(
            f"--emoji {choice}: expected all, common or a readable file ({error.strerror})"
        ) from error
    return tuple(line for line in lines if line and not line.startswith("#"))


def select(catalogue: list[Emoji], labels: Iterable[str]) -> list[Emoji]:
    """The emoji with these labels, in the catalogue's order; raises `DataError` for labels that it lacks."""
    wanted = set(labels)
    missing = sorted(wanted - {emoji.label for emoji in catalogue})
    if missing or not wanted:
        raise DataError(f"no emoji is labelled {', '.join(map(repr, missing)) or '(an empty list)'}")
    return [emoji for emoji in catalogue if emoji.label in wanted]


def read_svgs(packages_dir: Path, style: str) -> dict[str, str]:
    """Hex code -> a whole SVG document, for the styles that come as sets of SVG bodies."""
    tarball = find_package(packages_dir, style)
    icons = _read_json(tarball, "icons.json")
    names = _read_json(tarball, "chars.json")
    return {
        normalise_hexcode(hexcode): _svg_document(icons["icons"][name], icons)
        for hexcode, name in names.items()
        if name in icons["icons"]
    }


def read_webps(packages_dir: Path) -> dict[str, bytes]:
    """Hex code -> a WebP file, for the style "3d"."""
    members = read_members(find_package(packages_dir, "3d"), _is_webp)
    return {normalise_hexcode(Path(name).stem): content for name, content in sorted(members)}


def _svg_document(icon: dict, icons: dict) -> str:
    """Wraps a body of the icon format in a square view, centred where the icon is not square."""
    default = {"left": 0, "top": 0, "width": 16, "height": 16}
    left, top, width, height = (icon.get(key, icons.get(key, default[key])) for key in default)
    side = max(width, height)
    view = f"{left - (side - width) / 2:g} {top - (side - height) / 2:g} {side} {side}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view}">{icon["body"]}</svg>'
    )


def _drawn_hexcodes(packages_dir: Path, style: str) -> Iterator[str]:
    tarball = find_package(packages_dir, style)
    if style in SVG_STYLES:
        yield from map(normalise_hexcode, _read_json(tarball, "chars.json"))
    else:
        yield from (normalise_hexcode(Path(name).stem) for name, _ in read_members(tarball, _is_webp))


def _is_webp(name: str) -> bool:
    return name.startswith("assets/") and name.endswith(".webp")


def _read_json(tarball: Path, path: str):
    try:
        return json.loads(read_member(tarball, path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} in {tarball} is not JSON: {error}") from error
