"""The driver's half of a long `v2flow generate`, without engines: rows -> plan -> pictures in shards, and memory.

    python -m tests.offline.long_job MODEL ROWS.jsonl OUT

A process of its own, since what earlier tests have freed would hide growth. Its last line is a JSON document:
`resident` has (pictures, bytes) on the way, `resumed` the bytes after a second check of the finished folder, `todo`
what that finds to do.
"""

from __future__ import annotations

import argparse
import json
import sys

import psutil

from tests.offline.pictures import finished
from v2flow_engine.offline.command import add_arguments
from v2flow_engine.offline.prepare import GenerateJob, check
from v2flow_engine.offline.sink import open_sink

EVERY = 500  # pictures between two measurements


def main(model: str, rows: str, out: str) -> int:
    """Run it and say what was measured."""
    job = checked(model, rows, out)
    resident = make(job)
    again = checked(model, rows, out)
    document = {"resident": resident, "resumed": resident_bytes(), "todo": again.survey.todo}
    print(json.dumps(document))
    return 0


def checked(model: str, rows: str, out: str) -> GenerateJob:
    """As the command does it."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    argv = ["--model", model, "--prompts", rows, "--out", out, "--format", "webdataset"]
    return check(parser.parse_args(argv))


def make(job: GenerateJob) -> list[tuple[int, int]]:
    """All pictures, each 2 kB that nobody drew; (pictures, resident bytes) as they come."""
    resident = []
    with open_sink(job.out, job.output, job.identity, pictures=job.survey.pictures) as sink:
        for picture in job.pictures(sink.finished, sink.fail):
            sink.write(picture, finished(picture.request.index, bytes(2000)))
            if sink.written % EVERY == 0:
                resident.append((sink.written, resident_bytes()))
    return resident


def resident_bytes() -> int:
    """Of this process, now."""
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
