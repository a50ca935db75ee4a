"""Kinds of Text2Video-Zero: attention to the first frame, and its motion with the network that the layout says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kinolab.contracts.method import Run
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Reach
from kinolab.denoisers import Conditions, Unet
from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig
from kinolab.layers.unet_attention import QkvAttention
from kinolab.methods.text2video_zero import Schedule, Text2VideoZero, Text2VideoZeroConfig
from tests.closeness import STORED
from tests.golden_kinds import Golden, runs
from tests.golden_kinds.unet import heads

FIRST = Reach("first")


@runs("T2VZeroAttn")
def attention(golden: Golden) -> dict[str, Tensor]:
    """Its CrossFrameAttnProcessor: self-attention to the first frame of each half, attention to a prompt unchanged."""
    config, x, context = golden.config, golden["x"], golden["context"]
    dims = (config["query_dim"], config["heads"], config["dim_head"])
    own, cross = QkvAttention(*dims), QkvAttention(*dims, config["cross_attention_dim"])
    for prefix, module in (("self", own), ("cross", cross)):
        module.load_state_dict(golden.weights(prefix))
    T = config["_frames"]
    halves = x.unflatten(0, (-1, T))  # (2, F, N, C)
    return {"out": own.over_places(halves, FIRST.lists(T)).flatten(0, 1), "out_cross": cross(x, context)}


@runs("T2VZeroUNet")
def unet(golden: Golden) -> dict[str, Tensor]:
    """diffusers' image U-Net with that processor in every self-attention, and as it is."""
    model = golden.load(**heads(golden.config))
    assert isinstance(model, Unet)
    clips = golden["sample"].unflatten(0, (2, -1)).transpose(1, 2)  # (2, C, F, H, W)
    # All frames of a half have one prompt.
    told = Conditions(text=golden["encoder_hidden_states"].unflatten(0, (2, -1))[:, 0])
    t = golden["timestep"].expand(2)
    made = {"out": model(clips, t, told, ForwardOptions(reach=FIRST)), "out_plain": model(clips, t, told)}
    return {name: out.transpose(1, 2).flatten(0, 1) for name, out in made.items()}


class Toy:
    """eps(x, t, e)[f] = A x[f] + t / 1000 bias + 0.03 e + 0.1 x[frame 0], at the e that guidance makes of -1 and 1."""

    reach, within_frames = Reach("own"), True

    def __init__(self, golden: Golden) -> None:
        self.golden, self.e = golden, -1 + 2 * golden.config["guidance_scale"]

    def __call__(self, z: Tensor, t: Tensor, conditions: Any, options: Any = None) -> Tensor:
        """z (1, 4, T, h, w) -> eps."""
        mixed = torch.einsum("co,bothw->bcthw", self.golden["A"], z)
        shift = t[0] / 1000 * self.golden["bias"].view(-1, 1, 1, 1)
        return mixed + shift + 0.03 * self.e + 0.1 * z[:, :, :1]


class Released(Text2VideoZero):
    """The method as released, which takes the betas one step early: alphas[t0:t1] lead from t0 - 1 to t1 - 1."""

    def __init__(self, config: Text2VideoZeroConfig, **others: Any) -> None:
        super().__init__(config, **others)
        self.seen: dict[str, Tensor] = {}

    def renoised(self, z: Tensor, noise: Tensor, plan: Schedule, run: Run, clean: Tensor | None = None) -> Tensor:
        """As the method's, of times one earlier."""
        self.seen |= {"x_t0_1": z, "x_t0_k": self.moved(z, noise.shape[2] + 1, run)[:, :, 1:]}
        return super().renoised(z, noise, Schedule(plan.times - 1, plan.t1, plan.t0), run)

    def walked(self, inner: Any, estimate: Any, run: Run) -> Any:
        """As the method's; remembers the latents that all frames begin with."""

        def walk(z: Tensor, times: Tensor) -> Tensor:
            if z.shape[2] > 1:
                self.seen["x_t1"] = z
            return inner(z, times)

        return super().walked(walk, estimate, run)


@runs("T2VZero", within=STORED)
def motion(golden: Golden) -> dict[str, Tensor]:
    """TextToVideoPipeline with 50 steps of DDIM: the motion, the way back to t1, the clip, and smoothed backgrounds."""
    c = golden.config
    process = Diffusion(DiffusionConfig(schedule="scaled_linear", prediction="noise"))
    noise = torch.cat([golden["xT"], golden["noise"]], 2)
    moving = {"motion": (c["motion_field_strength_x"], c["motion_field_strength_y"]), "units": "published",
              "t0": (20 * c["t0"] + 1) / 999, "t1": (20 * c["t1"] + 1) / 999}  # fmt: skip
    mask = golden["fg_mask"][None, None]

    def sampled(method: Released) -> Tensor:
        return process.sample(
            Toy(golden), noise, Conditions(), sampler=SamplerConfig(steps=50, spacing="sd"), methods=[method]
        )

    plain = Released(Text2VideoZeroConfig(**moving))
    x0 = sampled(plain)
    smoothing = Released(Text2VideoZeroConfig(**moving, smooth=c["smooth_bg_strength"]), saliency=mask)
    smooth = sampled(smoothing)
    run = Run(Toy(golden), Conditions(), tuple(noise.shape), 50, process.path)
    grown = smoothing.foreground(x0, run)
    first = plain.seen["x_t1"][:, :, :1]
    return {
        **plain.seen,
        "x_t1_1": first,
        "x0": x0,
        "x0_smooth": smooth,
        "latents_smooth": smoothing.seen["x_t1"],
        "warped_fg_masked": smoothing.moved(first * (1 - grown[:, :, :1]), noise.shape[2], run)[:, :, 1:],
        "warped_mask": smoothing.moved(grown[:, :, :1], noise.shape[2], run)[:, :, 1:],
    }
