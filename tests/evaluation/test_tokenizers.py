"""`v2flow eval tokenizers` on tiny models, and the plain VQ baseline that it compares with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.tiny_model import tiny_tokenizer_config
from tests.training.test_training import command, root  # noqa: F401 (a fixture)
from v2flow_engine.cli import main
from v2flow_engine.config import FlowConfig
from v2flow_engine.decoding.sampler import sample_latents
from v2flow_engine.models.visual_tokenizer import VisualTokenizer


@torch.inference_mode()
def test_a_regression_has_neither_noise_nor_rounds() -> None:
    torch.manual_seed(0)
    config = replace(tiny_tokenizer_config(300), flow=FlowConfig(method="regression"))
    tokenizer = VisualTokenizer(config).eval()
    codes = torch.randint(0, 64, (2, 16))
    orders = torch.stack([torch.randperm(16) for _ in range(2)])
    first, second = (
        sample_latents(tokenizer, codes, orders, torch.randn(2, 16, 16), rounds=rounds, flow_steps=2)
        for rounds in (1, 4)
    )
    assert torch.equal(first, second) and first.std() > 0.01


def test_two_tokenizers_side_by_side(
    root: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = ["--set", "model.text_vocab_size=null", "--set", "model.flow.method=regression"]
    assert main(command(root, "tokenizer", "vq", *plain)) == 0
    other = ["--tokenizer", str(root / "runs" / "vq" / "visual_tokenizer"), "--name", "vq"]
    assert main(command(root, "llm", "vq-llm", *other)) == 0
    capsys.readouterr()
    models = [f"ours={root / 'runs' / 'llm' / 'squares'}", str(root / "runs" / "vq-llm" / "vq")]
    sheet = tmp_path / "sheet.png"
    options = ["--data", str(root / "data"), "--images", "6", "--out", str(sheet)]
    assert main(["eval", "tokenizers", *models, *options]) == 0
    output = capsys.readouterr().out
    found = json.loads(output.splitlines()[-1])["tokenizers"]
    assert found.keys() == {"ours", "vq"}
    for each in found.values():
        assert each["fid"] is None and each["llm_loss"] > 0 and 0 < each["codebook_usage"] <= 1
        assert each["autoencoder_psnr"] == found["ours"]["autoencoder_psnr"]
    assert Image.open(sheet).height > 2 * 64


def test_names_must_differ(root: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    model = str(root / "runs" / "llm" / "squares")
    assert main(["eval", "tokenizers", model, model, "--data", str(root / "data")]) == 2
    assert "names must differ" in capsys.readouterr().err
