"""The embedded model: small enough, whole, described, and drawing on the background that the prompt names."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from v2flow_engine.checkpoint import ASSETS, ModelFolder, load_weights, open_model
from v2flow_engine.evaluation.readers import read_backgrounds
from v2flow_engine.evaluation.thumbnails import thumbnails
from v2flow_engine.generation.pipeline import Pipeline
from v2flow_engine.training.emoji.compose import PALETTE, compose

MODEL = "v2flow-emoji"
MIB = 2**20


@pytest.fixture(scope="module")
def folder() -> ModelFolder:
    return open_model(MODEL)


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with Pipeline.from_pretrained(MODEL) as pipeline:
        yield pipeline


def test_models_stay_within_their_size() -> None:
    sizes = {
        p.name: sum(f.stat().st_size for f in p.rglob("*") if f.is_file())
        for p in ASSETS.iterdir()
        if p.is_dir()
    }
    assert sizes[MODEL] <= 24 * MIB
    assert sum(sizes.values()) <= 48 * MIB


def test_weights_are_bfloat16(folder: ModelFolder) -> None:
    files = list(folder.path.rglob("*.safetensors"))
    assert len(files) == 3
    for path in files:
        assert {v.dtype for v in load_weights(path).values()} == {torch.bfloat16}, path


def test_the_card_says_where_the_model_comes_from(folder: ModelFolder) -> None:
    card = (folder.path / "README.md").read_text(encoding="utf-8")
    for word in ("MIT", "Apache-2.0", "v2flow train llm", "seed", "seen_top1", "autoencoder_psnr"):
        assert word in card, word


def test_stock_transformers_loads_the_llm(folder: ModelFolder) -> None:
    llm = LlamaForCausalLM.from_pretrained(folder.llm_dir, local_files_only=True)
    assert llm.config.vocab_size == folder.vocabulary.visual_offset + folder.vocabulary.codebook_size


def test_encoding_and_decoding_keep_what_a_picture_shows(folder: ModelFolder) -> None:
    disc = np.zeros((112, 112, 4), np.uint8)
    rows, columns = np.ogrid[:112, :112]
    disc[(rows - 56) ** 2 + (columns - 56) ** 2 < 50**2] = (*PALETTE["red"], 255)
    picture = compose(disc, PALETTE["blue"], 2)
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
    autoencoder = folder.load_autoencoder()
    with torch.inference_mode():
        rebuilt = autoencoder.decode(autoencoder.encode(pixels)).clamp(-1, 1)
    psnr = 10 * torch.log10(4 / (rebuilt - pixels).square().mean())
    assert psnr > 22


def test_backgrounds_are_the_ones_asked_for(pipeline: Pipeline) -> None:
    colours = ["black", "red", "green", "blue", "yellow", "white"]
    made = pipeline.generate([f"a flat apple on a {colour} background" for colour in colours], seed=3)
    thumbs = thumbnails([np.asarray(each.image) for each in made])
    right = sum(read == asked for read, asked in zip(read_backgrounds(thumbs), colours, strict=True))
    assert right >= 5


def test_the_prompt_and_the_guidance_scale_each_change_the_picture(pipeline: Pipeline) -> None:
    def draw(prompt: str, scale: float) -> np.ndarray:
        return np.asarray(pipeline.generate(prompt, seed=1, guidance_scale=scale)[0].image).astype(int)

    base = draw("a cartoon cat on a pink background", 3.0)
    assert np.abs(base - draw("a cartoon cat on a teal background", 3.0)).mean() > 5
    assert np.abs(base - draw("a cartoon cat on a pink background", 1.0)).mean() > 1
