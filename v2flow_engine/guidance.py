"""Position in an image -> the scale of classifier-free guidance of the LLM there: constant or growing.

The one rule that the vLLM plugin and the two-pass loop share. Knows neither of them.
"""

from __future__ import annotations

from dataclasses import dataclass

SCHEDULES = ("constant", "linear")
NO_NEGATIVE_PROMPT = (
    "negative prompts are not supported: the unconditional stream reads the prompt with every text token replaced "
    "by the null token"
)


@dataclass(frozen=True)
class Guidance:
    """How strongly each visual token of an image follows its prompt.

    scale: 1 follows it as the plain LLM does, 0 ignores it.
    schedule: "constant", or "linear", which grows with the share of the image that is known, the token that is
        being written included, from 1 to `scale` at the last one; the decoder's "linear" does the same over its
        rounds (the reference's CondOT).
    num_visual_tokens: S of the whole image, at least 1; only "linear" looks at it.
    start: position in the image, from 0, of the first token that is written.
    """

    scale: float
    schedule: str = "constant"
    num_visual_tokens: int = 1
    start: int = 0

    def at(self, written: int) -> float:
        """The scale for the token that follows `written` others."""
        share = self.share(written)
        return self.scale if share == 1.0 else 1.0 + (self.scale - 1.0) * share

    def share(self, written: int) -> float:
        """How much of the scale's distance from 1 is applied there, in [0, 1]."""
        if self.schedule == "constant":
            return 1.0
        return min(self.start + written + 1, self.num_visual_tokens) / self.num_visual_tokens


UNGUIDED = Guidance(1.0)
