"""On PYTHONPATH of a server under test: its vLLM engine breaks when a file of a given name appears.

Python runs this when it starts, in Ray's workers too. The file is removed when the engine will fail at its next step.
"""

import os
import sys
import threading
import time
from pathlib import Path

VARIABLE = "V2FLOW_TEST_BREAK_TOKENS"
POLL_SECONDS = 0.05


def watch(path: Path) -> None:
    """Until the process ends."""
    while True:
        time.sleep(POLL_SECONDS)
        module = sys.modules.get("v2flow_engine.generation.token_generator")
        if module is None or not path.exists():
            continue
        generator = module._running and module._running()
        if generator is None or generator._engine is None:
            continue
        generator._engine.model_executor.driver_worker.worker.model_runner.model.forward = fail
        path.unlink(missing_ok=True)


def fail(*_: object, **__: object) -> None:
    """In place of a forward pass."""
    raise ZeroDivisionError("made to fail")


if VARIABLE in os.environ:
    threading.Thread(target=watch, args=(Path(os.environ[VARIABLE]),), daemon=True).start()
