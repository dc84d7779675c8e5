"""`v2flow generate --force-new` on a finished folder whose settings have changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.offline.folder import check_folder, manifest
from v2flow_engine.cli import main
from v2flow_engine.offline.manifest import iter_manifest
from v2flow_engine.offline.reading_back import read_picture
from v2flow_engine.offline.shards import read_shards


def pictures_of(out: Path) -> dict[int | str, bytes]:
    """Id -> image file, as the manifest says."""
    return {entry.id: read_picture(out, entry) for entry in iter_manifest(out)}


def files_of(out: Path) -> dict[str, bytes]:
    """Name -> content, of everything in the folder."""
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize("container", ["png", "webdataset"])
def test_pictures_with_a_changed_setting_are_refused_and_made_anew_when_asked(
    container: str, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["generate", "--model", str(model_dir), "--prompt", "a cat", "--prompt", "a dog", "--n", "2"]
    argv += ["--format", container, "--shard-size", "3", "--out", str(out)]
    assert main([*argv, "--flow-steps", "3"]) == 0
    files, before = files_of(out), pictures_of(out)

    changed = [*argv, "--flow-steps", "2"]
    capsys.readouterr()
    assert main(changed) == 2
    assert "picture 0 of another run (and 3 more): flow_steps was 3, now 2; " in capsys.readouterr().err
    assert files_of(out) == files

    assert main([*changed, "--force-new"]) == 0
    assert capsys.readouterr().err.startswith("4 images in this process")
    after = pictures_of(out)
    assert after.keys() == before.keys() == set(range(4))
    assert all(after[place] != before[place] for place in before)
    lines = manifest(out)
    assert [line["parameters"]["flow_steps"] for line in lines] == [2] * 4
    kept = {line["file"] for line in lines}
    if container == "png":
        check_folder(out, 4)
        assert {path.name for path in out.glob("*.png")} == kept
    else:
        assert {path.name for path in out.glob("shard-*")} == set(read_shards(out)) == kept
        assert [record.pictures for record in read_shards(out).values()] == [3, 1]

    assert main([*changed, "--force-new"]) == 0  # nothing has changed since
    assert capsys.readouterr().err == f"0 images, none missing; see {out}/index.html\n"
    assert pictures_of(out) == after
