"""Exponential moving average of a module's parameters and buffers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class Ema:
    """ema <- d * ema + (1 - d) * weights, with d = min(decay, (1 + n) / (10 + n)) after n updates.

    The ramp keeps a short run from averaging in its random start. Averages are kept in float32, and with sharded
    parameters they are sharded alike.

    frozen: average what isn't trained too, of which there is nothing to average, as older checkpoints hold it.
    """

    def __init__(self, module: nn.Module, decay: float, *, frozen: bool = True) -> None:
        self.module = module
        self.decay = decay
        self.kept = set() if frozen else {name for name, p in module.named_parameters() if not p.requires_grad}
        self.shadow: dict[str, Tensor] = {k: v.detach().clone() for k, v in self._tracked()}

    def _tracked(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in self.module.state_dict().items():
            if value.is_floating_point() and name not in self.kept:
                yield name, value

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Move the averages towards the weights; `updates` counts the updates before this one."""
        d = min(self.decay, (1 + updates) / (10 + updates))
        tracked = list(self._tracked())
        for sharded in (False, True):  # torch's fused loops don't take both kinds at once
            pairs = [(self.shadow[n], v) for n, v in tracked if isinstance(v, DTensor) == sharded]
            if pairs:
                averages, values = zip(*pairs, strict=True)
                torch._foreach_lerp_(list(averages), list(values), 1.0 - d)

    def settle(self) -> None:
        """The module takes the averages, which go on from there."""
        self._copy(self.shadow)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within this context the module holds the averages; afterwards its own weights again."""
        saved = {k: v.detach().clone() for k, v in self._tracked()}
        self._copy(self.shadow)
        try:
            yield
        finally:
            self._copy(saved)

    @torch.no_grad()
    def _copy(self, values: dict[str, Tensor]) -> None:
        for name, target in self._tracked():
            target.copy_(values[name])
