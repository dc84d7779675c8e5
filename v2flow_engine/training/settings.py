"""A YAML file and `key=value` overrides -> a frozen training config."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml

from v2flow_engine.config import from_dict
from v2flow_engine.errors import DataError

Settings = TypeVar("Settings")
DEFAULTS = Path(__file__).parent / "configs"


def load_settings(cls: type[Settings], path: Path, overrides: list[str]) -> tuple[Settings, dict[str, Any]]:
    """Read a config file, apply overrides such as `loop.steps=100`, and build `cls`.

    Returns the config and its plain form. Raises `DataError` for an unreadable file or a malformed override,
    `ModelFolderError` for keys that `cls` does not have.
    """
    values = read_mapping(path)
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise DataError(f"an override looks like loop.steps=100, got {override!r}")
        _set(values, key.split("."), yaml.safe_load(value))
    return from_dict(cls, values, str(path)), values


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML (or JSON) file that holds a mapping; raises `DataError` for any other."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not a readable config ({error})") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: expected a mapping, got {type(values).__name__}")
    return values


def _set(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise DataError(f"override {'.'.join(keys)}: {key} is not a section")
    values[keys[-1]] = value
