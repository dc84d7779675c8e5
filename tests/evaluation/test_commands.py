"""The commands as a user runs them, on a tiny model and tiny packages: the last line and the sheets."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny_model import build_tiny_model
from tests.training.emoji.conftest import tiny_packages  # noqa: F401 (a fixture)
from v2flow_engine import cli

SHARES = (
    "seen_top1",
    "seen_top5",
    "heldout_top1",
    "heldout_top5",
    "background_accuracy",
    "count_accuracy",
    "reader_count_accuracy_on_references",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder."""
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with one photograph."""
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    return folder


def document(output: str) -> dict:
    """The JSON document on the last line."""
    assert output.endswith("}\n")
    return json.loads(output.splitlines()[-1])


def test_generation(
    model: Path,
    tiny_packages: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "sheets"
    options = ["--prompts", "9", "--seed", "4", "--guidance", "2.5", "--rounds", "1", "--out", str(out)]
    command = [
        "eval",
        "generation",
        "--model",
        str(model),
        "--packages",
        str(tiny_packages),
        "--emoji",
        "all",
        *options,
    ]
    assert cli.main(command) == 0
    found = document(capsys.readouterr().out)
    assert all(0 <= found[name] <= 1 for name in SHARES)
    # All tiny emoji are the same disc: an untrained model and even a true picture must miss on a tie.
    assert found["seen_top1"] == found["heldout_top1"] == found["calibration"]["true"]["top1"] == 0
    assert found["calibration"]["true"]["background"] == 1
    assert (found["parts"]["split train"]["n"], found["parts"]["split heldout_combination"]["n"]) == (5, 4)
    setup = found["setup"]
    assert (setup["prompts"], setup["seed"]) == (9, 4)
    assert (setup["parameters"]["guidance_scale"], setup["parameters"]["rounds"]) == (2.5, 1)
    assert setup["images_per_second"] > 0
    assert {"cpu", "cores", "device", "torch"} <= set(setup["hardware"])
    assert sorted(path.name for path in out.iterdir()) == ["generation.html", "generation.png"]


def test_words(
    model: Path,
    tiny_packages: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, prompts = tmp_path / "sheets", tmp_path / "prompts.tsv"
    lines = ["a costard\tred apple\tsynonym", "une pomme\tred apple\tlanguage", "a droid\trobot\tsynonym"]
    prompts.write_text("\n".join(["prompt\tlabel\tkind", *lines]) + "\n")
    command = ["eval", "words", "--model", str(model), "--packages", str(tiny_packages), "--emoji", "all"]
    options = ["--prompts", str(prompts), "--samples", "2", "--seed", "4", "--rounds", "1", "--out", str(out)]
    assert cli.main([*command, *options]) == 0
    captured = capsys.readouterr().out
    found = document(captured)
    for part in ("top1", "top5", "top1_of_all", "top5_of_all"):
        assert 0 <= found[f"unseen_{part}"] <= 1
        assert 0 <= found[f"seen_{part}"] <= 1
    setup = found["setup"]
    assert found["chance_top1"] == 1 / setup["candidates"]
    assert found["chance_top5_of_all"] == 5 / setup["all_emoji"]
    numbers = {kind: part["n"] for kind, part in found["parts"].items()}
    drawn = numbers.pop("references")
    assert numbers == {"synonym": 4, "language": 2, "label": 4}
    assert drawn == 6  # two labels in three styles
    assert (setup["prompts"], setup["labels"], setup["samples"], setup["seed"]) == (3, 2, 2, 4)
    assert setup["parameters"]["rounds"] == 1
    assert sorted(path.name for path in out.iterdir()) == ["words.html", "words.png"]
    table = [line.split("  ")[0] for line in captured.splitlines()]
    assert {"unseen words", "seen words: the labels", "chance", "judge on references"} <= set(table)


@pytest.mark.parametrize(
    ("prompt", "label", "words"),
    [
        ("two teeth", "tooth", "'two', 'teeth'"),
        ("an android", "robot", "'android'"),  # of the wordings' table
        ("ein Wort", "robot", "'wort'"),  # of a label in another language
    ],
)
def test_words_that_captions_have_are_refused(
    model: Path,
    tiny_packages: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    prompt: str,
    label: str,
    words: str,
) -> None:
    prompts = tmp_path / "prompts.tsv"
    prompts.write_text(f"prompt\tlabel\tkind\n{prompt}\t{label}\tsynonym\n")
    command = ["eval", "words", "--model", str(model), "--packages", str(tiny_packages), "--emoji", "all"]
    assert cli.main([*command, "--prompts", str(prompts)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"prompts.tsv, line 2: captions have {words} of {prompt!r}; expected words" in last


def test_reconstruction(
    model: Path,
    tiny_packages: Path,  # noqa: F811
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "sheets"
    options = ["--images", "6", "--usage-images", "20", "--flow-steps", "2", "--out", str(out)]
    command = ["eval", "reconstruction", "--model", str(model), "--packages", str(tiny_packages), *options]
    assert cli.main([*command, "--photos", str(photos)]) == 0
    found = document(capsys.readouterr().out)
    for name in ("autoencoder", "tokenizer"):
        assert 0 < found[f"{name}_psnr"] < 60
        assert 0 < found[f"photo_{name}_psnr"] < 60
        assert -1 <= found[f"{name}_ssim"] <= 1
        assert -1 <= found[f"photo_{name}_ssim"] <= 1
    assert 0 < found["codebook_usage"] <= 1
    assert 1 <= found["codebook_perplexity"] <= 64
    assert found["codes_counted"] == 20 * 16
    assert set(found["parts"]) == {"heldout_combination", "heldout_emoji", "noise"}
    assert (found["setup"]["images"], found["setup"]["rounds"], found["setup"]["flow_steps"]) == (6, 2, 2)
    assert sorted(path.name for path in out.iterdir()) == ["reconstruction.html", "reconstruction.png"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["generation", "--model", "nobody"], "no model 'nobody'"),
        (["generation", "--prompts", "1"], "--prompts must be at least 2"),
        (["generation", "--packages", "nowhere"], "nowhere does not exist"),
        (["generation", "--guidance", "-1"], "guidance_scale must be a number from 0"),
        (["generation", "--size", "70x70"], "size '70x70'"),
        (["words", "--model", "nobody"], "no model 'nobody'"),
        (["words", "--samples", "0"], "--samples must be at least 1, got 0"),
        (["words", "--prompts", "nowhere.tsv"], "the prompts nowhere.tsv cannot be read"),
        (["words", "--packages", "nowhere"], "nowhere does not exist"),
        (["words", "--top-k", "-1"], "top_k must be a whole number from 0"),
        (["reconstruction", "--rounds", "0"], "rounds must be a whole number from 1"),
        (["reconstruction", "--model", "nobody"], "no model 'nobody'"),
        (["reconstruction", "--emoji", "nowhere.txt"], "expected all, common or a readable file"),
        (["reconstruction", "--images", "1"], "--images must be at least 2"),
        (["reconstruction", "--packages", "nowhere"], "nowhere does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    model: Path, options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = options if "--model" in options else [*options, "--model", str(model)]
    assert cli.main(["eval", *chosen]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert expected in captured.err.splitlines()[-1]
