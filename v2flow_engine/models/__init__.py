"""The networks, in plain torch: autoencoder, resampler, quantizer, masked transformer, velocity net."""
