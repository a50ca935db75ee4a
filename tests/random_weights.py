"""Networks whose every weight is random, so that nothing is hidden by those that begin as zeros or ones."""

from __future__ import annotations

from typing import Any

import torch


def randomized(module: Any, deviation: float = 0.1) -> Any:
    """The module with every weight moved, in evaluation."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(deviation * torch.randn_like(parameter))
    return module.eval()


def redrawn(module: Any, deviation: float = 0.1) -> Any:
    """The module with every weight drawn anew around 0, in evaluation."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=deviation)
    return module.eval()
