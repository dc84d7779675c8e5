"""codes -> latents -> pixels: the masked autoregressive rectified-flow decoder."""
