"""Seconds of one image in each stage, images and a deadline -> how many devices for each, how long, how many hours.

The two stages run side by side: the slower one sets the pace, and the other waits. A single device, or a machine
without GPUs, does both in turn. Arithmetic only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from v2flow_engine.errors import RequestError

MOST_DEVICES = 1_000_000


@dataclass(frozen=True)
class Plan:
    """What a job takes.

    token_devices, decoder_devices: of each stage; both the same devices if `shared`. token_utilisation,
    decoder_utilisation: shares of their devices' time that they work. ratio: token actors to decoder actors at which
    neither waits. seconds: with the start-up; device_hours of each stage's devices for all of it.
    """

    images: int
    token_devices: int
    decoder_devices: int
    shared: bool
    images_per_second: float
    seconds: float
    token_utilisation: float
    decoder_utilisation: float
    ratio: float
    device_hours: float

    @property
    def devices(self) -> int:
        """In all."""
        return self.token_devices if self.shared else self.token_devices + self.decoder_devices


@dataclass(frozen=True)
class Costs:
    """token, decoder: seconds of a device for one image, when each stage has devices of its own. shared_token,
    shared_decoder: the same on a device that they share; None where they can't. startup: seconds until both work.
    whole_machine: devices are machines without GPUs, which always do both.
    """

    token: float
    decoder: float
    shared_token: float | None
    shared_decoder: float | None
    startup: float
    whole_machine: bool = False

    @property
    def shared(self) -> float | None:
        """Seconds of a device that does both, for one image."""
        if self.shared_token is None or self.shared_decoder is None:
            return None
        return self.shared_token + self.shared_decoder


def for_deadline(images: int, deadline: float, costs: Costs) -> Plan:
    """The fewest devices that finish in time. Raises `RequestError` for a deadline that none would meet."""
    working = deadline - costs.startup
    if working <= 0:
        raise RequestError(
            f"the deadline of {deadline:.0f} s is not longer than the start-up of {costs.startup:.0f} s; give it more "
            "time, or another --startup-seconds"
        )
    rate = images / working
    if costs.shared is not None and (costs.whole_machine or rate * costs.shared <= 1):
        return _shared(images, _devices(rate * costs.shared), costs)
    return _separate(images, _devices(rate * costs.token), _devices(rate * costs.decoder), costs)


def for_devices(images: int, devices: int, costs: Costs) -> Plan:
    """The fastest way to use so many devices. Raises `RequestError` if one can't do both stages and there is one."""
    if devices < 1:
        raise RequestError(f"the number of devices must be at least 1, got {devices}")
    if costs.shared is not None and (costs.whole_machine or devices == 1):
        return _shared(images, devices, costs)
    if devices == 1:
        raise RequestError("one device does not hold both the LLM and the decoder here; give two or more")
    ideal = devices * costs.token / (costs.token + costs.decoder)
    choices = {min(devices - 1, max(1, n)) for n in (math.floor(ideal), math.ceil(ideal))}
    plans = [_separate(images, n, devices - n, costs) for n in choices]
    return max(plans, key=lambda plan: plan.images_per_second)


def _devices(load: float) -> int:
    count = max(1, math.ceil(load - 1e-9))
    if count > MOST_DEVICES:
        raise RequestError(f"that would take {count:,} devices; give a later --deadline")
    return count


def _shared(images: int, devices: int, costs: Costs) -> Plan:
    assert costs.shared is not None and costs.shared_token is not None and costs.shared_decoder is not None
    seconds = costs.startup + images * costs.shared / devices
    return Plan(
        images=images,
        token_devices=devices,
        decoder_devices=devices,
        shared=True,
        images_per_second=devices / costs.shared,
        seconds=seconds,
        token_utilisation=costs.shared_token / costs.shared,
        decoder_utilisation=costs.shared_decoder / costs.shared,
        ratio=costs.shared_token / costs.shared_decoder,
        device_hours=devices * seconds / 3600,
    )


def _separate(images: int, token_devices: int, decoder_devices: int, costs: Costs) -> Plan:
    rate = min(token_devices / costs.token, decoder_devices / costs.decoder)
    seconds = costs.startup + images / rate
    return Plan(
        images=images,
        token_devices=token_devices,
        decoder_devices=decoder_devices,
        shared=False,
        images_per_second=rate,
        seconds=seconds,
        token_utilisation=rate * costs.token / token_devices,
        decoder_utilisation=rate * costs.decoder / decoder_devices,
        ratio=costs.token / costs.decoder,
        device_hours=(token_devices + decoder_devices) * seconds / 3600,
    )
