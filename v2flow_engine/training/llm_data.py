"""pictures + trained autoencoder and tokenizer -> captioned codes and the LLM's training stage."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from v2flow_engine.checkpoint import ModelFolder, load_state, load_weights, open_model
from v2flow_engine.config import VisualTokenizerConfig, from_dict, load_json
from v2flow_engine.errors import DataError
from v2flow_engine.models.vae import Autoencoder
from v2flow_engine.models.visual_tokenizer import VisualTokenizer
from v2flow_engine.training.latents import cached_latents, encode_codes
from v2flow_engine.training.llm import Captioned, LlmStage, LlmTraining
from v2flow_engine.training.pictures import Pictures
from v2flow_engine.training.text import BOS, caption_of, prompt_ids, train_text_tokenizer
from v2flow_engine.training.vocabulary_surgery import lay_out_vocabulary

TOKENIZER_CAPTIONS = 60_000


def load_trained_tokenizer(folder: Path, device: torch.device) -> VisualTokenizer:
    """A visual_tokenizer folder, of a training run or of a model folder, ready to encode."""
    config = from_dict(VisualTokenizerConfig, load_json(folder / "config.json"), str(folder / "config.json"))
    tokenizer = VisualTokenizer(config)
    load_state(tokenizer, load_weights(folder / "model.safetensors"), str(folder))
    if config.text_vocab_size is not None:
        beside = folder / "vocabulary.safetensors"
        if beside.is_file():
            tokenizer.set_vocabulary(load_weights(beside)["embedding"].float())
        else:  # part of a model folder: the rows are its LLM's
            tokenizer.set_vocabulary(open_model(folder.parent).load_text_embedding())
    return tokenizer.to(device).eval()


def build_llm_stage(
    config: LlmTraining,
    training: Pictures,
    heldout: Pictures,
    vae_dir: Path,
    tokenizer_dir: Path,
    device: torch.device,
    init: ModelFolder | None = None,
) -> LlmStage:
    """Encode all pictures, word their captions, train the text tokenizer (or take init's), lay out the vocabulary."""
    autoencoder = Autoencoder.from_folder(vae_dir, device)
    tokenizer = load_trained_tokenizer(tokenizer_dir, device)
    shape = tokenizer.config
    if shape.text_vocab_size != config.text_vocab_size:
        raise DataError(
            f"{tokenizer_dir}: the tokenizer mixes {shape.text_vocab_size} text rows; the LLM's config has "
            f"{config.text_vocab_size}"
        )
    height, width = training.pixels.shape[1:3]
    size = f"{width}x{height}"
    vocabulary = lay_out_vocabulary(config.text_vocab_size, 0, shape.codebook_size, {size: shape.token_grid})

    if init is not None:
        if init.vocabulary != vocabulary:
            raise DataError(f"{init.path}: its vocabulary is not the one that this training lays out")
        text_tokenizer = init.prompt_encoder.tokenizer
    else:
        rng = random.Random(config.loop.seed)
        captions = [caption_of(rng.choice(training.records), rng) for _ in range(TOKENIZER_CAPTIONS)]
        text_tokenizer = train_text_tokenizer(captions, config.text_vocab_size)
    assert text_tokenizer.token_to_id(BOS) == vocabulary.bos_id
    room = config.max_position_embeddings - shape.num_visual_tokens - 3

    def captioned(pictures: Pictures, variants: int) -> Captioned:
        codes = encode_codes(cached_latents(pictures, vae_dir, device), tokenizer, device)
        ids, lengths = prompt_ids(
            pictures.records, size, text_tokenizer, vocabulary, variants, room, config.loop.seed + 1
        )
        return Captioned(ids, lengths, codes.to(torch.int32))

    @torch.inference_mode()
    def show(codes: torch.Tensor, path: Path) -> None:
        from v2flow_engine.decoding.decoder import Decoder
        from v2flow_engine.decoding.request import DecodeRequest
        from v2flow_engine.training.sheets import save_sheet

        decoder = Decoder(tokenizer, autoencoder, size)
        pictures = decoder.decode([DecodeRequest(c, seed, size) for seed, c in enumerate(codes)])
        pixels = torch.stack([torch.from_numpy(p) for p in pictures]).permute(0, 3, 1, 2) / 127.5 - 1
        save_sheet(list(pixels.split(8)), path)

    return LlmStage(
        config,
        captioned(training, config.caption_variants),
        captioned(heldout, 1),
        vocabulary,
        tokenizer.vocabulary.cpu() if tokenizer.vocabulary is not None else torch.empty(0),
        tokenizer.quantizer.codebook.cpu(),
        text_tokenizer,
        device,
        show,
        init.llm_dir if init is not None else None,
    )
