"""What a network beside a denoiser adds behind its blocks, in every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.contracts.options import ForwardOptions
from kinolab.denoisers import Denoiser
from kinolab.errors import InputError
from tests.closeness import NETWORK, assert_close, assert_same
from tests.denoisers.test_reach import CONFIGS, build, told
from tests.tiny_unets import UNETS


def run(model: Denoiser, name: str, residuals: dict[int, Tensor]) -> Tensor:
    z = torch.randn(2, 4, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(z, torch.tensor([300.0, 800.0]), told(name), ForwardOptions(residuals=residuals))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in UNETS])
def test_the_next_block_reads_the_sum(name: str) -> None:
    model, seen = build(name), list[Tensor]()
    blocks: Any = getattr(model, model.block_lists[0])
    blocks[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    plain = run(model, name, {})
    residual = torch.randn(seen[0].shape, generator=torch.Generator().manual_seed(3))
    added = run(model, name, {0: residual})
    # Frame embeddings of Latte's first block in time are added in between.
    assert_close(seen[1] - seen[0], residual, NETWORK)
    assert not torch.equal(plain, added)
    assert_same(run(model, name, {0: torch.zeros(()), 1: torch.zeros(())}), plain)
    with pytest.raises(InputError, match=r"numbers of blocks from 0 to 1, got 2"):
        run(model, name, {2: residual})
