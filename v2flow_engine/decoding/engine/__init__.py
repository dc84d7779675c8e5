"""The decoder engine: continuous batching for the masked rectified-flow decoder. See docs/decoder.md."""
