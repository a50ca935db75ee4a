"""The gradient of what an estimate gets wrong, by the noisy latents that it was made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kinolab.contracts.method import Denoise, Denoised


def followed(inner: Denoise, z: Tensor, t: float, error: Callable[[Tensor], Tensor]) -> tuple[Denoised, Tensor]:
    """The inner estimate, and the gradient of `error` (clean latents -> a scalar) of it by z, in the type of z.

    Where a method outside follows a gradient too, through this one, z requires it, and the estimate keeps its graph.
    """
    outer = z.requires_grad and torch.is_grad_enabled()
    with torch.enable_grad():
        leaf = z if outer else z.detach().requires_grad_()
        found = inner(leaf, t)
        (gradient,) = torch.autograd.grad(error(found.sample), leaf, retain_graph=outer)
    if not outer:
        parts = (found.sample, found.variance, found.noise)
        found = Denoised(found.sample.detach(), *(None if part is None else part.detach() for part in parts[1:]))
    return found, gradient.to(z.dtype)
