"""More latent channels for a trained model, without changing what it computes (after Net2Net, arXiv 1511.05641).

Old channels come first and keep their meaning; new ones start as random views of the encoder's features that no decoder
looks at yet. AutoencoderDC adds shortcuts around its latents: the encoder's averages groups of features, the decoder's
repeats channels. Both depend on the number of channels, so here they are part of the convolutions' weights.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from diffusers import AutoencoderDC

from v2flow_engine.checkpoint import load_state
from v2flow_engine.errors import ModelFolderError
from v2flow_engine.models.visual_tokenizer import VisualTokenizer


def encoder_rows(net: AutoencoderDC) -> torch.Tensor:
    """What makes latents of features, shortcut included: (C, F, 3, 3)."""
    return net.encoder.conv_out.weight + _encoder_shortcut(net)


def decoder_columns(net: AutoencoderDC) -> torch.Tensor:
    """What makes features of latents, shortcut included: (F, C, 3, 3)."""
    return net.decoder.conv_in.weight + _decoder_shortcut(net)


@torch.no_grad()
def set_encoder_rows(net: AutoencoderDC, rows: torch.Tensor) -> None:
    """The inverse of `encoder_rows`."""
    net.encoder.conv_out.weight.copy_(rows - _encoder_shortcut(net))


@torch.no_grad()
def set_decoder_columns(net: AutoencoderDC, columns: torch.Tensor) -> None:
    """The inverse of `decoder_columns`."""
    net.decoder.conv_in.weight.copy_(columns - _decoder_shortcut(net))


@torch.no_grad()
def grow_autoencoder(net: AutoencoderDC, trained: AutoencoderDC, generator: torch.Generator) -> None:
    """Give `net` the weights of a trained autoencoder that has fewer latent channels.

    Raises `ModelFolderError` if they differ in anything else.
    """
    rows, columns = encoder_rows(trained), decoder_columns(trained)
    kept, channels = len(rows), net.config.latent_channels
    weights = trained.state_dict()
    own = {"encoder.conv_out.weight", "encoder.conv_out.bias", "decoder.conv_in.weight"}
    expected = {key: value.shape for key, value in net.state_dict().items() if key not in own}
    if kept > channels or expected != {key: v.shape for key, v in weights.items() if key not in own}:
        raise ModelFolderError(
            f"an autoencoder of {kept} latent channels cannot be grown into this one of {channels}: "
            "nothing but latent_channels may differ, and it may not shrink"
        )
    net.load_state_dict({key: value for key, value in weights.items() if key not in own}, strict=False)
    new = torch.randn(channels - kept, *rows.shape[1:], generator=generator)
    new = new * (rows.flatten(1).norm(dim=1).mean() / rows[0].numel() ** 0.5)
    set_encoder_rows(net, torch.cat([rows, new]))
    net.encoder.conv_out.bias.zero_()
    net.encoder.conv_out.bias[:kept] = trained.encoder.conv_out.bias
    set_decoder_columns(net, torch.cat([columns, torch.zeros_like(new).transpose(0, 1)], dim=1))
    net.register_to_config(scaling_factor=trained.config.scaling_factor)


@torch.no_grad()
def scale_channels(net: AutoencoderDC, factors: torch.Tensor) -> None:
    """Multiply each latent channel by a factor (C,), and divide it again where the decoder reads it."""
    factors = factors.to(net.encoder.conv_out.weight)
    set_encoder_rows(net, encoder_rows(net) * factors[:, None, None, None])
    net.encoder.conv_out.bias.mul_(factors)
    set_decoder_columns(net, decoder_columns(net) / factors[None, :, None, None])


def grow_tokenizer(tokenizer: VisualTokenizer, trained: VisualTokenizer, source: str) -> None:
    """Give `tokenizer` the weights of a trained one, with zeros for the latent channels that it has more.

    Codes stay what they were: the resampler does not see new channels. What the velocity net says of them has to be
    learnt. Raises `ModelFolderError` naming the source if anything else differs.
    """
    weights = trained.state_dict()
    channels = tokenizer.config.latent_channels
    grows = channels > trained.config.latent_channels
    if grows and replace(trained.config, latent_channels=channels) == tokenizer.config:
        weights = {key: _padded(weights[key], like) for key, like in tokenizer.state_dict().items()}
    load_state(tokenizer, weights, source)


def _padded(weight: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Zeros behind a weight's own entries, along each dimension that is longer in `like`."""
    padded = torch.zeros_like(like)
    padded[tuple(slice(n) for n in weight.shape)] = weight
    return padded


def _encoder_shortcut(net: AutoencoderDC) -> torch.Tensor:
    weight = net.encoder.conv_out.weight
    shortcut = torch.zeros_like(weight)
    if net.encoder.out_shortcut:
        group = net.encoder.out_shortcut_average_group_size
        for channel in range(len(weight)):
            shortcut[channel, channel * group : (channel + 1) * group, 1, 1] = 1 / group
    return shortcut


def _decoder_shortcut(net: AutoencoderDC) -> torch.Tensor:
    weight = net.decoder.conv_in.weight
    shortcut = torch.zeros_like(weight)
    if net.decoder.in_shortcut:
        repeats = net.decoder.in_shortcut_repeats
        for channel in range(weight.shape[1]):
            shortcut[channel * repeats : (channel + 1) * repeats, channel, 1, 1] = 1.0
    return shortcut
