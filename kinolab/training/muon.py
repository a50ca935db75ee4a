"""Muon: momentum whose update is made orthogonal, for weight matrices; AdamW for everything else.

Jordan et al. 2024 ("Muon: an optimizer for hidden layers in neural networks"); the scale that lets it share AdamW's
learning rate and weight decay is of Liu et al. 2025 (arXiv:2502.16982, section 2.2). Directions of a matrix that few
examples speak for (the second hue of small objects, a box's rotation) learn about as fast as the strongest ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic a s + b s^3 + c s^5 that drives all singular values to about 1 in few steps."""
STEPS = 5
SMALLEST = 16
"""Matrices whose shorter side is below it (as the last layer's of an autoencoder, to three colours) stay with AdamW."""


def orthogonalize(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrices (..., m, n) with their singular values brought near 1 (about 0.7 to 1.2).

    Newton-Schulz iteration in `dtype`; bfloat16 is enough. Singular values below a hundredth or so of the norm are
    enlarged up to 485 times (3.4445^5) and stay below that range. A zero matrix stays zero.
    """
    a, b, c = COEFFICIENTS
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def is_hidden_matrix(module: nn.Module, name: str) -> bool:
    """Whether a module's own parameter `name` is a matrix that Muon is for: a linear or convolution weight."""
    if name != "weight" or not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return False
    return min(_matrix(module.weight)) >= SMALLEST


def _matrix(weight: Tensor) -> tuple[int, int]:
    """Rows and columns of a weight as a matrix: a kernel (out, in, ...) counts as (out, in * ...)."""
    return weight.shape[0], weight.numel() // weight.shape[0]


class Muon(torch.optim.Optimizer):
    """Muon for the groups with `orthogonal`, AdamW for the others; one learning rate and weight decay serve both.

    Args:
        params: groups; an `orthogonal` one holds matrices, or kernels (out, in, ...), which count as (out, in * ...).
        lr: AdamW's learning rate; Muon's update is scaled to the same size (0.2 per entry, root mean square).
        betas, eps: of AdamW.
        momentum: of Muon (Nesterov's).
        weight_decay: decoupled.
        dtype: what the iteration is computed in.

    Parameters sharded by FSDP2 take the same steps as whole ones: each matrix is gathered for its own update.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "momentum": momentum, "weight_decay": weight_decay,
            "orthogonal": False,
        }  # fmt: skip
        super().__init__(params, defaults)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [(p, p.grad) for p in group["params"] if p.grad is not None]
            (self._muon if group["orthogonal"] else self._adamw)(moved, group)
        return loss

    def _muon(self, moved: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
        shapes: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for p, gradient in moved:
            shapes.setdefault(_matrix(p), []).append((p, gradient))
        for shape, alike in shapes.items():
            updates = []
            for p, gradient in alike:
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                moving = state["momentum"].lerp_(gradient, 1 - group["momentum"])
                updates.append(torch.lerp(gradient, moving, group["momentum"]))
            scale = 0.2 * max(shape) ** 0.5
            for p, update in zip((p for p, _ in alike), self._orthogonal(updates, shape), strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * scale)

    def _orthogonal(self, updates: list[Tensor], shape: tuple[int, int]) -> Iterator[Tensor]:
        """Updates of one shape as matrices made orthogonal, each in its own shape again.

        Sharded ones need all of their rows: each is gathered by itself, so that a process holds one whole matrix at a
        time, and every process then keeps its own rows of the same result.
        """
        if not hasattr(updates[0], "full_tensor"):
            stacked = orthogonalize(torch.stack([u.reshape(shape) for u in updates]), self.dtype)
            yield from (matrix.view(u.shape) for u, matrix in zip(updates, stacked, strict=True))
            return
        from torch.distributed.tensor import DTensor, Replicate  # takes a second to import

        for u in updates:
            assert isinstance(u, DTensor)
            matrix = orthogonalize(u.full_tensor().reshape(shape), self.dtype).view(u.shape)
            everywhere = DTensor.from_local(matrix, u.device_mesh, [Replicate()] * u.device_mesh.ndim, run_check=False)
            yield everywhere.redistribute(placements=u.placements)

    def _adamw(self, moved: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        for p, gradient in moved:
            state = self.state[p]
            if not state:
                state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
            state["step"] += 1
            count = int(state["step"])
            mean = state["exp_avg"].lerp_(gradient, 1 - first)
            square = state["exp_avg_sq"].lerp_(gradient.square(), 1 - second)
            p.mul_(1 - group["lr"] * group["weight_decay"])
            deviation = (square / (1 - second**count)).sqrt_().add_(group["eps"])
            p.addcdiv_(mean, deviation, value=-group["lr"] / (1 - first**count))
