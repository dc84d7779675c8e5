"""OpenAI's `quality` -> how many rounds and flow steps the decoder spends on a picture."""

from __future__ import annotations

from v2flow_engine.checkpoint import TokenizerFolder
from v2flow_engine.config import MAX_FLOW_STEPS
from v2flow_engine.generation.parameters import num_positions

# Times the model's own rounds and steps.
FACTORS = {"low": 0.5, "medium": 1.0, "high": 2.0, "xhigh": 3.0, "max": 4.0}
ALIASES = {"auto": "medium", "standard": "medium", "hd": "high"}


def plain_quality(quality: str | None) -> str:
    """The quality that is meant, one of `FACTORS`."""
    return ALIASES.get(quality or "auto", quality or "medium")


def quality_settings(folder: TokenizerFolder, quality: str | None, size: str) -> dict[str, int]:
    """rounds and flow_steps for pictures of a size, within what the model can do."""
    factor = FACTORS[plain_quality(quality)]
    most = num_positions(folder, folder.grid_of(size))
    return {
        "rounds": min(most, max(1, round(folder.defaults.rounds * factor))),
        "flow_steps": min(MAX_FLOW_STEPS, max(1, round(folder.defaults.flow_steps * factor))),
    }
