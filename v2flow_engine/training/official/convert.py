"""A checkpoint of the reference training code -> a folder that encodes and reconstructs.

    OUT/config.json   visual_tokenizer/ {config.json, model.safetensors, vocabulary.safetensors}   vae/

The reference trains visual tokenizers only: there is no LLM to convert, so OUT has no llm/ and does not generate
(`v2flow train llm` makes one for it). Its autoencoder is somebody else's and is not in the checkpoint either; OUT has
vae/ only if a folder of it is given to be copied.
"""

from __future__ import annotations

import math
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from v2flow_engine.checkpoint import TokenizerFolder
from v2flow_engine.config import GenerationDefaults, ModelConfig, load_json, save_json
from v2flow_engine.errors import DataError, OutputError
from v2flow_engine.models.reference_keys import (
    CODEBOOK,
    RENAMED,
    UNUSED,
    VOCABULARY,
    FromReference,
    build_from_reference,
)
from v2flow_engine.training.official.checkpoint import OfficialCheckpoint
from v2flow_engine.training.official.options import OfficialOptions, ResamplerSize


@dataclass(frozen=True)
class Conversion:
    """What was made: the model, what became of each weight, and the decoder's parameters."""

    built: FromReference
    defaults: GenerationDefaults


def convert(
    checkpoint: OfficialCheckpoint,
    options: OfficialOptions,
    vocabulary: torch.Tensor | None,
    vae: Path | None,
    out: Path,
) -> Conversion:
    """Write the folder `out`.

    Args:
        vocabulary: the LLM's embedding (V, D), if the checkpoint does not hold it; if it does, they must be equal.
        vae: a diffusers AutoencoderDC folder to copy, which must be the one that the options tell of.

    Raises `ModelFolderError` for weights that do not fit the options, `DataError` for other inputs that do not fit
    each other, `OutputError` if `out` is there and not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"--out {out}: exists already; it must be a new or empty folder")
    weights = with_vocabulary(checkpoint.weights, options, vocabulary)
    embedding = weights.get(VOCABULARY) if options.visual_vocabulary else None
    config = options.tokenizer_config(
        resampler_size(weights), None if embedding is None else (embedding.shape[0], embedding.shape[1])
    )
    built = build_from_reference(config, weights, f"{checkpoint.which} of the checkpoint")
    if vae is not None:
        check_vae(vae, options)
    _write(built, ModelConfig(out.resolve().name, options.size, options.defaults()), vae, out)
    return Conversion(built, options.defaults())


def with_vocabulary(
    weights: dict[str, torch.Tensor], options: OfficialOptions, vocabulary: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """The weights with `llm_embed_tokens`, from whichever of the two has it. Raises `DataError`."""
    if not options.visual_vocabulary:
        if vocabulary is not None:
            raise DataError("--llm-vocabulary is given, but visual_vocabulary is false in the options")
        return weights
    inside = weights.get(VOCABULARY)
    if inside is None and vocabulary is None:
        raise DataError(f"visual_vocabulary needs --llm-vocabulary: the checkpoint has no {VOCABULARY}")
    if inside is not None and inside.ndim != 2:
        raise DataError(f"{VOCABULARY} has shape {tuple(inside.shape)}, expected (vocabulary, channels)")
    if inside is not None and vocabulary is not None and not torch.equal(inside.float(), vocabulary.float()):
        raise DataError(
            f"--llm-vocabulary {tuple(vocabulary.shape)} is not what the checkpoint was trained with, its "
            f"{VOCABULARY} {tuple(inside.shape)}"
        )
    return weights | {VOCABULARY: inside if inside is not None else vocabulary}


def resampler_size(weights: dict[str, torch.Tensor]) -> ResamplerSize:
    """Depths and codebook size as the keys and shapes tell them. Raises `DataError` without a codebook."""
    codebook = weights.get(CODEBOOK)
    if codebook is None or codebook.ndim != 3:
        raise DataError(f"the checkpoint has no {CODEBOOK} of shape (1, codebook_size, channels)")
    blocks = {m[1] for key in weights if (m := re.match(r"downsampler\.s1\.b(\d+)\.", key))}
    layers = [key for key in weights if re.fullmatch(r"downsampler\.readout\.\d+\.weight", key)]
    return ResamplerSize(len(blocks), len(layers), codebook.shape[1])


def check_vae(vae: Path, options: OfficialOptions) -> None:
    """Raise `DataError` unless vae/config.json is of an autoencoder as the options tell."""
    config = load_json(vae / "config.json")
    found = {
        "latent_channels": config.get("latent_channels"),
        "pixels per latent": 2 ** (len(config.get("encoder_block_out_channels", [])) - 1),
        "scaling_factor": config.get("scaling_factor"),
    }
    expected = {
        "latent_channels": options.vae_embed_dim,
        "pixels per latent": options.vae_stride,
        "scaling_factor": options.scaling_factor,
    }
    wrong = [
        f"{key} {found[key]}, expected {expected[key]}" for key in expected if found[key] != expected[key]
    ]
    if not list(vae.glob("*.safetensors")):
        wrong.append("no *.safetensors in it")
    if wrong:
        raise DataError(f"--vae {vae}: not the autoencoder of this tokenizer: {'; '.join(wrong)}")


def _write(built: FromReference, config: ModelConfig, vae: Path | None, out: Path) -> None:
    building = out.resolve().with_name(out.resolve().name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    folder = building / "visual_tokenizer"
    try:
        folder.mkdir(parents=True)
        save_json(config, building / "config.json")
        save_json(built.tokenizer.config, folder / "config.json")
        save_file(built.tokenizer.state_dict(), str(folder / "model.safetensors"), metadata={"format": "pt"})
        if built.tokenizer.vocabulary is not None:
            embedding = {"embedding": built.tokenizer.vocabulary.contiguous()}
            save_file(embedding, str(folder / "vocabulary.safetensors"), metadata={"format": "pt"})
        if vae is not None:
            (building / "vae").mkdir()
            for path in sorted([*vae.glob("*.json"), *vae.glob("*.safetensors")]):
                shutil.copyfile(path, building / "vae" / path.name)
            TokenizerFolder.open(building)
        shutil.rmtree(out, ignore_errors=True)  # an empty folder, as checked
        building.rename(out)
    except OSError as error:
        raise OutputError(f"--out {out}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def describe(conversion: Conversion) -> list[str]:
    """Which weights are in the model, which of them have another name there, which were left: one line each group."""
    built, config = conversion.built, conversion.built.tokenizer.config
    numbers = sum(math.prod(v.shape) for v in built.tokenizer.state_dict().values())
    groups = Counter((_group(key), _group(ours)) for key, ours in built.used.items())
    lines = [f"used     {len(built.used)} tensors; the tokenizer has {numbers:,} numbers"]
    for (theirs, ours), count in groups.items():
        what = f"kept     {theirs}" if theirs == ours else f"renamed  {theirs} -> {ours}"
        lines.append(f"{what} ({count})")
    lines += [f"left     {key}: {UNUSED[key]}" for key in built.left]
    flow, defaults = config.flow, conversion.defaults
    steps = "" if flow.solver == "dopri5" else f" of {defaults.flow_steps} steps"
    return [
        *lines,
        f"decoder  {flow.method}, {defaults.rounds} rounds, {flow.solver}{steps}, {flow.guidance_schedule} guidance "
        f"{defaults.decoder_guidance:g} against the {flow.unconditional.replace('_', ' ')}",
    ]


def _group(key: str) -> str:
    for prefix in (*RENAMED, *RENAMED.values()):
        if key.startswith(prefix):
            return f"{prefix}*" if prefix.endswith(".") else prefix
    return f"{key.partition('.')[0]}.*" if "." in key else key
