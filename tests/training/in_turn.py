"""Commands of `v2flow`, one after the other, in each process of one launch: a start takes longer than a tiny training.

    torchrun ... -m tests.training.in_turn '[[PORT, [WORD, ...]], ...]'

PORT is where the processes meet for a command; 0 is where the launcher says. It ends with the first one that fails.
"""

from __future__ import annotations

import json
import os
import sys

from v2flow_engine.cli import main


def run(commands: list[tuple[int, list[str]]]) -> int:
    """The status of the last one that ran."""
    status = 0
    for port, words in commands:
        if port:  # what the launcher's store keeps of an earlier meeting would mislead the next one
            os.environ |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False"}
        if status := main(words):
            break
    return status


if __name__ == "__main__":
    sys.exit(run(json.loads(sys.argv[1])))
