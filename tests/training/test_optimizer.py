"""MuonAdamW: which weights Muon takes, that convolutions in either memory format move alike, and exact resume."""

import copy

import torch
from torch import nn

from v2flow_engine.training.optimizer import MuonAdamW, matrix_parameters


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(100, 64)
        self.conv = nn.Conv2d(64, 64, 3, padding=1)
        self.depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.hidden = nn.Linear(64, 64)
        self.narrow = nn.Linear(64, 8)
        self.head = nn.Linear(64, 100, bias=False)
        self.head.weight = self.rows.weight

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        features = self.depthwise(self.conv(maps)).mean((2, 3))
        features = self.hidden(features)
        return self.narrow(features).square().mean() + self.head(features).square().mean()


def groups(net: nn.Module) -> list[dict]:
    return [{"params": list(net.parameters()), "weight_decay": 0.01}]


def steps(net: nn.Module, optimizer: MuonAdamW, first: int, last: int) -> None:
    for step in range(first, last):
        maps = torch.randn(2, 64, 5, 5, generator=torch.Generator().manual_seed(step))
        net(maps).backward()
        optimizer.step(0.01)


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def test_muon_takes_the_inner_matrices_alone() -> None:
    n = net()
    assert {id(p) for p in matrix_parameters(n)} == {id(n.conv.weight), id(n.hidden.weight)}
    n.conv.weight.requires_grad_(False)
    assert [id(p) for p in matrix_parameters(n)] == [id(n.hidden.weight)]


def test_muon_s_updates_have_adamw_s_size() -> None:
    n = net()
    before = n.hidden.weight.detach().clone()
    steps(n, MuonAdamW([{"params": list(n.parameters()), "weight_decay": 0.0}], 0.01, 0.99, n), 0, 1)
    update = (n.hidden.weight.detach() - before) / 0.01
    # 0.2 sqrt(64) times singular values that five Newton-Schulz steps bring to 0.7 .. 1.2 where they are not tiny.
    assert 0.65 * 1.6 < torch.linalg.svdvals(update).max() < 1.25 * 1.6


def test_every_weight_moves_and_gradients_are_dropped() -> None:
    n = net()
    before = {name: p.detach().clone() for name, p in n.named_parameters()}
    steps(n, MuonAdamW(groups(n), 0.01, 0.99, n), 0, 2)
    for name, parameter in n.named_parameters():
        assert not torch.equal(parameter, before[name]), name
        assert parameter.grad is None, name


def test_memory_format_does_not_change_the_result() -> None:
    plain, last = net(), net().to(memory_format=torch.channels_last)
    assert not last.conv.weight.is_contiguous()
    for n in (plain, last):
        steps(n, MuonAdamW(groups(n), 0.01, 0.99, n), 0, 3)
    # Newton-Schulz runs in bfloat16, which processors round differently; a wrong order of columns would differ by
    # whole updates, 0.01, nearly everywhere.
    difference = (plain.conv.weight - last.conv.weight).abs()
    assert difference.mean() < 5e-4 and difference.max() < 6e-3


def test_state_goes_through_a_checkpoint() -> None:
    whole = net()
    optimizer = MuonAdamW(groups(whole), 0.01, 0.99, whole)
    steps(whole, optimizer, 0, 2)
    resumed = copy.deepcopy(whole)
    again = MuonAdamW(groups(resumed), 0.01, 0.99, resumed)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(whole, optimizer, 2, 4)
    steps(resumed, again, 2, 4)
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_without_a_net_all_is_adamw() -> None:
    n = net()
    assert list(MuonAdamW(groups(n), 0.01, 0.99, None).state_dict()) == ["AdamW"]


def test_muon_in_float32_moves_as_torch_s_does_and_goes_on_from_its_state() -> None:
    """Gradients of full rank: of directions that hardly count, rounding in bfloat16 makes others."""
    nets, generator = (net(), net()), torch.Generator().manual_seed(0)
    both = [MuonAdamW(groups(n), 0.01, 0.99, n, bf16) for n, bf16 in zip(nets, (True, False), strict=True)]
    pairs = list(zip(*map(matrix_parameters, nets), strict=True))
    before = [own.detach().clone() for own, _ in pairs]
    for _ in range(3):
        for pair in pairs:
            gradient = torch.randn(pair[0].shape, generator=generator)
            for weight in pair:
                weight.grad = gradient.clone()
        for optimizer in both:
            optimizer.step(0.01)
    for (own, other), start in zip(pairs, before, strict=True):
        theirs, ours = ((each.detach() - start).flatten() for each in (own, other))
        assert not torch.equal(theirs, ours)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.03 * float(theirs.abs().max()))
    again = MuonAdamW(groups(nets[1]), 0.01, 0.99, nets[1], False)
    again.load_state_dict(copy.deepcopy(both[0].state_dict()))
    steps(nets[1], again, 3, 4)
