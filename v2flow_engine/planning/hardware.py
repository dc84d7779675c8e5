"""What a GPU, or the machine that was calibrated, can do at best, and which share of that each stage reaches.

    named GPU: published peaks, assumed shares          calibrated: measured rates, measured shares

Every figure knows where it comes from. Knows nothing of models.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from v2flow_engine.config import from_dict, load_json
from v2flow_engine.errors import DataError, ModelFolderError, RequestError

CALIBRATION = "calibration.json"
ASSUMED = "assumed, not measured"


@dataclass(frozen=True)
class Hardware:
    """One device: a GPU, or a whole machine without one.

    matmul: operations per second of a large product. bandwidth: bytes per second. memory: bytes. number_bytes: of
    weights and activations. source: where the first three come from. whole_machine: both stages share it.
    """

    name: str
    matmul: float
    bandwidth: float
    memory: float
    number_bytes: int
    source: str
    whole_machine: bool = False

    def __post_init__(self) -> None:
        for name in ("matmul", "bandwidth", "memory", "number_bytes"):
            if not getattr(self, name) > 0:
                raise ModelFolderError(f"{name} of {self.name} must be positive, got {getattr(self, name)}")

    def seconds(self, flops: float, moved: float) -> float:
        """The least time for so many operations and bytes: the roofline."""
        return max(flops / self.matmul, moved / self.bandwidth)


# bfloat16 on tensor cores without sparsity; NVIDIA's data sheets give twice that, "with sparsity".
GPUS = {
    # NVIDIA H100 Tensor Core GPU data sheet, SXM: 1,979 TFLOPS with sparsity, 80 GB, 3.35 TB/s
    "h100": Hardware("h100", 989.5e12, 3.35e12, 80e9, 2, "NVIDIA's data sheet (H100 SXM 80 GB)"),
    # NVIDIA A100 Tensor Core GPU data sheet, 80 GB SXM: 312 TFLOPS, 624 with sparsity, 2,039 GB/s
    "a100": Hardware("a100", 312e12, 2.039e12, 80e9, 2, "NVIDIA's data sheet (A100 SXM 80 GB)"),
    # The A100 with slower links between GPUs, which nothing here uses.
    "a800": Hardware("a800", 312e12, 2.039e12, 80e9, 2, "NVIDIA's data sheet (A800 SXM 80 GB)"),
    # NVIDIA L40S data sheet: 362.05 TFLOPS, 733 with sparsity, 48 GB, 864 GB/s
    "l40s": Hardware("l40s", 362.05e12, 0.864e12, 48e9, 2, "NVIDIA's data sheet (L40S 48 GB)"),
}


@dataclass(frozen=True)
class Rates:
    """What a stage makes of its device.

    llm_bandwidth, llm_compute: shares of the roofline when reads rule the LLM's steps, and when products do.
    step_overhead: seconds of each engine step beside that. transformer, velocity, autoencoder: shares of the
    roofline of the decoder's parts. encode: seconds to encode a megapixel as a file. startup: seconds until all
    actors are at work.
    """

    llm_bandwidth: float
    llm_compute: float
    step_overhead: float
    transformer: float
    velocity: float
    autoencoder: float
    encode: float
    startup: float

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            least = "not below 0" if name in AT_LEAST_ZERO else "positive"
            if not (value > 0 or (name in AT_LEAST_ZERO and value == 0)):
                raise RequestError(f"{name.replace('_', ' ')} must be {least}, got {value}")


AT_LEAST_ZERO = ("step_overhead", "encode", "startup")
# Nobody has run this project on these GPUs. The shares are those that mature kernels of such shapes usually reach.
ASSUMED_RATES = Rates(
    llm_bandwidth=0.6,
    llm_compute=0.5,
    step_overhead=0.003,
    transformer=0.35,
    velocity=0.25,
    autoencoder=0.3,
    encode=0.03,
    startup=300.0,
)


@dataclass(frozen=True)
class Device:
    """A device, the rates of the stages on it, and where each rate comes from."""

    hardware: Hardware
    rates: Rates
    origins: dict[str, str]

    def changed(self, given: dict[str, float]) -> Device:
        """The same with the rates that a user gives."""
        return Device(
            self.hardware,
            dataclasses.replace(self.rates, **given),
            self.origins | dict.fromkeys(given, "given"),
        )


def find_device(name_or_path: str) -> Device:
    """A named GPU, or what `v2flow plan --calibrate` wrote: the file, or the folder it is in.

    Raises `RequestError` for a name that is neither, `DataError` for a file that is no calibration.
    """
    names = [field.name for field in dataclasses.fields(Rates)]
    if name_or_path in GPUS:
        return Device(GPUS[name_or_path], ASSUMED_RATES, dict.fromkeys(names, ASSUMED))
    path = Path(name_or_path)
    path = path / CALIBRATION if path.is_dir() else path
    if not path.is_file():
        raise RequestError(
            f"--gpu {name_or_path!r} is neither {', '.join(GPUS)} nor a calibration of --calibrate"
        )
    try:
        values = load_json(path)
        hardware = from_dict(Hardware, values.get("hardware", {}), f"{path}: hardware")
        rates = from_dict(Rates, values.get("rates", {}), f"{path}: rates")
    except (ModelFolderError, RequestError) as error:
        raise DataError(f"no calibration of `v2flow plan --calibrate`: {error}") from error
    return Device(hardware, rates, dict.fromkeys(names, f"measured on {hardware.name}"))


def to_json(hardware: Hardware, rates: Rates, measured: dict[str, Any]) -> dict[str, Any]:
    """The content of a calibration; `find_device` reads it back. measured: what it was computed from."""
    return {
        "hardware": dataclasses.asdict(hardware),
        "rates": dataclasses.asdict(rates),
        "measured": measured,
    }
