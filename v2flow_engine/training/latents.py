"""pictures -> latents -> codes, once: what the tokenizer's and the LLM's training start from.

Both are kept on disk beside the autoencoder, so that the second training of a set need not encode it again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from v2flow_engine.errors import DataError
from v2flow_engine.files import told_as_output_error
from v2flow_engine.models.vae import Autoencoder
from v2flow_engine.models.visual_tokenizer import VisualTokenizer
from v2flow_engine.training.pictures import Pictures
from v2flow_engine.training.ranks import Ranks


@dataclass(frozen=True)
class Latents:
    """values: (n, C, h, w) bfloat16, scaled, on the training device."""

    values: torch.Tensor

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, indices: torch.Tensor, device: torch.device | str) -> torch.Tensor:
        """indices (B,) -> latents (B, C, h, w) float32."""
        return self.values[indices.to(self.values.device)].to(device).float()


@torch.inference_mode()
def encode_latents(
    pictures: Pictures, autoencoder: Autoencoder, device: torch.device, bf16: bool, batch_size: int = 64
) -> Latents:
    """Encode all pictures, in float32 or, where that is faster, bfloat16."""
    parts = []
    for indices in torch.arange(len(pictures)).split(batch_size):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            parts.append(autoencoder.encode(pictures.batch(indices, device)).to(torch.bfloat16))
    return Latents(torch.cat(parts))


def cached_latents(pictures: Pictures, vae_dir: Path, ranks: Ranks, bf16: bool) -> Latents:
    """The pictures' latents by the autoencoder in `vae_dir`: read from its cache, which is filled first if need be.

    The first process encodes and writes, the others wait for it. Raises `OutputError` if the cache cannot be written,
    `DataError` in a process that does not find what the first one wrote.
    """
    key = _fingerprint(pictures, vae_dir) + ("" if bf16 else "-float32")
    path = vae_dir.parent / "latents" / f"{key}.safetensors"

    def encode() -> torch.Tensor:
        autoencoder = Autoencoder.from_folder(vae_dir, ranks.device)
        return encode_latents(pictures, autoencoder, ranks.device, bf16).values

    return Latents(_cached(path, "latents", encode, ranks))


def cached_codes(latents: Latents, tokenizer: VisualTokenizer, vae_dir: Path, ranks: Ranks) -> torch.Tensor:
    """The latents' codes (n, S) int64 on the CPU, from a cache beside that of the latents; raises as for them."""
    digest = hashlib.sha256(_bytes(latents.values))
    for name, value in sorted(tokenizer.state_dict().items()):
        digest.update(name.encode() + _bytes(value))
    if tokenizer.vocabulary is not None:
        digest.update(_bytes(tokenizer.vocabulary))
    path = vae_dir.parent / "latents" / f"{digest.hexdigest()[:16]}-codes.safetensors"
    return _cached(path, "codes", lambda: encode_codes(latents, tokenizer, ranks.device), ranks).cpu()


def _cached(path: Path, name: str, make: Callable[[], torch.Tensor], ranks: Ranks) -> torch.Tensor:
    if ranks.is_first and not path.is_file():
        made = make().contiguous()
        with told_as_output_error(path.parent):
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_suffix(".tmp")
            save_file({name: made}, str(temporary))
            os.replace(temporary, path)
    ranks.wait()
    if not path.is_file():
        raise DataError(
            f"{path}: not there, though the first process wrote it; all processes must see the same folder"
        )
    with safe_open(str(path), framework="pt", device=str(ranks.device)) as cache:
        return cache.get_tensor(name)


def _bytes(values: torch.Tensor) -> bytes:
    return values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _fingerprint(pictures: Pictures, vae_dir: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(vae_dir.iterdir()):
        digest.update(path.read_bytes())
    digest.update(str(tuple(pictures.pixels.shape)).encode())
    for row in torch.linspace(0, len(pictures) - 1, min(64, len(pictures))).long():
        digest.update(pictures.pixels[row].cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.inference_mode()
def encode_codes(
    latents: Latents, tokenizer: VisualTokenizer, device: torch.device, batch_size: int = 256
) -> torch.Tensor:
    """Latents -> codes (n, S) int64 on the CPU."""
    rows = torch.arange(len(latents)).split(batch_size)
    return torch.cat([tokenizer.encode(latents.batch(part, device)).cpu() for part in rows])
