"""The options of the reference's training command, under its own names -> the configs of a converted model.

It has no config files: its command's options decide a model's shape, and so do some numbers in its code. Knows
nothing of weights, but for the sizes that it is given.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from v2flow_engine.config import GenerationDefaults, VisualTokenizerConfig, from_dict
from v2flow_engine.errors import DataError
from v2flow_engine.models.reference_sampling import ReferenceSampling
from v2flow_engine.training.settings import read_mapping

PRESETS = {  # name -> width, depth of encoder and of decoder, heads
    "v2flow_base": (768, 12, 12),
    "v2flow_large": (1024, 16, 16),
    "v2flow_huge": (1280, 20, 16),
}
# Options that change neither the shape of the model nor how it is sampled; accepted, so that a dump of all is a config.
_TRAINING_ONLY = """
    attn_dropout batch_size blr cached_path class_num data_path device diffusion_batch_mul dist_backend dist_on_itp
    dist_url distributed ema_rate epochs eval_bsz eval_freq evaluate gpu grad_checkpointing grad_clip label_drop_prob
    llm_codebook_path local_rank log_dir lr lr_schedule mask_ratio_min min_lr num_images num_sampling_steps num_workers
    online_eval output_dir pin_mem proj_dropout rank resume save_last_freq seed start_epoch temperature test_cache_dir
    use_cached vae_path warmup_epochs weight_decay world_size
"""
TRAINING_ONLY = frozenset(_TRAINING_ONLY.split())


@dataclass(frozen=True)
class ResamplerSize:
    """What a checkpoint itself says of its resampler and codebook; see `OfficialOptions.tokenizer_config`."""

    depth: int
    mlp_depth: int
    codebook_size: int


@dataclass(frozen=True, kw_only=True)
class OfficialOptions(ReferenceSampling):
    """Options of the reference's training command, with its defaults; see also `ReferenceSampling`.

    model: a preset, v2flow_base, v2flow_large or v2flow_huge. The `encoder_` and `decoder_` fields, in its model's
        constructor, replace the preset's numbers; encoder and decoder must agree.
    img_size, vae_stride: pixels of the (square) pictures, and of a latent along one side.
    buffer_size: visual tokens of a picture; None is what follows from the two above, which is all that works.
    scaling_factor: what the autoencoder's latents are multiplied by; no option there, but a number in its code.
    """

    model: str = "v2flow_large"
    img_size: int = 1024
    vae_stride: int = 32
    vae_embed_dim: int = 32
    patch_size: int = 1
    buffer_size: int | None = None
    flow_method: str = "CondOT"
    visual_vocabulary: bool = False
    visual_codebook_size: int = 16384
    downsampler_hidden_dim: int = 512
    downsampler_depth: int = 4
    downsampler_mlp_depth: int = 1
    projector_depth: int = 1
    flowloss_d: int = 8
    flowloss_w: int = 1536
    encoder_embed_dim: int | None = None
    encoder_depth: int | None = None
    encoder_num_heads: int | None = None
    decoder_embed_dim: int | None = None
    decoder_depth: int | None = None
    decoder_num_heads: int | None = None
    mlp_ratio: float = 4.0
    num_iter: int = 4
    cfg: float = 2.9
    scaling_factor: float = 0.41407

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in vars(self).items():
            if (
                isinstance(value, int)
                and not isinstance(value, bool)
                and value < 1
                and name != "downsampler_depth"
            ):
                raise DataError(f"{name} must be at least 1, got {value}")
        if self.preset not in PRESETS:
            raise DataError(f"model must be one of {', '.join(PRESETS)}, got {self.model!r}")
        if self.img_size % self.vae_stride:
            raise DataError(f"img_size {self.img_size} is not divisible by vae_stride {self.vae_stride}")
        if self.buffer_size not in (None, self.grid**2):
            raise DataError(
                f"buffer_size {self.buffer_size} must be the number of visual tokens, {self.grid**2} for pictures of "
                f"{self.img_size} pixels and a vae_stride of {self.vae_stride}"
            )
        if self.mlp_ratio != 4:
            raise DataError(f"mlp_ratio must be 4, got {self.mlp_ratio:g}")

    @property
    def preset(self) -> str:
        """The preset's full name; `base` stands for `v2flow_base`."""
        return self.model if self.model.startswith("v2flow_") else f"v2flow_{self.model}"

    @property
    def grid(self) -> int:
        """Latents along one side of a picture."""
        return self.img_size // self.vae_stride

    @property
    def size(self) -> str:
        """ "WxH" of the pictures, in pixels."""
        return f"{self.img_size}x{self.img_size}"

    def defaults(self) -> GenerationDefaults:
        """The decoder's parameters as the reference has them; those of an LLM, which it has not, are this project's."""
        return GenerationDefaults(
            rounds=self.num_iter, flow_steps=self.flow_steps, decoder_guidance=self.guidance_scale
        )

    def tokenizer_config(
        self, found: ResamplerSize, vocabulary: tuple[int, int] | None
    ) -> VisualTokenizerConfig:
        """The visual tokenizer's config.

        Args:
            found: sizes in the checkpoint. With a vocabulary they replace the options: the reference's code then
                ignores its options for the resampler's depths and the codebook.
            vocabulary: (rows, channels) of the LLM's embedding, None without one.

        Raises `DataError` or `ModelFolderError` for options that contradict each other.
        """
        width, depth, heads = PRESETS[self.preset]
        if vocabulary is None:
            found = ResamplerSize(
                self.downsampler_depth, self.downsampler_mlp_depth, self.visual_codebook_size
            )
        width = self._same("embed_dim", width)
        return VisualTokenizerConfig(
            latent_grid=(self.grid, self.grid),
            latent_channels=self.vae_embed_dim,
            width=width,
            encoder_depth=self.encoder_depth or depth,
            decoder_depth=self.decoder_depth or depth,
            num_heads=self._same("num_heads", heads),
            velocity_depth=self.flowloss_d,
            velocity_width=self.flowloss_w,
            resampler_hidden=self.downsampler_hidden_dim,
            resampler_depth=found.depth,
            resampler_mlp_depth=found.mlp_depth,
            codebook_size=found.codebook_size,
            code_dim=width if vocabulary is None else vocabulary[1],
            text_vocab_size=None if vocabulary is None else vocabulary[0],
            projector_depth=self.projector_depth,
            patch_size=self.patch_size,
            flow=self.flow(),
        )

    def _same(self, name: str, preset: int) -> int:
        encoder = getattr(self, f"encoder_{name}") or preset
        decoder = getattr(self, f"decoder_{name}") or preset
        if encoder != decoder:
            raise DataError(f"encoder_{name} and decoder_{name} must be equal, got {encoder} and {decoder}")
        return encoder


def read_options(path: Path | None, in_checkpoint: dict[str, Any]) -> OfficialOptions:
    """Options from a YAML or JSON file, over those that the checkpoint keeps of its own training, over the defaults.

    Raises `DataError` if there are neither, `ModelFolderError` for options in the file that are unknown or mistyped.
    """
    if path is None and not in_checkpoint:
        raise DataError("--config is needed: the checkpoint does not keep the options (args) of its training")
    known = {f.name for f in fields(OfficialOptions)}
    values = {name: value for name, value in in_checkpoint.items() if name in known}
    if path is not None:
        values |= {k: v for k, v in read_mapping(path).items() if k not in TRAINING_ONLY}
    return from_dict(OfficialOptions, values, "the checkpoint's args" if path is None else str(path))
