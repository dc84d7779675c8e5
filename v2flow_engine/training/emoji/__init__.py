"""Openly licensed emoji -> captioned pictures for training and evaluation, as WebDataset shards."""
