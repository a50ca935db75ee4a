"""Latte-S/2 against the same model in diffusers: one forward, and sampling in 50 steps.

diffusers' class of random weights is saved as diffusers does, and read by `kinolab.checkpoints.load`.
"""

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
from kinolab.denoisers import Conditions, Latte
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.runtime.compiling import compile_for_inference
from kinolab.runtime.precision import PrecisionPolicy, autocast, resolve

THEIRS = "diffusers, float32"
FLOAT32, AUTO, COMPILED = OURS
"""The entrants."""


@dataclass(frozen=True)
class Case:
    """A size to compare at; the defaults are Latte-S/2 on the latents of a clip of 16 frames at 256 px."""

    width: int = 384
    heads: int = 6
    depth: int = 12
    frames: int = 16
    side: int = 32
    text_dim: int = 384
    tokens: int = 32

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, C, T, H, W) of the latents."""
        return (1, 4, self.frames, self.side, self.side)


class Pair:
    """diffusers' model, ours with the same weights, ours compiled, and one input."""

    def __init__(self, case: Case) -> None:
        self.theirs = diffusers_latte(case)
        with tempfile.TemporaryDirectory() as folder:
            self.theirs.save_pretrained(folder)
            self.ours: Latte = load(Path(folder))
        self.compiled = compile_for_inference(copy.deepcopy(self.ours), resolve("auto"))
        generator = torch.Generator().manual_seed(0)
        self.z = torch.randn(case.shape, generator=generator)
        self.text = torch.randn(1, case.tokens, case.text_dim, generator=generator)

    def theirs_at(self, z: Tensor, t: Tensor) -> Tensor:
        """diffusers' prediction."""
        return self.theirs(z, t, encoder_hidden_states=self.text, return_dict=False)[0]


def diffusers_latte(case: Case) -> Any:
    """diffusers' LatteTransformer3DModel with its own random weights."""
    build = diffusers_class("LatteTransformer3DModel")
    torch.manual_seed(0)
    return build(
        num_attention_heads=case.heads,
        attention_head_dim=case.width // case.heads,
        in_channels=4,
        out_channels=4,
        num_layers=case.depth // 2,
        cross_attention_dim=case.width,
        caption_channels=case.text_dim,
        sample_size=case.side,
        patch_size=2,
        video_length=case.frames,
        attention_bias=True,
        activation_fn="gelu-approximate",
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    ).eval()


def forward(case: Case, repeats: int, say: Callable[[str], None]) -> Result:
    """One forward of each."""
    pair, t = Pair(case), torch.tensor([500])
    inputs = (pair.z, t.float(), Conditions(text=pair.text))
    entrants = [
        Entrant(THEIRS, torch.no_grad()(lambda: pair.theirs_at(pair.z, t))),
        Entrant(FLOAT32, forward_of(pair.ours, "float32", *inputs)),
        Entrant(AUTO, forward_of(pair.ours, "auto", *inputs)),
        Entrant(COMPILED, forward_of(pair.compiled, "auto", *inputs)),
    ]
    timings = race(entrants, repeats, say)
    aims = [faster(timings, COMPILED, 3.0), closer(timings, COMPILED, 0.01)]
    title = "Latte, one forward, against diffusers"
    return compared("latte_forward", title, describe_case(case), timings, aims)


def sampling(case: Case, repeats: int, say: Callable[[str], None], steps: int = 50) -> Result:
    """DDIM from the same noise: diffusers' model with its scheduler, ours with ours."""
    pair = Pair(case)
    conditions = Conditions(text=pair.text)
    diffusion = Diffusion(DiffusionConfig(schedule="linear", prediction="noise"))

    def ours(module: Latte, policy: PrecisionPolicy, steps: int = steps) -> Tensor:
        sampler = SamplerConfig(name="ddim", steps=steps, spacing="trailing")
        with autocast(policy):
            return diffusion.sample(module, pair.z, conditions, sampler=sampler)

    entrants = [
        Entrant(THEIRS, lambda: diffusers_sampling(pair, steps), lambda: diffusers_sampling(pair, 1)),
        Entrant(FLOAT32, lambda: ours(pair.ours, "float32"), lambda: ours(pair.ours, "float32", 1)),
        Entrant(AUTO, lambda: ours(pair.ours, "auto"), lambda: ours(pair.ours, "auto", 1)),
        Entrant(COMPILED, lambda: ours(pair.compiled, "auto"), lambda: ours(pair.compiled, "auto", 1)),
    ]
    timings = race(entrants, repeats, say)
    title = f"Latte, sampling in {steps} steps of DDIM, against diffusers"
    return compared("latte_sampling", title, describe_case(case), timings)


def diffusers_sampling(pair: Pair, steps: int) -> Tensor:
    """Latents from diffusers' model and its DDIM scheduler."""
    return ddim(pair.theirs_at, pair.z, steps)


@torch.no_grad()
def ddim(predict: Callable[[Tensor, Tensor], Tensor], z: Tensor, steps: int) -> Tensor:
    """Latents from noise z (B, C, T, H, W) by diffusers' DDIM scheduler; predict takes z and times (B,)."""
    from diffusers.schedulers import DDIMScheduler

    build: Any = DDIMScheduler
    scheduler = build(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=2e-2,
        beta_schedule="linear",
        clip_sample=False,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        z = scheduler.step(predict(z, t.expand(len(z)).to(z.device)), t, z, return_dict=False)[0]
    return z


def describe_case(case: Case) -> str:
    """The case in words."""
    return (
        f"width {case.width}, {case.depth} blocks, patches of 2; latents {' x '.join(map(str, case.shape[1:]))} "
        f"(channels, frames, height, width), batch 1, a prompt of {case.tokens} tokens"
    )
