"""The cached, padded two-pass loop against the plainest one: whole passes, no cache, one prompt at a time."""

from pathlib import Path

import pytest
import torch

from tests.tiny_llm import build_tiny_llm
from tests.two_pass import TwoPass
from v2flow_engine.errors import RequestError
from v2flow_engine.generation.two_pass import generate_two_pass


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> TwoPass:
    folder: Path = tmp_path_factory.mktemp("llm")
    return TwoPass(folder, build_tiny_llm(folder))


PROMPTS = [[0, 7, 9], [0, 5], [0, 12, 13, 14, 15, 16]]


@pytest.mark.parametrize(("scale", "schedule"), [(1.0, "constant"), (3.0, "constant"), (6.0, "linear")])
def test_greedy_tokens_equal_the_plainest_loop(plain: TwoPass, scale: float, schedule: str) -> None:
    control = [plain.vocabulary.image_start_id, plain.vocabulary.size_token_ids["64x64"]]
    prompts = [[*prompt, *control] for prompt in PROMPTS]
    together = generate_two_pass(
        plain.model, plain.vocabulary, prompts, 16, scale, guidance_schedule=schedule, temperature=0
    )
    for prompt, row in zip(prompts, together.tolist(), strict=True):
        assert row == plain.greedy(prompt, 16, scale, guidance_schedule=schedule)


def test_forced_tokens_are_gone_on_from(plain: TwoPass) -> None:
    """Each prompt with its own, one of them without any."""
    first = plain.vocabulary.visual_offset
    forced = [[first + 3, None, first + 9] + [None] * 5, None, [None] * 7 + [first + 63]]
    together = generate_two_pass(
        plain.model, plain.vocabulary, PROMPTS, 8, 3.0, temperature=0, forced_visual_token_ids=forced
    )
    assert (together[0, 0], together[0, 2], together[2, 7]) == (first + 3, first + 9, first + 63)
    for prompt, own, row in zip(PROMPTS, forced, together.tolist(), strict=True):
        assert row == plain.greedy(prompt, 8, 3.0, own)


def test_forced_tokens_of_another_length_are_refused(plain: TwoPass) -> None:
    with pytest.raises(RequestError, match=r"expected 8 forced tokens.* of 1 prompts, got \[9\]"):
        generate_two_pass(
            plain.model, plain.vocabulary, PROMPTS[:1], 8, 1.0, forced_visual_token_ids=[[None] * 9]
        )


def test_sampling_stays_in_the_visual_rows_and_follows_its_generator(plain: TwoPass) -> None:
    def sample(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return generate_two_pass(plain.model, plain.vocabulary, PROMPTS, 16, 2.0, generator=generator)

    first, offset = sample(1), plain.vocabulary.visual_offset
    assert first.shape == (3, 16)
    assert offset <= first.min() and first.max() < offset + plain.vocabulary.codebook_size
    assert torch.equal(first, sample(1)) and not torch.equal(first, sample(2))
