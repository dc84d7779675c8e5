"""Pretrained models of others, brought onto the disk and verified."""
