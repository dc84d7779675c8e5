"""Shards into memory, and what is said of damaged ones; the order of batches."""

import tarfile
from pathlib import Path

import pytest
import torch

from tests.training.tiny_run import write_squares
from v2flow_engine.errors import DataError
from v2flow_engine.training.batches import epoch_indices
from v2flow_engine.training.loop import LoopConfig, learning_rate
from v2flow_engine.training.pictures import load_pictures


def test_pictures_and_records_belong_together(tmp_path: Path) -> None:
    [pictures] = load_pictures([write_squares(tmp_path / "data")], ["train"], workers=2, limit=10)
    assert len(pictures) == 10 and pictures.pixels.shape == (10, 64, 64, 3)
    batch = pictures.batch(torch.tensor([0, 2]), "cpu")
    assert batch.shape == (2, 3, 64, 64) and batch.min() >= -1 and batch.max() <= 1
    red, blue = batch[:, :, 32, 24]
    assert "red" in pictures.records[0]["caption"] and red[0] > 0.5 > red[2]
    assert "blue" in pictures.records[2]["caption"] and blue[2] > 0.5 > blue[0]


def test_folders_are_read_one_after_the_other_in_one_set_for_each_size(tmp_path: Path) -> None:
    first, second = write_squares(tmp_path / "a", train=4), write_squares(tmp_path / "b", train=6)
    wide = write_squares(tmp_path / "wide", train=3, width=96)
    square, rest = load_pictures([second, wide, first], ["train"], workers=2)
    assert (square.size, len(square), len(square.pixels)) == ("64x64", 10, 10)
    assert (rest.size, len(rest), rest.pixels.shape) == ("96x64", 3, (3, 64, 96, 3))
    assert square.records[5]["caption"] != square.records[6]["caption"] == square.records[0]["caption"]
    assert [len(p) for p in load_pictures([second, wide, first], ["train"], 1, limit=2)] == [4, 2]
    with pytest.raises(DataError, match=f"{first.parent / 'c'}: no shards"):
        load_pictures([first, first.parent / "c"], ["train"], workers=1)


def test_damaged_and_missing_shards_are_named(tmp_path: Path) -> None:
    folder = write_squares(tmp_path / "data")
    with pytest.raises(DataError, match="no shards named nothing"):
        load_pictures([folder], ["nothing"], workers=1)
    (folder / "train-000001.tar").write_bytes(b"not a tar")
    with pytest.raises(DataError, match=r"train-000001\.tar"):
        load_pictures([folder], ["train"], workers=1)
    with tarfile.open(folder / "train-000001.tar", "w"):
        pass
    with pytest.raises(DataError, match="0 pictures"):
        load_pictures([folder], ["train"], workers=1)


def test_an_epoch_sees_each_picture_once_and_epochs_differ() -> None:
    epochs = [[epoch_indices([12, 8], 4, epoch * 5 + i, 5) for i in range(5)] for epoch in range(2)]
    for epoch in epochs:
        for chosen, count in ((0, 12), (1, 8)):
            seen = torch.cat([indices for which, indices in epoch if which == chosen])
            assert seen.sort().values.tolist() == list(range(count))
    orders = [[(which, *indices.tolist()) for which, indices in epoch] for epoch in epochs]
    assert orders[0] != orders[1]
    assert epoch_indices([3], 8, 0, 0)[1].sort().values.tolist() == [0, 1, 2]


def test_learning_rate_warms_up_peaks_and_decays() -> None:
    loop = LoopConfig(steps=100, batch_size=1, learning_rate=1.0, warmup=10, final_share=0.1)
    rates = [learning_rate(loop, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[9:] == sorted(rates[9:], reverse=True) and 0.1 < rates[-1] < 0.11
