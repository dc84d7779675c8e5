"""V2Flow: prompts -> visual tokens of an LLM -> pictures.

Public names are loaded when first used (PEP 562), so that `import v2flow_engine` costs nothing and starts
nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from v2flow_engine.checkpoint import open_model
    from v2flow_engine.generation.editing import EditedImage
    from v2flow_engine.generation.image_tokenizer import ImageCodes, ImageTokenizer, Reconstruction
    from v2flow_engine.generation.pipeline import GeneratedImage, Pipeline

__version__ = "0.1.0"
__all__ = [
    "EditedImage",
    "GeneratedImage",
    "ImageCodes",
    "ImageTokenizer",
    "Pipeline",
    "Reconstruction",
    "__version__",
    "open_model",
]

_HOMES = {
    "EditedImage": "v2flow_engine.generation.editing",
    "GeneratedImage": "v2flow_engine.generation.pipeline",
    "ImageCodes": "v2flow_engine.generation.image_tokenizer",
    "ImageTokenizer": "v2flow_engine.generation.image_tokenizer",
    "Pipeline": "v2flow_engine.generation.pipeline",
    "Reconstruction": "v2flow_engine.generation.image_tokenizer",
    "open_model": "v2flow_engine.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
