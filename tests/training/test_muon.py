"""Muon: orthogonal updates for matrices, AdamW's own arithmetic for the rest, exact resume; sharded: test_parallel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from kinolab.training.muon import Muon, is_hidden_matrix, orthogonalize
from kinolab.training.run import train
from kinolab.training.settings import TrainingConfig, make_optimizer
from tests.closeness import assert_close
from tests.training.tiny import odvae_recipe


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (32, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_directions_come_out_about_equally_long(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    matrices = u * torch.linspace(1, 0.05, s.shape[-1]) @ v  # from strong to weak directions, 20 to 1
    result = orthogonalize(matrices, dtype)
    values = torch.linalg.svdvals(result)
    assert result.dtype == torch.float32 and float(values.min()) > 0.6 and float(values.max()) < 1.25
    # the directions are kept: u^T x v is diagonal
    inner = u.mT @ result @ v.mT
    off = inner - torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1))
    assert float(off.abs().max()) < (1e-4 if dtype is torch.float32 else 0.06)
    assert not orthogonalize(torch.zeros(2, 4, 5)).any()


def test_each_matrix_of_a_stack_is_made_orthogonal_by_itself() -> None:
    a, b = torch.randn(2, 20, 30, generator=torch.Generator().manual_seed(0)).unbind()
    assert_close(orthogonalize(torch.stack([a, 100 * b]))[0], orthogonalize(a))
    assert_close(orthogonalize(100 * b), orthogonalize(b))


def test_the_first_step_has_the_size_of_adamws() -> None:
    """Root mean square 0.2 lr per entry (Liu et al. 2025, eq. 4), as far as the singular values are 1."""
    for shape in ((48, 64), (48, 16, 3, 3, 3)):
        p = nn.Parameter(torch.zeros(shape))
        p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        Muon([{"params": [p], "orthogonal": True}], lr=0.1).step()
        assert float(p.detach().square().mean().sqrt()) == pytest.approx(0.02, rel=0.2)
        assert float((p.detach() * p.grad).sum()) < 0


def test_what_is_no_hidden_matrix_moves_as_in_adamw() -> None:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(5, 8), nn.LayerNorm(8), nn.Linear(8, 3))

    ours, theirs = model(), model()
    config: dict[str, Any] = {"learning_rate": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.98), "precision": "float32"}
    optimizers = [
        make_optimizer(m, TrainingConfig(optimizer=o, **config)) for m, o in ((ours, "muon"), (theirs, "adamw"))
    ]
    assert isinstance(optimizers[0], Muon) and isinstance(optimizers[1], torch.optim.AdamW)
    for step in range(5):
        for m, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            m(torch.tensor([0, step % 5, 2])).square().sum().backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(a, b)


def test_hidden_matrices_are_the_weights_of_wide_linear_layers_and_convolutions() -> None:
    assert is_hidden_matrix(nn.Linear(16, 16), "weight") and is_hidden_matrix(nn.Conv3d(3, 24, 3), "weight")
    assert not is_hidden_matrix(nn.Linear(16, 16), "bias") and not is_hidden_matrix(nn.Conv2d(24, 3, 3), "weight")
    assert not is_hidden_matrix(nn.Embedding(64, 64), "weight")


@pytest.mark.slow
def test_a_narrow_valley_is_left_faster_than_with_adamw() -> None:
    """Features from strong to a hundred times weaker: what the optimiser is there for. Same steps and learning rate."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(32, 32, generator=generator) / 8
    x = torch.randn(4096, 32, generator=generator) * torch.logspace(0, -2, 32)
    x = x @ torch.linalg.qr(torch.randn(32, 32, generator=generator)).Q
    losses = {}
    for name in ("muon", "adamw"):
        layer = nn.Linear(32, 32, bias=False)
        nn.init.zeros_(layer.weight)
        optimizer = make_optimizer(layer, TrainingConfig(optimizer=name, learning_rate=0.02, precision="float32"))
        for step in range(300):
            batch = x[torch.randint(len(x), (64,), generator=torch.Generator().manual_seed(step))]
            for group in optimizer.param_groups:
                group["lr"] = 0.02 * (1 - step / 300)
            optimizer.zero_grad()
            (layer(batch) - batch @ target.T).square().mean().backward()
            optimizer.step()
        losses[name] = float((layer.weight - target).detach().square().mean())
    assert losses["muon"] < 0.8 * losses["adamw"]


@pytest.mark.wide
def test_a_run_stopped_and_resumed_gives_the_same_weights(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    recipe = odvae_recipe(optimizer="muon")
    recipe["autoencoder"] |= {"hidden_size": 16}
    path.write_text(yaml.safe_dump(recipe))
    train(path, tmp_path / "whole")
    train(path, tmp_path / "split", until=2)
    assert train(None, tmp_path / "split", resume=True).finished
    files = [load_file(next((tmp_path / run / "model").glob("*.safetensors"))) for run in ("whole", "split")]
    assert files[0].keys() == files[1].keys() and all(torch.equal(files[0][k], files[1][k]) for k in files[0])
