"""What each of several processes computes for `test_mesh.py`: steps of a mesh beside those of one process."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kinolab import denoisers
from kinolab.config import Config
from kinolab.denoisers import Conditions, Denoiser
from kinolab.errors import InputError
from kinolab.runtime.ranks import Ranks, join_ranks
from kinolab.training.mesh import MeshConfig, data_ranks
from kinolab.training.parallel import full_state, whole, wrap
from tests.closeness import difference
from tests.tiny_unets import UNETS

SMALL: dict[str, Any] = {
    "hidden_size": 32, "depth": 2, "num_heads": 4, "input_size": 6, "num_frames": 3, "num_classes": 5,
}  # fmt: skip
CONFIGS: dict[str, Config] = {
    "latte": denoisers.LatteConfig(**SMALL, text_dim=8, gradient_checkpointing=True),
    "latte split": denoisers.LatteConfig(**SMALL, variant="split_heads", injection="all_tokens"),
    "latte reach": denoisers.LatteConfig(**SMALL, variant="joint_block", reach="first_previous"),
    "vdt adaln": denoisers.VdtConfig(**SMALL, given="adaln"),
    "vdt tokens": denoisers.VdtConfig(**SMALL, given="tokens", adaln="single"),
    "vdt joint": denoisers.VdtConfig(**SMALL | {"hidden_size": 64}, temporal_attention="joint", given="tokens"),
    "mmdit": denoisers.MmditConfig(**SMALL, text_dim=8, attention="2d+3d", dual_attention_layers=(0,)),
    "mmdit 3d": denoisers.MmditConfig(
        **SMALL, text_dim=8, attention="3d", spatial_position="rotary", temporal_position="rotary"
    ),
    "mmdit reach": denoisers.MmditConfig(
        **SMALL, text_dim=8, attention="2d", reach="first", temporal_position="none", gradient_checkpointing=True
    ),
    "mmdit alone": denoisers.MmditConfig(**SMALL, attention="2d+3d"),
    **{name: UNETS[name] for name in ("unet", "svd")},
}
"""Every place of a frame is a token of a patch of 2, of which there are 9: no multiple of the processes."""


def build(name: str, dtype: torch.dtype) -> Denoiser:
    """A denoiser whose every parameter is random, so that its blocks do something."""
    torch.manual_seed(0)
    model = denoisers.build(CONFIGS[name])  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype)


def clips(name: str, dtype: torch.dtype, rows: slice) -> tuple[Tensor, Tensor, Conditions, Tensor]:
    """Some of four noisy clips, their times, what is told of them and what is wanted."""
    generator = torch.Generator().manual_seed(1)
    config: Any = CONFIGS[name]
    side = 8 if name in UNETS else 6
    z, wanted, given = torch.randn(3, 4, 4, 3, side, side, generator=generator, dtype=torch.float64).to(dtype)
    told: dict[str, Any] = {"label": torch.tensor([1, 2, 3, 0])[rows]} if config.num_classes else {}
    if getattr(config, "text_dim", 0):
        states = torch.randn(4, 3, config.text_dim, generator=generator, dtype=torch.float64).to(dtype)
        there = torch.tensor([[True, True, True], [True, False, False], [True, True, False], [True, True, True]])
        told |= {"text": states[rows], "text_mask": there[rows]}
    if getattr(config, "given", "none") != "none":
        mask = torch.ones(4, 1, 3, side, side, dtype=dtype)
        mask[:, :, 0, :4] = 0
        told |= {"given": (given * (1 - mask))[rows], "mask": mask[rows]}
    times = torch.tensor([300.0, 800.0, 100.0, 500.0], dtype=dtype)[rows]
    return z[rows], times, Conditions(**told), wanted[rows]


def trained(
    model: nn.Module, wrapped: nn.Module, name: str, dtype: torch.dtype, rows: slice
) -> tuple[list[float], dict[str, Tensor]]:
    """Two steps: the losses over this process's clips, and the first step's gradients, whole."""
    optimizer, losses, gradients = torch.optim.SGD(wrapped.parameters(), 0.05, momentum=0.9), [], {}
    for step in range(2):
        z, times, told, wanted = clips(name, dtype, rows)
        optimizer.zero_grad()
        out = wrapped(z, times, told)[:, :4]
        loss = (out - wanted).square().mean()
        loss.backward()
        if step == 0:
            gradients = {n: whole(p.grad) for n, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, gradients


def compared(name: str, how: Mapping[str, int] | str, dtype: torch.dtype, ranks: Ranks) -> dict[str, float]:
    """How far losses, gradients and weights of a mesh are from those of one process, relative to their spread."""
    plain = build(name, dtype)
    shared = copy.deepcopy(plain)
    losses, gradients = trained(plain, plain, name, dtype, slice(None))
    mesh: Any = how if isinstance(how, str) else MeshConfig.model_validate(how)
    data = data_ranks(mesh, ranks)
    count = 4 // data.size
    wrapped = wrap(shared, ranks, mesh)
    mine, theirs = trained(shared, wrapped, name, dtype, slice(data.rank * count, (data.rank + 1) * count))
    told = torch.tensor(mine, dtype=torch.float64)
    torch.distributed.all_reduce(told)
    state = full_state(shared, ranks)
    if not ranks.first:
        return {}
    names = [n for n in gradients if not n.endswith("k_proj.bias")]
    return {
        "loss": max(abs(a / b - 1) for a, b in zip((told / ranks.size).tolist(), losses, strict=True)),
        "gradients": max(difference(theirs[n], gradients[n]) for n in names),
        "weights": max(difference(state[n], value) for n, value in plain.state_dict().items()),
        "tracked": float(set(theirs) == set(gradients)),
    }


def refused(ranks: Ranks) -> dict[str, str]:
    """What is said of meshes that can't be."""
    said = {}
    tries: dict[str, tuple[str, dict[str, int]]] = {
        "heads": ("latte split", {"context": 4, "shard": ranks.size // 4}), "processes": ("latte", {"shard": 3}),
        "kind": ("vdm", {"context": 2}),
    }  # fmt: skip
    for what, (name, how) in tries.items():
        try:
            if name == "vdm":
                model: nn.Module = nn.Linear(2, 2)
                wrap(model, ranks, MeshConfig(**how))
                continue
            model = build(name, torch.float32)
            z, times, told, _ = clips(name, torch.float32, slice(0, 1))
            wrap(model, ranks, MeshConfig(**how))(z, times, told)
        except InputError as error:
            said[what] = str(error)
    return said


def work(out: str, rank: int, size: int, cases: list[tuple[str, Any, str]]) -> None:
    """Join the others and compare all cases; the first process writes what it found."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    torch.set_num_threads(1)
    with join_ranks("cpu", 60) as ranks:
        found: dict[str, Any] = {}
        for name, how, dtype in cases:
            found[f"{name} {how} {dtype}"] = compared(name, how, getattr(torch, dtype), ranks)
        if size == 4:
            found["refused"] = refused(ranks)
        if ranks.first:
            Path(out).write_text(json.dumps(found))
