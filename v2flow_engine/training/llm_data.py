"""pictures + trained autoencoder and tokenizer -> captioned codes and the LLM's training stage."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from v2flow_engine.checkpoint import ModelFolder, load_weights, open_model, read_visual_tokenizer
from v2flow_engine.config import Grid, VisualTokenizerConfig, load_json
from v2flow_engine.decoding.decoder import Decoder
from v2flow_engine.decoding.request import DecodeRequest
from v2flow_engine.errors import DataError
from v2flow_engine.generation.image_tokenizer import to_pixels
from v2flow_engine.llm_config import longest_sequence
from v2flow_engine.models.vae import Autoencoder
from v2flow_engine.models.visual_tokenizer import VisualTokenizer
from v2flow_engine.prompts import PromptEncoder
from v2flow_engine.training.captioned import Captioned
from v2flow_engine.training.coded import Coded
from v2flow_engine.training.kept_text import text_windows
from v2flow_engine.training.latents import cached_codes, cached_latents
from v2flow_engine.training.llm import LlmStage, LlmTraining
from v2flow_engine.training.pictures import Pictures
from v2flow_engine.training.ranks import Ranks
from v2flow_engine.training.sheets import save_sheet
from v2flow_engine.training.teacher import Teacher
from v2flow_engine.training.text import BOS, caption_of, caption_pictures, train_text_tokenizer
from v2flow_engine.training.visual_tokenizer import random_text_embedding
from v2flow_engine.training.vocabulary_surgery import lay_out_vocabulary
from v2flow_engine.vocabulary import VisualVocabulary

TOKENIZER_CAPTIONS = 60_000


def load_trained_tokenizer(folder: Path, device: torch.device) -> VisualTokenizer:
    """A visual_tokenizer folder, of a training run or of a model folder, ready to encode."""
    beside = folder / "vocabulary.safetensors"
    tokenizer = read_visual_tokenizer(folder)
    if tokenizer.config.text_vocab_size is not None:
        # Without the file it is part of a model folder: the rows are its LLM's.
        tokenizer.set_vocabulary(
            load_weights(beside)["embedding"].float()
            if beside.is_file()
            else open_model(folder.parent).load_text_embedding()
        )
    return tokenizer.to(device).eval()


def build_llm_stage(
    config: LlmTraining,
    training: Sequence[Pictures | Coded],
    heldout: Sequence[Pictures | Coded],
    vae_dir: Path,
    tokenizer_dir: Path,
    ranks: Ranks,
    init: ModelFolder | None = None,
    base: Path | None = None,
    text: Sequence[Path] = (),
    teacher: ModelFolder | None = None,
) -> LlmStage:
    """Encode the pictures that are not yet, word their captions, train the text tokenizer (or take init's), lay out the
    vocabulary.

    base: an llm/ folder of `convert llm --base`, which brings text tokenizer and vocabulary. text: files of plain
    text that the LLM is to go on knowing. teacher: a model of the same codes whose LLM is learnt from; its visual
    tokenizer encodes the pictures then. Raises `DataError` for parts that do not fit one another.
    """
    device = ranks.device
    autoencoder = Autoencoder.from_folder(vae_dir, device)
    tokenizer = load_trained_tokenizer(tokenizer_dir, device)
    shape = tokenizer.config
    decoder = Decoder(tokenizer, autoencoder)
    sizes = {pictures.size: None for pictures in (*training, *heldout)}
    grids = {size: decoder.grid_of(size) for size in sizes}
    if base is not None:
        vocabulary, text_tokenizer = _of_base(base, grids, shape.codebook_size)
    else:
        vocabulary = lay_out_vocabulary(config.text_vocab_size, 0, shape.codebook_size, grids)
        if init is not None:
            if init.vocabulary != vocabulary:
                raise DataError(f"{init.path}: its vocabulary is not the one that this training lays out")
            text_tokenizer = init.prompt_encoder.tokenizer
        else:
            rng = random.Random(config.loop.seed)
            records = [record for pictures in training for record in pictures.records]
            captions = [caption_of(rng.choice(records), rng) for _ in range(TOKENIZER_CAPTIONS)]
            trained = ranks.once(lambda: train_text_tokenizer(captions, config.text_vocab_size).to_str())
            text_tokenizer = Tokenizer.from_str(trained)
        assert text_tokenizer.token_to_id(BOS) == vocabulary.bos_id
    if shape.text_vocab_size not in (None, vocabulary.text_vocab_size):
        raise DataError(
            f"{tokenizer_dir}: the tokenizer mixes {shape.text_vocab_size} text rows; the LLM has "
            f"{vocabulary.text_vocab_size}"
        )

    encoder = tokenizer
    if teacher is not None:
        _check_teacher(teacher, config, shape, tokenizer_dir, grids)
        encoder = load_trained_tokenizer(teacher.path / "visual_tokenizer", device)

    def codes_of(pictures: Pictures | Coded) -> torch.Tensor:
        if isinstance(pictures, Coded):
            return pictures.codes
        latents = cached_latents(pictures, vae_dir, ranks, config.loop.bf16)
        return cached_codes(latents, encoder, vae_dir, ranks).to(torch.int32)

    def captioned(sets: Sequence[Pictures | Coded], variants: int) -> list[Captioned]:
        made = []
        for pictures in sets:
            codes, grid = codes_of(pictures), grids[pictures.size]
            if codes.shape[1] != math.prod(grid):
                raise DataError(
                    f"pictures of {pictures.size} have {codes.shape[1]} codes, expected {grid[0]} x {grid[1]}"
                )
            longest, seed = config.max_position_embeddings, config.loop.seed
            made.append(
                caption_pictures(pictures, codes, text_tokenizer, vocabulary, variants, longest, seed)
            )
        return made

    @torch.inference_mode()
    def show(drawn: Sequence[torch.Tensor], path: Path) -> None:
        rows = []
        for pictures, codes in zip(heldout, drawn, strict=True):
            requests = [DecodeRequest(each, seed, pictures.size) for seed, each in enumerate(codes)]
            rows += to_pixels(decoder.decode(requests)).split(8)
        save_sheet(rows, path)

    kept = text_windows(text, text_tokenizer, config.text_window) if text else None
    # A tokenizer without a vocabulary says nothing of text rows: the LLM gets random ones.
    embedding = tokenizer.vocabulary
    if embedding is None and base is None:
        embedding = random_text_embedding(config.text_vocab_size, shape.code_dim, config.loop.seed)
    own = captioned(training, config.caption_variants)
    taught_by = None
    if teacher is not None:
        sets = _as_teacher_says(teacher, training, own, config)
        taught_by = Teacher(teacher.llm_dir, teacher.vocabulary, sets, vocabulary, device)
    return LlmStage(
        config,
        own,
        captioned(heldout, 1),
        vocabulary,
        None if embedding is None else embedding.cpu(),
        tokenizer.quantizer.codebook.cpu(),
        text_tokenizer,
        device,
        show,
        init.llm_dir if init is not None else None,
        base,
        kept,
        taught_by,
    )


def _check_teacher(
    teacher: ModelFolder,
    config: LlmTraining,
    shape: VisualTokenizerConfig,
    tokenizer_dir: Path,
    grids: dict[str, Grid],
) -> None:
    """Raise `DataError` unless it can teach: before pictures are encoded, which takes minutes."""
    if config.head != "visual":
        raise DataError(f"a teacher knows visual rows alone: it needs head=visual, got head={config.head}")
    its = teacher.visual_tokenizer_config
    if (its.codebook_size, its.latent_channels) != (shape.codebook_size, shape.latent_channels):
        raise DataError(
            f"{teacher.path}: a teacher needs the codes of {tokenizer_dir}, {shape.codebook_size} of "
            f"{shape.latent_channels} latent channels, and has {its.codebook_size} of {its.latent_channels}"
        )
    for size, (rows, columns) in grids.items():
        if teacher.vocabulary.grids.get(size) != [rows, columns]:
            raise DataError(
                f"{teacher.path}: the data has pictures of {size}, {rows} x {columns} visual tokens, and the teacher "
                f"has {teacher.vocabulary.grids}"
            )


def _as_teacher_says(
    teacher: ModelFolder, training: Sequence[Pictures | Coded], own: Sequence[Captioned], config: LlmTraining
) -> list[Captioned]:
    """The pictures with captions in the teacher's ids, without free wordings."""
    tokenizer = teacher.prompt_encoder.tokenizer
    longest = longest_sequence(teacher.llm_config, str(teacher.llm_dir))
    variants, seed = config.caption_variants, config.loop.seed
    made = []
    for pictures, mine in zip(training, own, strict=True):
        records = [{k: v for k, v in record.items() if k != "wordings"} for record in pictures.records]
        plain = replace(pictures, records=records)
        made.append(
            caption_pictures(plain, mine.codes, tokenizer, teacher.vocabulary, variants, longest, seed)
        )
    return made


def _of_base(base: Path, grids: dict[str, Grid], codebook_size: int) -> tuple[VisualVocabulary, Tokenizer]:
    """Vocabulary and text tokenizer of an llm/ folder. Raises `DataError` where it lacks a size or has other codes."""
    source = base / "config.json"
    config = load_json(source)
    vocabulary = VisualVocabulary.from_llm_config(config, str(source))
    if vocabulary.codebook_size != codebook_size:
        raise DataError(
            f"{base}: has {vocabulary.codebook_size} visual tokens, and the visual tokenizer {codebook_size} codes"
        )
    for size, grid in grids.items():
        if vocabulary.grids.get(size) != list(grid):
            raise DataError(
                f"{base}: the data has pictures of {size}, {grid[0]} x {grid[1]} visual tokens, and the LLM has "
                f"{vocabulary.grids}; v2flow convert llm --size names its sizes"
            )
    return vocabulary, PromptEncoder(base, vocabulary, longest_sequence(config, str(source))).tokenizer
