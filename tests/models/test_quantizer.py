"""Codes by cosine, the straight-through gradient, and a codebook that follows its data and revives what is dead."""

import torch
import torch.nn.functional as F

from v2flow_engine.models.quantizer import Assignments, CodebookTrainer, CosineQuantizer


def assigned(
    quantizer: CosineQuantizer, vectors: torch.Tensor, generator: torch.Generator, parts: int = 1
) -> Assignments:
    assignments, first = Assignments(quantizer, len(vectors), generator), 0
    for part in vectors.tensor_split(parts):
        assignments.add(part, quantizer.assign(part), first)
        first += len(part)
    return assignments


def test_assignment_is_by_direction_and_gradient_passes_straight_through() -> None:
    quantizer = CosineQuantizer(3, 2)
    quantizer.codebook.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    vectors = torch.tensor([[[9.0, 1.0], [0.1, 0.5], [-3.0, 0.1]]], requires_grad=True)
    quantized = quantizer(vectors)
    assert quantized.codes.tolist() == [[0, 1, 2]]
    torch.testing.assert_close(quantized.vectors, quantizer.lookup(quantized.codes))
    quantized.vectors[..., 1].sum().backward()
    assert vectors.grad.abs().sum() > 0


def test_codes_drift_to_the_clusters_of_their_data_and_all_come_alive() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(8, 16, generator=generator), dim=-1)
    quantizer = CosineQuantizer(16, 16)
    quantizer.codebook.copy_(centres[:1].expand(16, -1))  # all on one spot: 15 of 16 dead
    trainer = CodebookTrainer(quantizer, decay=0.9)
    for _ in range(60):
        picks = torch.randint(8, (256,), generator=generator)
        vectors = centres[picks] + 0.05 * torch.randn(256, 16, generator=generator)
        trainer.update(quantizer, assigned(quantizer, vectors, generator))
    vectors = centres.repeat(32, 1) + 0.05 * torch.randn(256, 16, generator=generator)
    similarity = (centres @ quantizer.codebook.t()).max(dim=1).values
    assert similarity.min() > 0.95
    assert quantizer.assign(vectors).unique().numel() >= 8
    torch.testing.assert_close(quantizer.codebook.norm(dim=-1), torch.ones(16))


def test_without_revival_a_dead_code_stays_where_it_is() -> None:
    quantizer = CosineQuantizer(2, 2)
    quantizer.codebook.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    trainer = CodebookTrainer(quantizer)
    generator = torch.Generator().manual_seed(0)
    first = assigned(quantizer, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), generator)
    trainer.initialise(quantizer, first, generator)
    before = quantizer.codebook.clone()
    unused = 1 - int(quantizer.assign(torch.tensor([1.0, 0.0])))
    for _ in range(20):
        vectors = torch.tensor([[1.0, 0.0]]).expand(8, -1)
        trainer.update(quantizer, assigned(quantizer, vectors, generator), revive=False)
    torch.testing.assert_close(quantizer.codebook[unused], before[unused])


def test_parts_of_a_batch_say_together_what_the_batch_says() -> None:
    quantizer = CosineQuantizer(16, 8)
    for num_vectors in (50, 7):
        vectors = torch.randn(num_vectors, 8, generator=torch.Generator().manual_seed(1))
        whole, parted = (
            assigned(quantizer, vectors, torch.Generator().manual_seed(2), parts) for parts in (1, 3)
        )
        for ours, theirs in zip(parted.tensors(), whole.tensors(), strict=True):
            torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(whole.picked.norm(dim=-1), torch.ones(16))
