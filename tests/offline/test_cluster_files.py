"""What the cluster files in examples/deploy name exists: Ray's own schema, commands, options, images, volumes."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from v2flow_engine.offline.command import add_arguments

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "examples" / "deploy"
LAUNCHED = ("ray-cluster.yaml", "ray-cluster-aws.yaml")


def ray_job() -> dict[str, Any]:
    """The RayJob among the documents of its file."""
    documents = yaml.safe_load_all((DEPLOY / "kuberay-rayjob.yaml").read_text(encoding="utf-8"))
    (job,) = [document for document in documents if document["kind"] == "RayJob"]
    return job


def pinned_ray() -> str:
    """The version of the tested set."""
    (version,) = re.findall(
        r"^ray==(.+)$", (ROOT / "requirements" / "cpu.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    return version


def generate_arguments(command: str) -> argparse.Namespace:
    """`v2flow generate ...` as its own parser takes it."""
    program, verb, *words = shlex.split(command)
    assert (Path(program).name, verb) == ("v2flow", "generate")
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_cluster_launcher_takes_the_file(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    prepared = prepare_config(config)
    validate_config(prepared)
    with pytest.raises(jsonschema.ValidationError, match="Additional properties"):
        validate_config(prepared | {"worker_start_commands": []})
    assert prepared["head_node_type"] in prepared["available_node_types"]
    installed = " ".join(config["setup_commands"])
    extras = re.findall(r"v2flow-source\[(\w+)\]", installed)
    assert extras == ["cuda"]
    assert "cuda" in (ROOT / "setup.py").read_text(encoding="utf-8")
    binaries = {word.rpartition("/")[0] for word in re.findall(r"~/\S+/(?:pip|ray|python)\b", str(config))}
    assert binaries == {"~/v2flow/bin"}
    (source,) = config["file_mounts"]
    assert f"$HOME/{Path(source).name}[" in installed
    assert f'"ray[default]=={pinned_ray()}"' in installed  # a node that comes later gets no newer one


def test_rented_machines_get_a_python_that_the_package_takes() -> None:
    """They bring none that anybody has chosen: Ray's own choice of an image is older than the package allows."""
    config = yaml.safe_load((DEPLOY / "ray-cluster-aws.yaml").read_text(encoding="utf-8"))
    for node_type in config["available_node_types"].values():
        assert re.fullmatch("ami-[0-9a-f]{17}", node_type["node_config"]["ImageId"])
    installed = " ".join(config["setup_commands"])
    wanted = re.search(r'python_requires="(.+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))
    (version,) = re.findall(r"uv venv .*--python (\S+) ~/v2flow(?!\S)", installed)
    assert wanted is not None
    assert Version(version) in SpecifierSet(wanted[1])
    assert not re.search(r"\bpython3\b", installed)  # the image's own


def test_the_command_in_the_comment_is_one() -> None:
    text = (DEPLOY / "ray-cluster.yaml").read_text(encoding="utf-8")
    (command,) = re.findall(r'"(v2flow/bin/v2flow generate .*)"', text)
    assert generate_arguments(command).ray_address == "auto"


def test_the_ray_job_fits_together() -> None:
    spec = ray_job()["spec"]
    args = generate_arguments(spec["entrypoint"])
    assert args.ray_address == "auto"
    cluster = spec["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    pods = [cluster["headGroupSpec"]["template"]["spec"], workers["template"]["spec"]]
    for pod in pods:
        (container,) = pod["containers"]
        assert container["image"] == "v2flow:cuda"
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) == volumes
        for path in (args.model, args.prompts, str(args.out)):
            assert path.startswith(mounts["data"] + "/")
    claims = {v["persistentVolumeClaim"]["claimName"] for pod in pods for v in pod["volumes"][:1]}
    documents = yaml.safe_load_all((DEPLOY / "kuberay-rayjob.yaml").read_text(encoding="utf-8"))
    assert claims == {d["metadata"]["name"] for d in documents if d["kind"] == "PersistentVolumeClaim"}
    assert cluster["rayVersion"] == pinned_ray()
    assert spec["backoffLimit"] == 1  # each try is a new cluster, and bad rows are a failure
