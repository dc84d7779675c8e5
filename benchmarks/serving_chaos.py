"""Callers who leave, and a replica that is killed: who else was not answered, and what stays behind in the server.

Knows the server from outside: its answers, its counters, its processes.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from typing import Any

from benchmarks.serving_load import Load, closed_loop, told
from benchmarks.serving_process import ServerProcess

LEAVING = 0.1
PATIENCE = 2.0
QUIET_SECONDS = 60.0
IDLE_SECONDS = 3.0
SETTLED_AFTER = 0.2  # of the requests: from then on memory should not grow


async def chaos(server: ServerProcess, load: Load, requests: int, clients: int = 32) -> dict[str, Any]:
    """A tenth of the callers leave, and in the middle a decoder replica is killed, if there is one: what came of it."""
    load = Load(load.prompts, load.partials, LEAVING, PATIENCE, seed=load.seed)
    killed = None
    memory: list[int] = []

    async def watch() -> None:
        nonlocal killed
        while True:
            finished = await asyncio.to_thread(finished_pictures, server)
            if killed is None and finished > requests / 2 and (pids := server.replicas("Decoder")):
                killed = random.Random(0).choice(pids)
                os.kill(killed, signal.SIGKILL)
            if finished > SETTLED_AFTER * requests:
                memory.append(await asyncio.to_thread(server.memory))
            await asyncio.sleep(1.0)

    watcher = asyncio.create_task(watch())
    outcomes, seconds = await closed_loop(server.url, load, clients, requests)
    watcher.cancel()
    left = sum(each.status == 0 for each in outcomes)
    lost = [each for each in outcomes if not each.answered and each.status != 0]
    behind = await asyncio.to_thread(left_behind, server)
    steps = await asyncio.to_thread(steps_for_nobody, server)
    return told(outcomes, seconds) | {
        "requests": requests,
        "left": left,
        "lost": len(lost),
        "errors": [f"{each.status} {each.error}" for each in lost[:5]],
        "replica_killed": killed is not None,
        "left_behind": behind,
        "steps_for_nobody": steps,
        "memory_bytes": {"first": memory[0], "last": memory[-1], "most": max(memory)} if memory else None,
    }


def finished_pictures(server: ServerProcess) -> float:
    """Requests that the ingress has answered so far, as far as it says."""
    try:
        return max(server.metric("v2flow_requests_total").values(), default=0.0)
    except OSError:
        return 0.0


def left_behind(server: ServerProcess) -> float | None:
    """Pictures in either stage that nobody waits for, once there was time to notice; None if the stages do not say."""
    end = time.monotonic() + QUIET_SECONDS
    while True:
        counts = server.metric("v2flow_stage_in_flight").values()
        found = sum(counts) if counts else None
        if found == 0 or time.monotonic() > end:
            return found
        time.sleep(0.5)


def steps_for_nobody(server: ServerProcess) -> float:
    """Steps of the engines while no request is under way: what the server has forgotten, an engine would go on with."""
    before = server.metric("v2flow_stage_steps_total")
    time.sleep(IDLE_SECONDS)
    after = server.metric("v2flow_stage_steps_total")
    return sum(after.values()) - sum(before.values())
