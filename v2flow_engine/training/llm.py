"""Trains an LLM, a LLaMA or a Phi-3, to write visual tokens: caption ids -> codes.

Sequences are `BOS text image_start size | visual tokens | image_end`; in one of ten every text id is the null id, which
is what the unconditional stream of guidance sees. The text rows of the embedding stay as they are: they are the space
that the visual tokenizer mixes. It starts from nothing, from a model folder, or from a pretrained LLM that `convert llm
--base` gave visual tokens. Knows nothing of pixels but for its sample sheet.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from v2flow_engine.adapted_model import ADAPTERS
from v2flow_engine.checkpoint import load_state
from v2flow_engine.errors import DataError, ModelFolderError
from v2flow_engine.generation.two_pass import generate_two_pass
from v2flow_engine.llm_config import ARCHITECTURES, BESIDE_TOKENIZER
from v2flow_engine.training.batches import BatchPart, spread
from v2flow_engine.training.caption_rows import count_caption_words
from v2flow_engine.training.captioned import Captioned
from v2flow_engine.training.draws import Draws
from v2flow_engine.training.llm_losses import cross_entropy, image_logits, text_divergence
from v2flow_engine.training.loop import LoopConfig, Stage
from v2flow_engine.training.lora import LoraSettings, add_adapters, merged_weights, save_adapters
from v2flow_engine.training.split_rows import embedding_and_head, joined, split_rows, trained_rows
from v2flow_engine.training.teacher import Teacher
from v2flow_engine.training.vocabulary_surgery import (
    fill_embedding,
    row_statistics,
    visual_rows,
    write_llm_config,
)
from v2flow_engine.vocabulary import VisualVocabulary

STARTS = ("pretrained", "caption_rows", "random_rows", "random")
HEADS = ("all", "visual")
# Up to here the backward pass of fused attention is slower than plain products on a CPU: 5 x at 35 tokens, 2 x at 160,
# the same at 320.
PLAIN_ATTENTION_TOKENS = 256


@dataclass(frozen=True)
class LlmTraining:
    """model: `model_type`, llama (default) or phi3, and its config's keyword arguments, without the vocabulary.

    caption_variants: wordings drawn per picture. drop_prompt: share of prompts that become null ids.
    drop_visual: up to this share of an image's visual input ids become null ids (the share is drawn per image), so
        that the model must look at the prompt where it would else go on from the tokens before.
    start: what is kept of a base LLM: "pretrained", all; "caption_rows", all, but visual rows turn half the way to the
        words that stand in captions of their pictures; "random_rows", all but the visual rows, whose directions are
        drawn anew; "random", its shape and its text tokenizer.
    lora: train adapters and the rows of control and visual tokens, in place of all weights but the text rows.
    head: the rows that the loss of an image compares: "all", or "visual", those of control and visual tokens. No more
        are looked at where an image is drawn, and a large text vocabulary's are most of a small LLM's work.
    text_share: of a step's samples that also bring a window of plain text (`train llm --text`), of which the LLM is to
        expect what the base does. Every second one stands behind the sample's image.
    text_window: tokens of a window.
    teacher_share: of the loss of an image that asks for what a teacher expects (`train llm --teacher`); the rest asks
        for the tokens that are there.
    text_every: steps from one that looks at text to the next; that one's counts so many times as much.
    text_weight: what a nat of divergence on text counts, where one of an image's tokens counts 1.
    """

    model: dict[str, Any]
    loop: LoopConfig
    text_vocab_size: int = 2048
    caption_variants: int = 8
    max_position_embeddings: int = 160
    drop_prompt: float = 0.1
    drop_visual: float = 0.0
    guidance_scale: float = 3.0
    start: str = "pretrained"
    lora: LoraSettings | None = None
    head: str = "all"
    text_share: float = 0.06
    text_window: int = 64
    text_every: int = 1
    text_weight: float = 1.0
    teacher_share: float = 0.5

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise DataError(f"start must be one of {', '.join(STARTS)}, got {self.start!r}")
        if self.head not in HEADS:
            raise DataError(f"head must be one of {', '.join(HEADS)}, got {self.head!r}")
        if not 0 < self.text_share <= 1 or self.text_window < 2 or self.text_every < 1:
            raise DataError(
                f"text_share must be in (0, 1], text_window at least 2 and text_every at least 1, got "
                f"{self.text_share:g}, {self.text_window} and {self.text_every}"
            )
        if not 0 <= self.teacher_share <= 1:
            raise DataError(f"teacher_share must be in [0, 1], got {self.teacher_share:g}")
        if not 0 < self.text_weight < math.inf:
            raise DataError(f"text_weight must be above 0 and finite, got {self.text_weight:g}")


class LlmStage(Stage):
    """LLM training on cached codes, in one set for each size of picture.

    init: an llm/ folder with the same vocabulary to start from instead of random weights.
    base: an llm/ folder of `convert llm --base`, whose shape, vocabulary and text tokenizer are the result's, too; the
        config's `model`, `text_vocab_size` and the text embedding then say nothing.
    kept_text: (n, text_window) ids of text of which the LLM is to expect what its base does.
    teacher: an LLM that draws already, with the pictures of `train`; needs `head` "visual".
    """

    def __init__(
        self,
        config: LlmTraining,
        train: Sequence[Captioned],
        heldout: Sequence[Captioned],
        vocabulary: VisualVocabulary,
        text_embedding: torch.Tensor | None,
        codebook: torch.Tensor,
        text_tokenizer: Tokenizer,
        device: torch.device,
        show: Callable[[Sequence[torch.Tensor], Path], None],
        init: Path | None = None,
        base: Path | None = None,
        kept_text: torch.Tensor | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        torch.manual_seed(config.loop.seed)
        self.config, self.vocabulary, self.text_tokenizer, self.device = (
            config,
            vocabulary,
            text_tokenizer,
            device,
        )
        self.train, self.heldout = [t.to(device) for t in train], [h.to(device) for h in heldout]
        self.show, self.base, self.teacher = show, base, teacher
        self.kept_text, self.known = None, None
        if kept_text is not None:
            self.kept_text = kept_text.to(device)
            self.known = self._text_llm(base).to(device)
        if base is not None:
            self.net = self._from_base(base)
        else:
            self.net = AutoModelForCausalLM.from_config(self._llm_config(), dtype=torch.float32)
            if init is None:
                fill_embedding(self.net.get_input_embeddings(), text_embedding, codebook, vocabulary)
            else:
                self._load(init)
        frozen_dtype = torch.bfloat16 if config.lora is not None and config.loop.bf16 else torch.float32
        if config.lora is not None:
            add_adapters(self.net, config.lora, frozen_dtype)
        split_rows(self.net, vocabulary.text_vocab_size, frozen_dtype)
        self.net.to(device)
        longest = max(data.prompt_ids.shape[-1] + data.codes.shape[-1] for data in self.train)
        if device.type == "cpu" and longest <= PLAIN_ATTENTION_TOKENS:
            self.net.set_attn_implementation("eager")

    def _load(self, init: Path) -> None:
        trained = AutoModelForCausalLM.from_pretrained(init, dtype=torch.float32, local_files_only=True)
        if trained.config.model_type != self.net.config.model_type:
            raise ModelFolderError(
                f"{init}: model_type {trained.config.model_type}, expected {self.net.config.model_type} "
                "as in the training's config; v2flow convert llm --arch changes it"
            )
        load_state(self.net, trained.state_dict(), str(init))

    @torch.no_grad()
    def _from_base(self, base: Path) -> nn.Module:
        if self.config.start == "random":
            shape = AutoConfig.from_pretrained(base, local_files_only=True)
            return AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
        net = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
        if self.config.start == "pretrained":
            return net
        said = (
            count_caption_words(self.train, self.vocabulary) if self.config.start == "caption_rows" else None
        )
        for rows in embedding_and_head(net):
            text, visual = rows[: self.vocabulary.text_vocab_size], rows[self.vocabulary.visual_offset :]
            mean, deviation = row_statistics(text)
            if said is None:
                directions = torch.randn_like(visual)
            else:
                directions = F.normalize(visual - mean, dim=-1) + said.directions(text, mean).to(visual)
            visual.copy_(visual_rows(mean, deviation, F.normalize(directions, dim=-1)))
        return net

    def _text_llm(self, base: Path) -> nn.Module:
        """The base as it was before it got visual tokens, frozen."""
        dtype = torch.bfloat16 if self.config.loop.bf16 else torch.float32
        known = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, local_files_only=True)
        known.resize_token_embeddings(self.vocabulary.text_vocab_size, mean_resizing=False)
        return known.requires_grad_(False).eval()

    def _llm_config(self) -> PreTrainedConfig:
        vocabulary = self.vocabulary
        settings = {"model_type": "llama"} | self.config.model
        if settings["model_type"] not in ARCHITECTURES:
            raise DataError(
                f"model.model_type must be one of {', '.join(ARCHITECTURES)}, got {settings['model_type']!r}"
            )
        return AutoConfig.for_model(
            **settings,
            vocab_size=vocabulary.visual_offset + vocabulary.codebook_size,
            max_position_embeddings=self.config.max_position_embeddings,
            bos_token_id=vocabulary.bos_id,
            eos_token_id=vocabulary.image_end_id,
            pad_token_id=None,
            tie_word_embeddings=True,
        )

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """As usual, but embedding and head do not decay."""
        rows = trained_rows(self.net)
        kept = {id(weight) for weight in rows}
        others = [p for p in self.net.parameters() if p.requires_grad and id(p) not in kept]
        return [
            {"params": [p for p in others if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [*rows, *(p for p in others if p.ndim < 2)], "weight_decay": 0.0},
        ]

    def compile(self) -> None:
        """The layers, which are the same code with other weights: compiled once, for any length from the second on."""
        for layer in self.net.model.layers:
            layer.compile()

    @property
    def counts(self) -> list[int]:
        """Pictures of each size."""
        return [len(data) for data in self.train]

    @property
    def sizes(self) -> list[str]:
        """Those that are trained; a base LLM may have more."""
        return list(dict.fromkeys(data.size for data in self.train))

    def loss(self, part: BatchPart) -> dict[str, torch.Tensor]:
        """Cross-entropy of the visual tokens and image_end, in nats per token, and what is learnt beside them."""
        train, rows, draws = self.train[part.chosen], part.indices.to(self.device), part.draws(self.device)
        variants = draws.randint(train.prompt_ids.shape[1])
        dropped = draws.rand(1) < self.config.drop_prompt
        hidden = None
        if self.config.drop_visual:
            share = self.config.drop_visual * draws.rand(1)
            hidden = draws.rand(train.codes.shape[1]) < share
        logits, image = self._logits_of(self.net, train, rows, variants, dropped, hidden)
        loss = cross_entropy(logits, image)
        told = {"image_loss": loss}
        if self.teacher is not None:
            told["taught_loss"] = cross_entropy(
                logits, self.teacher.expects(part.chosen, rows, variants, dropped)
            )
            share = self.config.teacher_share
            loss = (1 - share) * loss + share * told["taught_loss"]
        if self.kept_text is not None and (part.step + 1) % self.config.text_every == 0:
            brings = part.evenly(self.config.text_share).to(self.device)
            told["text_divergence"] = self._text_divergence(train, rows, variants, brings, draws)
            loss = loss + self.config.text_every * self.config.text_weight * told["text_divergence"]
        return {"loss": loss, **(told if len(told) > 1 else {})}

    def _text_divergence(
        self, train: Captioned, rows: torch.Tensor, variants: torch.Tensor, brings: torch.Tensor, draws: Draws
    ) -> torch.Tensor:
        """How far the base's expectations have moved on the windows that some samples bring, alone or behind an image.

        It is a mean over all samples: with a share of s each window counts 1 / s.
        """
        behind, windows = draws.rand(1)[:, 0] < 0.5, self.kept_text[draws.randint(len(self.kept_text))].long()
        if not brings.any():
            return torch.zeros((), device=self.device)
        images = train.sequences(self.vocabulary, rows[brings], variants[brings])
        before = [
            image if lead else image[:0] for image, lead in zip(images, behind[brings].tolist(), strict=True)
        ]
        divergence = text_divergence(self.net, self.known, before, windows[brings])
        return divergence.sum() / (self.config.text_share * len(brings))

    def _logits_of(
        self, net: nn.Module, data: Captioned, *args: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return image_logits(net, self.vocabulary, data, *args, all_rows=self.config.head == "all")

    @torch.inference_mode()
    def evaluate(self, ema: nn.Module) -> dict[str, float]:
        """Loss on up to 1,024 held-out pictures of each size, with the prompt and without it.

        The gap between the two is what prompts say.
        """
        return {
            "heldout_loss": self._heldout_loss(ema, drop=False),
            "heldout_loss_unconditional": self._heldout_loss(ema, drop=True),
        }

    def _heldout_loss(self, ema: nn.Module, drop: bool) -> float:
        losses = []
        for heldout in self.heldout:
            for part in spread(heldout, 1024).to(self.device).split(128):
                dropped = torch.full((len(part), 1), drop, device=self.device)
                with self.config.loop.autocast(self.device):
                    told = self._logits_of(ema, heldout, part, torch.zeros_like(part), dropped)
                    losses.append(cross_entropy(*told))
        return float(torch.stack(losses).mean())

    @torch.inference_mode()
    def sample_sheet(self, ema: nn.Module, path: Path) -> None:
        """Held-out prompts of each size, drawn with guidance; the captions stand in a text file beside the picture."""
        drawn, captions = [], []
        for heldout in self.heldout:
            prompts = [
                heldout.prompt_ids[r, 0, : heldout.lengths[r, 0]].tolist() for r in spread(heldout, 16)
            ]
            with self.config.loop.autocast(self.device):
                ids = generate_two_pass(
                    ema,
                    self.vocabulary,
                    prompts,
                    heldout.codes.shape[1],
                    self.config.guidance_scale,
                    generator=torch.Generator().manual_seed(self.config.loop.seed),
                )
            drawn.append(ids - self.vocabulary.visual_offset)
            captions += [self.text_tokenizer.decode(each[1:-2]).strip() for each in prompts]
        self.show(drawn, path)
        path.with_suffix(".txt").write_text("\n".join(captions) + "\n", encoding="utf-8")

    def export(self, ema: nn.Module, run_dir: Path) -> None:
        """RUN/llm in float32, which transformers and vLLM load; with `lora` RUN/adapters too."""
        if self.config.lora is not None:
            first = self.vocabulary.text_vocab_size
            save_adapters(ema, self.config.lora, first, run_dir / ADAPTERS)
        folder = run_dir / "llm"
        folder.mkdir(exist_ok=True)
        weights = {k: v.float().contiguous() for k, v in joined(ema, merged_weights(ema)).items()}
        if ema.config.tie_word_embeddings:
            weights.pop("lm_head.weight", None)
        save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
        write_llm_config(
            ema.config.to_diff_dict() | {"model_type": ema.config.model_type}, self.vocabulary, folder
        )
        if self.base is not None:
            for name in ("tokenizer.json", "tokenizer_config.json", *BESIDE_TOKENIZER):
                if (self.base / name).is_file():
                    shutil.copyfile(self.base / name, folder / name)
            return
        self.text_tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(
            '{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "pad_token": "<pad>"}\n'
        )
