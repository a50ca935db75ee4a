"""VDT-S/2 against the same computation written plainly, as public code writes it.

The plain forward reads the same weights and does what the paper's equations say line by line: the tokens are copied
into a new order for every attention, each attention makes its whole matrix of weights, and modulation, gates and
residuals are operations of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import OURS, Entrant, Result, closer, compared, faster, forward_of, race
from kinolab.denoisers import Conditions, Vdt, VdtConfig
from kinolab.runtime.compiling import compile_for_inference
from kinolab.runtime.precision import resolve

PLAIN = "plain PyTorch, float32"
FLOAT32, AUTO, COMPILED = OURS
"""The entrants."""


@dataclass(frozen=True)
class Case:
    """A size to compare at; the defaults are VDT-S/2 on the latents of a clip of 16 frames at 256 px."""

    width: int = 384
    heads: int = 6
    depth: int = 12
    frames: int = 16
    side: int = 32

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, C, T, H, W) of the latents."""
        return (1, 4, self.frames, self.side, self.side)


def build(case: Case) -> Vdt:
    """A VDT whose every parameter is random, so that nothing is gated off."""
    torch.manual_seed(0)
    vdt = Vdt(
        VdtConfig(
            hidden_size=case.width, depth=case.depth, num_heads=case.heads, input_size=case.side,
            num_frames=case.frames, num_classes=10,
        )
    ).eval()  # fmt: skip
    for parameter in vdt.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return vdt


@torch.no_grad()
def plain_forward(w: dict[str, Tensor], case: Case, z: Tensor, t: Tensor, label: Tensor) -> Tensor:
    """z (B, 4, T, H, W), t (B,), label (B,) -> prediction (B, 4, T, H, W), from a Vdt's state `w`."""
    B, C, T, H, W = z.shape
    D, S = case.width, (H // 2) * (W // 2)

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def attention(name: str, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        qkv = linear(f"{name}.qkv", x).reshape(n, length, 3, case.heads, D // case.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = (q @ k.transpose(-2, -1) * (D // case.heads) ** -0.5).softmax(dim=-1)
        return linear(f"{name}.proj", (weights @ v).transpose(1, 2).reshape(n, length, D))

    def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(x, (D,), eps=1e-6) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)

    frames = z.permute(0, 2, 1, 3, 4).reshape(B * T, C, H, W)
    x = F.conv2d(frames, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=2).flatten(2).transpose(1, 2)
    x = x + w["pos_embed"]
    x = x.reshape(B, T, S, D).permute(0, 2, 1, 3).reshape(B * S, T, D) + w["time_embed"]
    x = x.reshape(B, S, T, D).permute(0, 2, 1, 3).reshape(B * T, S, D)
    omega = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(128) / 128)
    angles = t[:, None] * omega
    c = linear("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], -1))
    c = linear("t_embedder.mlp.2", F.silu(c)) + w["y_embedder.embedding_table.weight"][label]
    for i in range(case.depth):
        block = f"blocks.{i}"
        parts = linear(f"{block}.adaLN_modulation.1", F.silu(c)).repeat_interleave(T, dim=0).chunk(6, dim=1)
        h = x.reshape(B, T, S, D).permute(0, 2, 1, 3).reshape(B * S, T, D)
        normed = F.layer_norm(h, (D,), w[f"{block}.temporal_norm1.weight"], w[f"{block}.temporal_norm1.bias"])
        h = linear(f"{block}.temporal_fc", attention(f"{block}.temporal_attn", normed))
        x = x + h.reshape(B, S, T, D).permute(0, 2, 1, 3).reshape(B * T, S, D)
        x = x + parts[2].unsqueeze(1) * attention(f"{block}.attn", modulated(x, parts[0], parts[1]))
        h = F.gelu(linear(f"{block}.mlp.fc1", modulated(x, parts[3], parts[4])), approximate="tanh")
        x = x + parts[5].unsqueeze(1) * linear(f"{block}.mlp.fc2", h)
    shift, scale = linear("final_layer.adaLN_modulation.1", F.silu(c)).repeat_interleave(T, dim=0).chunk(2, dim=1)
    x = linear("final_layer.linear", modulated(x, shift, scale))
    x = x.reshape(B, T, H // 2, W // 2, 2, 2, C)
    return torch.einsum("nthwpqc->ncthpwq", x).reshape(B, C, T, H, W)


def forward(case: Case, repeats: int, say: Callable[[str], None]) -> Result:
    """One forward of each."""
    vdt = build(case)
    compiled = compile_for_inference(copy.deepcopy(vdt), resolve("auto"))
    weights = vdt.state_dict()
    z = torch.randn(case.shape, generator=torch.Generator().manual_seed(0))
    t, label = torch.tensor([500.0]), torch.tensor([3])
    inputs = (z, t, Conditions(label=label))
    entrants = [
        Entrant(PLAIN, lambda: plain_forward(weights, case, z, t, label)),
        Entrant(FLOAT32, forward_of(vdt, "float32", *inputs)),
        Entrant(AUTO, forward_of(vdt, "auto", *inputs)),
        Entrant(COMPILED, forward_of(compiled, "auto", *inputs)),
    ]
    timings = race(entrants, repeats, say)
    aims = [faster(timings, FLOAT32, 2.0), faster(timings, COMPILED, 4.0), closer(timings, COMPILED, 0.01)]
    setup = (
        f"width {case.width}, {case.depth} blocks, patches of 2; latents {' x '.join(map(str, case.shape[1:]))} "
        "(channels, frames, height, width), batch 1, a class label"
    )
    return compared("vdt_forward", "VDT, one forward, against the same written plainly", setup, timings, aims)
