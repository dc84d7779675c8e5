"""A model folder, or an llm/ folder alone, with its LLM of the other architecture: `convert llm --arch`."""

from __future__ import annotations

import shutil
from pathlib import Path

from v2flow_engine.checkpoint import ModelFolder, open_model
from v2flow_engine.config import load_json
from v2flow_engine.converting.architecture import translate_config, translate_weights
from v2flow_engine.converting.shards import Shards, write_shards
from v2flow_engine.errors import ModelFolderError
from v2flow_engine.files import whole_folder
from v2flow_engine.llm_config import ARCHITECTURES
from v2flow_engine.training.vocabulary_surgery import write_llm_config
from v2flow_engine.vocabulary import VisualVocabulary


def change_architecture(name_or_dir: str, target: str, out: Path) -> None:
    """Write `out`, which becomes what was given: a model folder, or an llm/ folder.

    Raises `ModelFolderError` if the LLM is of that architecture already, or cannot be; `OutputError` for `out`.
    """
    given = Path(name_or_dir)
    if (given / "config.json").is_file() and "v2flow" in load_json(given / "config.json"):
        with whole_folder(out) as building:
            _change_llm(given, target, building)
        return
    folder = open_model(name_or_dir)
    with whole_folder(out) as building:
        (building / "llm").mkdir()
        _change_llm(folder.llm_dir, target, building / "llm")
        shutil.copyfile(folder.path / "config.json", building / "config.json")
        for part in ("visual_tokenizer", "vae"):
            shutil.copytree(folder.path / part, building / part, copy_function=shutil.copyfile)
        ModelFolder.open(building)


def _change_llm(llm: Path, target: str, out: Path) -> None:
    source = str(llm / "config.json")
    config = load_json(llm / "config.json")
    vocabulary = VisualVocabulary.from_llm_config(config, source)
    if config.get("model_type") not in ARCHITECTURES:
        raise ModelFolderError(
            f"{source}: model_type must be one of {', '.join(ARCHITECTURES)}, got {config.get('model_type')!r}"
        )
    if config["model_type"] == target:
        raise ModelFolderError(f"{source}: is {target} already")
    translated = translate_config(config, target, source)
    shards = Shards(llm)
    write_llm_config(translated, vocabulary, out)
    for path in sorted(llm.iterdir()):
        if (
            path.suffix in (".json", ".jinja")
            and not (out / path.name).exists()
            and ".index." not in path.name
        ):
            shutil.copyfile(path, out / path.name)
    write_shards(
        out,
        list(shards.files),
        lambda name: translate_weights(shards.files[name], shards.read, target, translated),
    )
