"""Does `v2flow generate` make every picture once, whatever is killed? Many kills at random moments, then a count.

    python benchmarks/stress_offline.py --model DIR --kills 2 --formats png webdataset parquet
    python benchmarks/stress_offline.py --kinds node --images 100

For each format and each kind of victim: a job is started, a victim killed by SIGKILL at a random moment, and so on
until `--kills` have died; a job that ends before it is finished is started again by the same command. Victims: the
driver, a token actor, a decoder actor, a node of a three-node cluster on this machine. Then the folder is checked, and
its pictures compared with those of a run that nobody disturbed. The last line is one JSON document; the status is 1 if
anything was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

if __name__ == "__main__":  # the checkout that this file is in
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import machine
from benchmarks.processes import started_by
from benchmarks.stress_checks import faults, picture_bytes
from benchmarks.token_work import example_prompts

KINDS = ("driver", "token actor", "decoder actor", "node")
ACTORS = {"token actor": "TokenActor", "decoder actor": "DecoderActor"}
MOST_STARTS = 12
PATIENCE = 300.0  # seconds until a job that makes no picture counts as hung
GONE_SECONDS = 180.0  # in which what a killed driver started must be gone; agents of Ray take 70 s to notice


@dataclasses.dataclass
class Outcome:
    """One disturbed job. different: pictures whose bytes are not the undisturbed run's."""

    format: str
    kind: str
    kills: int = 0
    starts: int = 0
    seconds: float = 0.0
    different: int = 0
    faults: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Job:
    """A command of `v2flow generate`, less --out and --format."""

    model: str
    prompts: Path
    images: int
    options: tuple[str, ...]

    def command(self, out: Path, container: str, address: str | None) -> list[str]:
        """As a user would type it."""
        command = [sys.executable, "-m", "v2flow_engine.cli", "generate", "--model", self.model]
        command += ["--prompts", str(self.prompts), "--out", str(out), "--format", container]
        command += ["--token-actors", "1", "--decoder-actors", "1", "--shard-size", "37", *self.options]
        return [*command, "--ray-address", address] if address else command


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", metavar="NAME|DIR", default="v2flow-emoji")
    options.add_argument("--images", type=int, default=300, help="of each job (default: %(default)s)")
    options.add_argument("--kills", type=int, default=2, help="in each job (default: %(default)s)")
    options.add_argument("--formats", nargs="+", default=["png", "webdataset", "parquet"], metavar="FORMAT")
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    options.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    options.add_argument(
        "--delay", type=float, default=40.0, help="a victim lives at most this long, in s (%(default)s)"
    )
    options.add_argument("--undisturbed", type=Path, metavar="OUT", help="of an earlier call; made if absent")
    options.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="more of v2flow generate")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 1 if a folder was not as it should be."""
    args = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # leave no cluster behind
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default workers yield to whatever else runs
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        job = Job(
            args.model, _write_prompts(folder / "rows.jsonl", args.images), args.images, tuple(args.options)
        )
        undisturbed = args.undisturbed or folder / "undisturbed"
        _say(f"undisturbed: {_undisturbed(job, undisturbed):.0f} s")
        wanted = picture_bytes(undisturbed)
        outcomes = []
        for number, (container, kind) in enumerate((f, k) for f in args.formats for k in args.kinds):
            outcome = Outcome(container, kind)
            outcomes.append(outcome)
            out = folder / f"{number}"
            with _three_nodes(folder) if kind == "node" else contextlib.nullcontext() as cluster:
                _disturbed(job, out, outcome, args.kills, args.delay, chance, cluster)
            outcome.faults += faults(out, set(wanted))
            outcome.different = sum(wanted.get(name) != digest for name, digest in picture_bytes(out).items())
            _say(_line(outcome))
    print(f"{'format':<12}{'killed':<15}{'kills':>6}{'starts':>8}{'seconds':>9}{'different':>11}  faults")
    print("\n".join(map(_line, outcomes)))
    pictures = args.images * len(outcomes)
    print(
        json.dumps(
            {
                "machine": machine("cpu"),
                "model": args.model,
                "images": args.images,
                "kills": sum(each.kills for each in outcomes),
                "different_share": sum(each.different for each in outcomes) / max(1, pictures),
                "jobs": [dataclasses.asdict(each) for each in outcomes],
            }
        )
    )
    return 1 if any(each.faults for each in outcomes) else 0


def _write_prompts(path: Path, images: int) -> Path:
    prompts = example_prompts()
    rows = ({"id": f"row-{i}", "prompt": prompts[i % len(prompts)]} for i in range(images))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _undisturbed(job: Job, out: Path) -> float:
    start = time.monotonic()
    if not (out / "index.html").exists():
        subprocess.run(job.command(out, "png", None), check=True, stderr=subprocess.DEVNULL)
    return time.monotonic() - start


def _disturbed(
    job: Job, out: Path, outcome: Outcome, kills: int, delay: float, chance: random.Random, cluster: object
) -> None:
    """Run a job until it is finished, and kill one victim after the other meanwhile."""
    start = time.monotonic()
    log = out.with_suffix(".log")
    while outcome.starts < MOST_STARTS:
        outcome.starts += 1
        command = job.command(out, outcome.format, getattr(cluster, "address", None))
        with log.open("a") as stderr, subprocess.Popen(command, stderr=stderr) as driver:
            try:
                while outcome.kills < kills:
                    if not _kill_one(driver, outcome.kind, chance.uniform(0, delay), cluster):
                        break
                    outcome.kills += 1
                    if outcome.kind == "driver":
                        break
                status = driver.wait(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                outcome.faults.append(f"hung: {_tail(log)}")
                driver.kill()
                status = driver.wait()
            finally:
                driver.kill()
        if status == 0:
            break
        if status > 0:
            outcome.faults.append(f"ended with {status}: {_tail(log)}")
    outcome.seconds = time.monotonic() - start


def _kill_one(driver: subprocess.Popen, kind: str, delay: float, cluster: object) -> bool:
    """Wait for a victim and then for so many seconds; False if the job is over before."""
    killed: Callable[[], bool] = {
        "driver": lambda: _kill_driver(driver),
        "node": lambda: _kill_node(cluster),
    }.get(kind, lambda: _kill_actor(ACTORS[kind]))
    if kind != "driver":
        if not _until(lambda: bool(started_by(os.getpid(), "MapWorker")), driver):
            return False
    elif not _until(lambda: bool(started_by(os.getpid(), "raylet")), driver):
        return False
    time.sleep(delay)
    return _until(killed, driver)


def _until(happened: Callable[[], bool], driver: subprocess.Popen) -> bool:
    while driver.poll() is None:
        if happened():
            return True
        time.sleep(0.1)
    return False


def _kill_driver(driver: subprocess.Popen) -> bool:
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        driver.wait()
        _, alive = psutil.wait_procs(family, timeout=GONE_SECONDS)
        if alive:
            raise RuntimeError(f"a killed driver left {alive} behind")
        return True
    return False


def _kill_actor(name: str) -> bool:
    for process in started_by(os.getpid(), name):
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
            return True
    return False


def _kill_node(cluster: object) -> bool:
    """One that runs an actor, if there is one beside the driver's; another comes in its place."""
    nodes = sorted(cluster.worker_nodes, key=lambda node: -_actors_on(node))
    cluster.remove_node(nodes[0], allow_graceful=False)
    cluster.add_node(num_cpus=os.cpu_count())
    return True


def _actors_on(node: object) -> int:
    raylet = next(info.process.pid for info in node.all_processes["raylet"])
    return len(started_by(raylet, "MapWorker"))


@contextlib.contextmanager
def _three_nodes(folder: Path) -> Iterator[object]:
    """A Ray cluster of three nodes on this machine. The driver's is the head, which is never killed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as session:
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "temp_dir": session, "include_dashboard": False},
        )
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=os.cpu_count())
            yield cluster
        finally:
            cluster.shutdown()


def _tail(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-3:])


def _line(o: Outcome) -> str:
    wrong = "; ".join(o.faults[:3]) + (f" and {len(o.faults) - 3} more" if len(o.faults) > 3 else "")
    return (
        f"{o.format:<12}{o.kind:<15}{o.kills:>6}{o.starts:>8}{o.seconds:>9.0f}{o.different:>11}  "
        f"{wrong or 'none'}"
    )


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
