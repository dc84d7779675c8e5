"""What examples/deploy names exists: import paths, options, ports, variables. None of it is started."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from v2flow_engine.errors import RequestError
from v2flow_engine.serving.command import add_arguments
from v2flow_engine.serving.proxy import CALLBACK, VARIABLE
from v2flow_engine.serving.settings import Replicas

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "examples" / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def named(name: str) -> Any:
    """What an import path of the form module:name leads to."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def serve_config(name: str) -> dict[str, Any]:
    """A Serve config: a file, or within a RayService."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    if name == "kuberay.yaml":
        text = ray_service()["spec"]["serveConfigV2"]
    return yaml.safe_load(text)


def ray_service() -> dict[str, Any]:
    text = (DEPLOY / "kuberay.yaml").read_text(encoding="utf-8")
    (found,) = [each for each in yaml.safe_load_all(text) if each["kind"] == "RayService"]
    return found


@pytest.mark.parametrize("name", ["serve.yaml", "kuberay.yaml"])
def test_serve_configs_are_what_ray_takes_and_what_we_build_from(name: str) -> None:
    from ray.serve import Application
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(serve_config(name))
    (application,) = config.applications
    build = named(application.import_path)
    assert isinstance(build(application.args), Application)
    for wrong in ({"model_dirs": "x"}, {"limits": {"picture": 1}}, {"token_replicas": "many"}):
        with pytest.raises(RequestError):
            build(application.args | wrong)


def test_the_ray_service_fits_together() -> None:
    (application,) = serve_config("kuberay.yaml")["applications"]
    args, cluster = application["args"], ray_service()["spec"]["rayClusterConfig"]
    (workers,) = cluster["workerGroupSpecs"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    (worker,) = workers["template"]["spec"]["containers"]
    stages = [Replicas.parse(args[f"{stage}_replicas"]) for stage in ("token", "decoder")]
    gpus = int(worker["resources"]["limits"]["nvidia.com/gpu"])
    assert workers["minReplicas"] * gpus >= args["gpus"] * sum(each.least for each in stages)
    assert workers["maxReplicas"] * gpus >= args["gpus"] * sum(each.most for each in stages)
    assert float(worker["resources"]["limits"]["cpu"]) >= args["cpus"] + args["ingress_cpus"]
    for container in (head, worker):
        assert {"name": VARIABLE, "value": CALLBACK} in container["env"]
        assert serve_config("kuberay.yaml")["http_options"]["port"] in [
            port["containerPort"] for port in container["ports"]
        ]
    mounts = [mount["mountPath"] for mount in worker["volumeMounts"]]
    assert all(
        any(args[name].startswith(f"{each}/") for each in mounts) for name in ("image_dir", "data_dir")
    )
    probe = worker["readinessProbe"]
    assert probe["httpGet"] == {"path": "/ready", "port": 8000}
    assert probe["timeoutSeconds"] > named("v2flow_engine.serving.ray_backend:CHECK_SECONDS")
    pinned = re.search(r"^ray==(.+)$", (ROOT / "requirements" / "cpu.txt").read_text(), re.MULTILINE)
    assert cluster["rayVersion"] == pinned[1]
    assert ray_service()["spec"]["rayClusterDeletionDelaySeconds"] >= args["limits"]["request_seconds"]


def test_the_image_starts_what_exists_as_an_ordinary_user() -> None:
    instructions = re.findall(r"^([A-Z]+) (.+)$", DOCKERFILE, re.MULTILINE)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    for _, what in (each for each in instructions if each[0] == "COPY"):
        for source in what.split()[:-1]:
            assert (ROOT / source).exists() and any(fnmatch(source, each) for each in kept), source
    command = yaml.safe_load(next(what for kind, what in instructions if kind == "CMD"))
    assert command[:2] == ["v2flow", "serve"]
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    parser.parse_args(command[2:])
    assert [what for kind, what in instructions if kind == "USER"] == ["1000:1000"]
    environment = dict(
        pair.split("=", 1) for kind, what in instructions if kind == "ENV" for pair in shlex.split(what)
    )
    assert environment[VARIABLE] == CALLBACK
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_the_proxy_is_told_to_cut_off_slow_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    from uvicorn import Config, config

    monkeypatch.setitem(config.HTTP_PROTOCOLS, "auto", config.HTTP_PROTOCOLS["auto"])
    assert named(CALLBACK)() == []
    loaded = Config(lambda: None)
    loaded.load()
    assert loaded.http_protocol_class.__name__ == "HeadTimeoutProtocol"
