"""Checkpoints of the reference training code (github.com/zhangguiwei610/V2Flow) -> visual tokenizers of ours."""
