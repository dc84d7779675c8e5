"""More latent channels: nothing that was computed changes, and training keeps what it is told to keep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.tiny_model import tiny_autoencoder, tiny_tokenizer_config
from tests.training.test_training import command, root  # noqa: F401 (a fixture)
from v2flow_engine.cli import main
from v2flow_engine.errors import ModelFolderError
from v2flow_engine.models.vae import Autoencoder
from v2flow_engine.models.visual_tokenizer import VisualTokenizer
from v2flow_engine.training.growing import grow_autoencoder, grow_tokenizer, scale_channels

PIXELS = torch.linspace(-1, 1, 2 * 3 * 32 * 32).sin().reshape(2, 3, 32, 32)


def grown(channels: int) -> tuple[Autoencoder, Autoencoder]:
    torch.manual_seed(0)
    trained, net = tiny_autoencoder(4), tiny_autoencoder(channels)
    trained.register_to_config(scaling_factor=0.5)
    grow_autoencoder(net, trained, torch.Generator().manual_seed(1))
    return Autoencoder(trained).eval(), Autoencoder(net).eval()


@pytest.mark.parametrize("channels", [4, 8, 16])
@torch.inference_mode()
def test_a_grown_autoencoder_computes_the_same(channels: int) -> None:
    trained, net = grown(channels)
    before, after = trained.encode(PIXELS), net.encode(PIXELS)
    assert after.shape[1] == channels
    torch.testing.assert_close(after[:, :4], before, rtol=1e-5, atol=1e-5)
    assert after[:, 4:].numel() == 0 or after[:, 4:].std() > 0.1 * before.std()
    torch.testing.assert_close(net.decode(after), trained.decode(before), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_channels_are_scaled_and_the_pictures_stay() -> None:
    _, net = grown(8)
    before = net.encode(PIXELS)
    pictures = net.decode(before)
    factors = torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0, 0.5, 3.0, 0.1])
    scale_channels(net.net, factors)
    after = net.encode(PIXELS)
    torch.testing.assert_close(after, before * factors[:, None, None], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net.decode(after), pictures, rtol=1e-4, atol=1e-4)


def test_an_autoencoder_does_not_shrink() -> None:
    with pytest.raises(ModelFolderError, match="4 latent channels cannot be grown into this one of 2"):
        grow_autoencoder(tiny_autoencoder(2), tiny_autoencoder(4), torch.Generator())


@torch.inference_mode()
def test_a_grown_tokenizer_writes_the_same_codes() -> None:
    from dataclasses import replace

    torch.manual_seed(0)
    config = tiny_tokenizer_config(300)
    trained, tokenizer = VisualTokenizer(config), VisualTokenizer(replace(config, latent_channels=8))
    grow_tokenizer(tokenizer, trained, "tiny")
    latents = torch.randn(3, 8, 8, 8)
    for each in (trained, tokenizer):
        each.set_vocabulary(torch.randn(300, 64, generator=torch.Generator().manual_seed(2)))
    assert torch.equal(tokenizer.encode(latents), trained.encode(latents[:, :4]))
    other = VisualTokenizer(replace(config, latent_channels=8, width=16))
    with pytest.raises(ModelFolderError, match="tiny: weights do not fit"):
        grow_tokenizer(other, trained, "tiny")


def test_kept_channels_stay_and_the_decoder_learns(root: Path) -> None:  # noqa: F811
    model = root / "runs" / "llm" / "squares"
    grow = ["--init", str(model), "--set", "model.latent_channels=8"]
    assert main(command(root, "vae", "vae-8", *grow, "--set", "keep_channels=true")) == 0
    before = Autoencoder.from_folder(model / "vae")
    after = Autoencoder.from_folder(root / "runs" / "vae-8" / "vae")
    with torch.inference_mode():
        old, new = before.encode(PIXELS), after.encode(PIXELS)
        torch.testing.assert_close(new[:, :4], old, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(after.decode(new), before.decode(old), atol=1e-4)
    vae = ["--vae", str(root / "runs" / "vae-8" / "vae"), "--set", "freeze_codes=true"]
    assert main(command(root, "tokenizer", "tokenizer-8", *grow, *vae)) == 0
    config = json.loads((root / "runs" / "tokenizer-8" / "visual_tokenizer" / "config.json").read_text())
    assert config["latent_channels"] == 8


def test_keeping_needs_something_to_keep(root: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    assert main(command(root, "vae", "bad", "--set", "keep_channels=true")) == 2
    assert "--init" in capsys.readouterr().err
