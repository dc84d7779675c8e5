"""What the token benchmark writes, and what that costs: prompts, operations and bytes of an image's tokens.

The LLM is a model folder's own, or random weights in a known size, of which only the config is on the disk. Knows
neither vLLM nor transformers' generate.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from v2flow_engine.checkpoint import ModelFolder, open_model
from v2flow_engine.config import GenerationDefaults, ModelConfig, to_dict
from v2flow_engine.errors import RequestError
from v2flow_engine.llm_config import ARCHITECTURES
from v2flow_engine.planning.presets import LLMS
from v2flow_engine.vocabulary import VisualVocabulary

PROMPTS = Path(__file__).resolve().parents[1] / "examples" / "prompts.txt"
DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
CODEBOOK_SIZE, SIZE, GRID = 16384, "256x256", [16, 16]
SHAPES = {name: LLMS[name] | {"bos_token_id": 1} for name in ("llama-2-7b", "phi-3-mini")}


@dataclass(frozen=True)
class TokenWork:
    """One image's tokens, the same for every writer.

    model: what `open_model` takes, or a folder that `random_model` wrote.
    random: the weights are not on the disk; every writer makes its own.
    prompts: prompt_token_ids, taken in turn.
    """

    model: str
    random: bool
    prompts: tuple[tuple[int, ...], ...]
    num_visual_tokens: int
    guidance_scale: float
    temperature: float
    top_k: int
    dtype: str
    device: str

    def folder(self) -> ModelFolder:
        """The opened model."""
        return _random_folder(Path(self.model)) if self.random else open_model(self.model)

    def prompt(self, number: int) -> tuple[int, ...]:
        """prompt_token_ids of an image."""
        return self.prompts[number % len(self.prompts)]


def example_prompts() -> list[str]:
    """The lines of examples/prompts.txt that are prompts."""
    lines = (line.strip() for line in PROMPTS.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def prompts_of(folder: ModelFolder, size: str) -> tuple[tuple[int, ...], ...]:
    """The example prompts, encoded."""
    return tuple(tuple(folder.prompt_encoder.encode(prompt, size)) for prompt in example_prompts())


def random_model(shape: str, path: Path) -> ModelFolder:
    """Write the llm/config.json of a known size with visual tokens. Raises `RequestError` for an unknown one."""
    if shape not in SHAPES:
        raise RequestError(f"unknown shape {shape!r}; there are {', '.join(SHAPES)}")
    values = SHAPES[shape] | {"tie_word_embeddings": False}
    text = values["vocab_size"]
    vocabulary = VisualVocabulary(
        text_vocab_size=text,
        bos_id=values["bos_token_id"],
        image_start_id=text,
        image_end_id=text + 1,
        null_id=text + 2,
        visual_offset=text + 4,
        codebook_size=CODEBOOK_SIZE,
        grids={SIZE: GRID},
        size_token_ids={SIZE: text + 3},
    )
    values |= {
        "architectures": [ARCHITECTURES[values["model_type"]]],
        "vocab_size": vocabulary.visual_offset + CODEBOOK_SIZE,
        "eos_token_id": vocabulary.image_end_id,
        "pad_token_id": None,
        "v2flow": to_dict(vocabulary),
    }
    (path / "llm").mkdir(parents=True)
    (path / "llm" / "config.json").write_text(json.dumps(values))
    return _random_folder(path)


def random_prompts(folder: ModelFolder, length: int = 24, count: int = 16) -> tuple[tuple[int, ...], ...]:
    """Prompts of text ids that mean nothing, for weights that know nothing."""
    v = folder.vocabulary
    end = (v.image_start_id, v.size_token_ids[SIZE])
    text = range(100, 100 + length - 3)
    return tuple((v.bos_id, *((i + 31 * n) % v.text_vocab_size for i in text), *end) for n in range(count))


def _random_folder(path: Path) -> ModelFolder:
    llm_config = json.loads((path / "llm" / "config.json").read_text())
    vocabulary = VisualVocabulary.from_llm_config(llm_config)
    return ModelFolder(path, ModelConfig("random", SIZE, GenerationDefaults()), None, llm_config, vocabulary)


@dataclass(frozen=True)
class Cost:
    """What one image's tokens cost in one stream.

    flops: multiplications and additions of the layers, of attention, and of the head over the visual rows.
    weight_bytes: what every step reads, however many images it writes: layers and visual rows.
    cache_bytes: keys and values read by all steps of the image.
    """

    flops: float
    weight_bytes: float
    cache_bytes: float


def cost_of(folder: ModelFolder, prompt_length: int, num_visual_tokens: int, dtype: str) -> Cost:
    """The cost of an image whose prompt has so many tokens."""
    llm, size = folder.llm_config, DTYPE_BYTES[dtype]
    hidden, heads = llm["hidden_size"], llm["num_attention_heads"]
    width = llm.get("head_dim") or hidden // heads
    kv_width = width * (llm.get("num_key_value_heads") or heads)
    attention = hidden * (2 * heads * width + 2 * kv_width)  # q and o, k and v
    layer = attention + 3 * hidden * llm["intermediate_size"]
    head = hidden * folder.vocabulary.codebook_size
    steps = range(prompt_length, prompt_length + num_visual_tokens)  # tokens known at each step
    read = prompt_length + num_visual_tokens - 1  # tokens that pass through the layers
    scores = sum(range(1, read + 1)) * 4 * heads * width
    layers = llm["num_hidden_layers"]
    return Cost(
        flops=float(layers * (2 * layer * read + scores) + 2 * head * num_visual_tokens),
        weight_bytes=float((layers * layer + head) * size),
        cache_bytes=float(sum(steps) * layers * 2 * kv_width * size),
    )
