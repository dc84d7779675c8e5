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
    """

    def __init__(
        self, groups: list[dict[str, Any]], learning_rate: float, beta2: float, net: nn.Module | None
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
            self.optimizers.append(
                torch.optim.Muon(
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
        return {type(optimizer).__name__: optimizer.state_dict() for optimizer in self.optimizers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`'s answer."""
        for optimizer in self.optimizers:
            optimizer.load_state_dict(state[type(optimizer).__name__])


def _as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """(out, ...) -> (out, rest), a view in either memory format; the order of the columns does not matter to Muon."""
    if weight.ndim == 4 and not weight.is_contiguous():
        weight = weight.permute(0, 2, 3, 1)
    return weight.flatten(1)
