"""prompt -> prompt_token_ids: `BOS + text + image_start + size token`.

Reads the tokenizer files of MODEL/llm once. Knows nothing of vLLM or of the visual tokens that follow.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from v2flow_engine.errors import ModelFolderError, RequestError
from v2flow_engine.vocabulary import VisualVocabulary


class PromptEncoder:
    """Turns prompts into the ids that the LLM continues with visual tokens.

    Args:
        llm_dir: MODEL/llm, holding tokenizer.json.
        vocabulary: the visual vocabulary of that LLM.
        max_model_len: the LLM's longest sequence; a prompt must leave room for the image.
    """

    def __init__(self, llm_dir: Path, vocabulary: VisualVocabulary, max_model_len: int) -> None:
        path = Path(llm_dir) / "tokenizer.json"
        if not path.is_file():
            raise ModelFolderError(f"{path}: no such file")
        self.tokenizer = Tokenizer.from_file(str(path))
        self.tokenizer.encode_special_tokens = True  # "<s>" or "<|image_start|>" in a prompt is text
        self.vocabulary = vocabulary
        self.max_model_len = max_model_len

    def max_text_tokens(self, size: str) -> int:
        """The most text ids that a prompt for an image of this size may have."""
        return self.max_model_len - self.vocabulary.num_visual_tokens(size) - 3

    def encode(self, prompt: str, size: str) -> list[int]:
        """prompt -> prompt_token_ids. Raises `RequestError` for an empty or over-long prompt or an unknown size."""
        if not isinstance(prompt, str):
            raise RequestError(f"a prompt must be text, got {type(prompt).__name__}")
        if not prompt.strip():
            raise RequestError("the prompt is empty")
        limit = self.max_text_tokens(size)
        text_ids = self.tokenizer.encode(prompt.strip(), add_special_tokens=False).ids
        if len(text_ids) > limit:
            raise RequestError(f"the prompt has {len(text_ids)} tokens; this model takes at most {limit}")
        vocabulary = self.vocabulary
        return [vocabulary.bos_id, *text_ids, vocabulary.image_start_id, vocabulary.size_token_ids[size]]
