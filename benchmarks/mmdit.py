"""MMDiT against the same model in diffusers on an image, and what each mode of attention costs on a clip."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import OURS, Entrant, Result, closer, compared, diffusers_class, faster, forward_of, race
from kinolab.checkpoints import load
from kinolab.denoisers import Conditions, Mmdit, MmditConfig
from kinolab.denoisers.inflate import inflated
from kinolab.runtime.compiling import compile_for_inference
from kinolab.runtime.precision import resolve

THEIRS = "diffusers, float32"
FLOAT32, AUTO, COMPILED = OURS
"""The entrants."""
MODES = ("2d", "3d", "2d+3d")


@dataclass(frozen=True)
class Case:
    """A size to compare at; the defaults are a small SD3.5 on the latents of an image of 512 px."""

    width: int = 384
    heads: int = 6
    depth: int = 12
    frames: int = 1
    side: int = 64
    text_dim: int = 512
    pooled_dim: int = 256
    tokens: int = 154

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, C, T, H, W) of the latents."""
        return (1, 16, self.frames, self.side, self.side)


def inputs_of(case: Case) -> tuple[Tensor, Tensor, Conditions]:
    """Noisy latents, time and a prompt: the same ones for every entrant."""
    generator = torch.Generator().manual_seed(0)
    z, text, pooled = (
        torch.randn(shape, generator=generator)
        for shape in (case.shape, (1, case.tokens, case.text_dim), (1, case.pooled_dim))
    )
    return z, torch.tensor([500.0]), Conditions(text=text, pooled=pooled)


def diffusers_mmdit(case: Case) -> Any:
    """diffusers' SD3Transformer2DModel with random weights, query-key normalisation included."""
    build = diffusers_class("SD3Transformer2DModel")
    torch.manual_seed(0)
    return build(
        sample_size=case.side,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=case.depth,
        attention_head_dim=case.width // case.heads,
        num_attention_heads=case.heads,
        joint_attention_dim=case.text_dim,
        caption_projection_dim=case.width,
        pooled_projection_dim=case.pooled_dim,
        pos_embed_max_size=case.side // 2,
        qk_norm="rms_norm",
    ).eval()


def forward(case: Case, repeats: int, say: Callable[[str], None]) -> Result:
    """One forward of an image model, diffusers' weights in both."""
    theirs, inputs = diffusers_mmdit(case), inputs_of(case)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours: Mmdit = load(Path(folder))
    compiled = compile_for_inference(copy.deepcopy(ours), resolve("auto"))

    def run_theirs() -> Tensor:
        z, t, told = inputs
        with torch.no_grad():
            return theirs(z[:, :, 0], told.text, told.pooled, t, return_dict=False)[0][:, :, None]

    entrants = [
        Entrant(THEIRS, run_theirs),
        Entrant(FLOAT32, forward_of(ours, "float32", *inputs)),
        Entrant(AUTO, forward_of(ours, "auto", *inputs)),
        Entrant(COMPILED, forward_of(compiled, "auto", *inputs)),
    ]
    timings = race(entrants, repeats, say)
    aims = [faster(timings, AUTO, 1.5), closer(timings, AUTO, 0.02)]
    return compared("mmdit_forward", "MMDiT, one forward of an image, against diffusers", describe(case), timings, aims)


def modes(case: Case, repeats: int, say: Callable[[str], None]) -> Result:
    """One forward of a clip in each mode of attention, inflated from one image model with random weights; `auto`
    precision.

    The error is the distance from frames that don't see each other: 2d+3d has none before it is trained.
    """
    inputs = inputs_of(case)
    torch.manual_seed(0)
    config = MmditConfig(
        hidden_size=case.width, depth=case.depth, num_heads=case.heads, in_channels=16, input_size=case.side,
        num_frames=1, attention="2d", temporal_position="none", qk_norm=True, text_dim=case.text_dim,
        pooled_dim=case.pooled_dim,
    )  # fmt: skip
    image = Mmdit(config)
    with torch.no_grad():
        for parameter in image.parameters():  # a fresh model's output is zero
            parameter.add_(0.02 * torch.randn_like(parameter))
    entrants = []
    for mode in MODES:
        model, _ = inflated(image, "mmdit", {"attention": mode, "num_frames": case.frames})
        entrants.append(Entrant(mode, forward_of(model.eval(), "auto", *inputs)))
    timings = race(entrants, repeats, say)
    title = "Video MMDiT, one forward of a clip by mode of attention"
    return compared("mmdit_modes", title, f"{describe(case)}; auto precision", timings)


def describe(case: Case) -> str:
    """The case in words."""
    return (
        f"width {case.width}, {case.depth} blocks, patches of 2; latents {' x '.join(map(str, case.shape[1:]))} "
        f"(channels, frames, height, width), batch 1, a prompt of {case.tokens} tokens"
    )
