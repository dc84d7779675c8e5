"""Training of the three parts: autoencoder, visual tokenizer, LLM. Commands, data and the loop they share."""
