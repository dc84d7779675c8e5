"""Captions -> what an LLM's context holds once it has drawn them, for text that comes after.

The pictures are the LLM's own, of its smallest size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING

from v2flow_engine.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from v2flow_engine.evaluation.text_models import DrawingLlm

CAPTIONS = (
    "a red apple",
    "a cartoon frog on a blue background",
    "two yellow stars",
    "a slice of pizza",
    "a flat penguin on a yellow background",
    "a 3d rocket",
    "three green trees",
    "a cat",
)
DRAWN_TOGETHER = 8


def choose_captions(count: int) -> list[str]:
    """As many of CAPTIONS, which come again after the last: the same words, other pictures."""
    return list(islice(cycle(CAPTIONS), count))


def check_room(model: DrawingLlm, captions: Sequence[str], window: int) -> None:
    """Raise `RequestError` if a caption, its picture and a window of text are longer than the model's sequences."""
    text = max(len(model.tokenizer.encode(each, add_special_tokens=False).ids) for each in captions)
    image = model.vocabulary.num_visual_tokens(model.smallest_size)
    control = 4  # BOS, image_start, the size, image_end
    if (needed := text + image + control + window) > model.longest:
        raise RequestError(
            f"a window of {window} tokens behind an image of {image} and its caption makes {needed}; "
            f"{model.folder} takes at most {model.longest}"
        )


def draw_contexts(
    llm: PreTrainedModel, model: DrawingLlm, captions: Sequence[str], seed: int
) -> list[list[int]]:
    """`BOS caption image_start size | visual tokens | image_end` for each caption, drawn by the model's defaults."""
    import torch

    from v2flow_engine.generation.two_pass import generate_two_pass

    size, vocabulary, defaults = model.smallest_size, model.vocabulary, model.defaults
    prompts = [model.encoder.encode(each, size) for each in captions]
    generator = torch.Generator().manual_seed(seed)
    contexts = []
    for first in range(0, len(prompts), DRAWN_TOGETHER):
        part = prompts[first : first + DRAWN_TOGETHER]
        drawn = generate_two_pass(
            llm,
            vocabulary,
            part,
            vocabulary.num_visual_tokens(size),
            defaults.guidance_scale,
            guidance_schedule=defaults.guidance_schedule,
            temperature=defaults.temperature,
            generator=generator,
        )
        contexts += [[*p, *ids, vocabulary.image_end_id] for p, ids in zip(part, drawn.tolist(), strict=True)]
    return contexts
