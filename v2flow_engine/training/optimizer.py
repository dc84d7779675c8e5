"""The optimizer of all trainings: Muon for the matrices inside a network, AdamW for everything else.

Muon (torch.optim.Muon) orthogonalises a matrix's momentum; its updates are scaled to AdamW's usual size, so that both
share one learning rate. Convolutions count as matrices (out, in * kh * kw). Knows nothing of what is trained.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

SMALLEST_SIDE = 48  # narrower matrices are inputs and outputs of a network, where AdamW does better


def matrix_parameters(net: nn.Module) -> list[nn.Parameter]:
    """Weights of `net` that Muon takes: trained linear and convolution weights, embeddings' tied heads left out."""
    embeddings = {id(m.weight) for m in net.modules() if isinstance(m, nn.Embedding)}
    found: dict[int, nn.Parameter] = {}
    for module in net.modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        weight = module.weight
        grouped = isinstance(module, nn.Conv2d) and module.groups != 1
        narrow = min(len(weight), weight.numel() // len(weight)) < SMALLEST_SIDE
        if weight.requires_grad and id(weight) not in embeddings and not grouped and not narrow:
            found[id(weight)] = weight
    return list(found.values())


class MuonAdamW:
    """Both optimizers behind one interface.

    Args:
        groups: parameter groups as for `torch.optim.AdamW`; every trained parameter is in one of them.
        net: whose matrices Muon takes out of the groups; None leaves all of them to AdamW.
        bf16: orthogonalise in bfloat16, as torch does, not in float32.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        learning_rate: float,
        beta2: float,
        net: nn.Module | None,
        bf16: bool = False,
    ) -> None:
        self.matrices = matrix_parameters(net) if net is not None else []
        taken = {id(p) for p in self.matrices}
        decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
        rest = [group | {"params": [p for p in group["params"] if id(p) not in taken]} for group in groups]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [g for g in rest if g["params"]], lr=learning_rate, betas=(0.9, beta2), fused=True
            )
        ]
        self.views = [nn.Parameter(_as_matrix(p.detach())) for p in self.matrices]
        if self.views:
            by_decay: dict[float, list[nn.Parameter]] = {}
            for parameter, view in zip(self.matrices, self.views, strict=True):
                by_decay.setdefault(decay[id(parameter)], []).append(view)
            muon = torch.optim.Muon if bf16 else Float32Muon
            self.optimizers.append(
                muon(
                    [{"params": views, "weight_decay": value} for value, views in by_decay.items()],
                    lr=learning_rate,
                    adjust_lr_fn="match_rms_adamw",
                )
            )

    def step(self, learning_rate: float) -> None:
        """Apply the gradients, and drop them."""
        for parameter, view in zip(self.matrices, self.views, strict=True):
            view.grad = None if parameter.grad is None else _as_matrix(parameter.grad)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for parameter in self.matrices:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {_name(optimizer): optimizer.state_dict() for optimizer in self.optimizers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`'s answer."""
        for optimizer in self.optimizers:
            optimizer.load_state_dict(state[_name(optimizer)])


class Float32Muon(torch.optim.Muon):
    """torch's Muon in float32: in bfloat16 products are a hundred times slower on a CPU without units for it."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """As torch's, with the same state."""
        for group in self.param_groups:
            momentum, rate = group["momentum"], group["lr"]
            for weight in (each for each in group["params"] if each.grad is not None):
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                buffer = state["momentum_buffer"]
                buffer.lerp_(weight.grad, 1 - momentum)
                update = _orthogonal(weight.grad.lerp(buffer, momentum), group)
                weight.mul_(1 - rate * group["weight_decay"])
                weight.add_(update, alpha=-rate * 0.2 * max(weight.shape) ** 0.5)  # match_rms_adamw


def _orthogonal(matrix: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
    """Its singular values brought to about 1, by Newton-Schulz."""
    a, b, c = group["ns_coefficients"]
    tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if tall else matrix
    found = found / found.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if tall else found


def _name(optimizer: torch.optim.Optimizer) -> str:
    """In a checkpoint, which either Muon may have written."""
    return "Muon" if isinstance(optimizer, torch.optim.Muon) else type(optimizer).__name__


def _as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """(out, ...) -> (out, rest), a view in either memory format; the order of the columns does not matter to Muon."""
    if weight.ndim == 4 and not weight.is_contiguous():
        weight = weight.permute(0, 2, 3, 1)
    return weight.flatten(1)
