"""Text2Video-Zero (Khachatryan et al. 2023, arXiv:2303.13439): a clip from an image model, without training.

    1.  The first frame is sampled alone, from noise to time t1 and on to a cleaner t0 < t1.
    2.  Frame k begins as the first one's latents at t0, moved by k times the motion (section 3.2):
            z_t0^k(p) = z_t0^1(p - k motion)
    3.  New noise takes it back to t1, which frees what moves:
            z_t1 = alpha_t1 / alpha_t0 z_t0 + sqrt(sigma_t1^2 - (alpha_t1 / alpha_t0)^2 sigma_t0^2) n        (eq. 8)
    4.  From t1 all frames are sampled together, the first from its own latents, and every self-attention of a frame
        reads the first frame's keys and values (section 3.3), so that what is seen stays the same.
    5.  Optional (section 3.4): where neither frame k nor the moved first frame shows what is salient, the latents at t1
        are mixed with the first frame's moved background, and all frames are sampled from there once more.

Step 3 is that of DDPM on a discrete schedule, and holds on every Gaussian path, so rectified flow and EDM have it too.
Where maps or pictures are told frame by frame (ControlNet, InstructPix2Pix) what moves is told already: then all frames
begin with the same noise, and steps 1 to 3 fall away.

Shapes: latents z are (B, C, T, H, W), masks (B, 1, T, H, W). Frame 1 of the paper is frame 0 here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from kinolab.config import Config as BaseConfig
from kinolab.contracts.method import Denoise, Method, Predict, Run, Walk
from kinolab.contracts.reach import Reach, ReachName
from kinolab.errors import InputError
from kinolab.layers.translation import Edges, blended_share, translated
from kinolab.methods.saliency import salient

PUBLISHED_GRID = 512
"""The side that the public code's motion counts pixels of, whatever the frames' size."""


class Text2VideoZeroConfig(BaseConfig):
    """How the scene moves, and how the frames are held together."""

    motion: tuple[float, float] | None = None
    """Pixels to the right and down that the scene moves by from frame to frame, as [3, 0]; none = as published: 12 of
    512 to the left and up."""
    units: Literal["pixels", "published"] = "pixels"
    """What motion counts: pixels of what is made, or as the public code: 512ths of each side, to the left and up, the
    grid's places at the pixels' corners."""
    sampling: Literal["nearest", "bilinear"] = "nearest"
    """How latents are read between two places: the nearest one, as published, or blended, which moves by parts of a
    latent too; the noise that blending takes away is put back."""
    edges: Edges = "mirror"
    """What comes in where the scene moves away from an edge: its mirror image, as published, which shows objects twice;
    or repeat: the edge of the first frame's clean estimate again and again, which costs one call more."""
    t0: float | None = Field(None, ge=0, le=1)
    """Fraction of time (0 clean, 1 noise) at which the first frame is copied and moved; none = the published noise
    level, that of Stable Diffusion's time 881 of 1000 at latents of 64 x 64, less for smaller ones
    (`published_level`)."""
    t1: float | None = Field(None, ge=0, le=1)
    """Fraction of time from which all frames are sampled together; none = as t0, of time 941. The further from t0, the
    freer is what moves."""
    start: Literal["auto", "motion", "same"] = "auto"
    """What frames begin with: the first one's moved latents, or all with the same noise; auto is motion, but same where
    maps or pictures are told frame by frame and no motion is asked for."""
    reach: ReachName = "first"
    """Which frames self-attention reads; own = each its own, as the image model by itself."""
    chunk: int | None = Field(None, ge=2)
    """Frames that are sampled at once, the first one among them each time: less memory for long clips, and the same
    frames where reach is first and the sampler draws no noise; none = all."""
    smooth: float | None = Field(None, ge=0, le=1)
    """Background smoothing: the share of a frame's own latents where the background is, 0.6 in the paper and 0.4 in the
    public code; none = no smoothing. Without a mask of one's own all frames are sampled twice."""
    grow: int = Field(5, ge=1)
    """Latents across by which what is salient is grown for smoothing, an odd number; 1 = not at all."""

    @field_validator("motion", mode="before")
    @classmethod
    def _pair(cls, value: Any) -> Any:
        numbers = isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(v, int | float) for v in value)
        if value is not None and not numbers:
            raise ValueError("expected two numbers, pixels to the right and down from frame to frame, such as [3, 0]")
        return value

    @model_validator(mode="after")
    def _check(self) -> Text2VideoZeroConfig:
        if (self.t0 is None) != (self.t1 is None):
            raise ValueError("t0 and t1 go together: give both, or leave both out")
        if self.t0 is not None and self.t1 is not None and self.t0 > self.t1:
            raise ValueError(f"expected t0 at most t1 (0 clean, 1 noise), got {self.t0:g} and {self.t1:g}")
        if self.grow % 2 == 0:
            raise ValueError(f"grow: expected an odd number, got {self.grow}")
        if self.start == "same" and (self.motion is not None or self.smooth is not None or self.edges != "mirror"):
            raise ValueError("start=same has no motion and no smoothing: leave motion, edges and smooth out")
        if self.motion is None and self.units == "published":
            raise ValueError("units=published counts motion, which is missing: give it, such as [12, 12]")
        return self


PUBLISHED_LEVELS = (7.5624, 10.4250)
"""sigma / alpha at the times 881 and 941 of Stable Diffusion's schedule."""


def published_level(level: float, positions: int) -> float:
    """A noise level sigma / alpha of latents of 64 x 64 for others: times sqrt(H W / 64^2).

    More positions tell more of a picture's coarse content at equal noise (Esser et al. 2024, eq. 23); what is left of
    it at t0 and t1 is what a small picture keeps of its objects' places too.
    """
    return level * (positions / 64**2) ** 0.5


@dataclass(frozen=True)
class Schedule:
    """Where a run's times (steps + 1,) are cut: `t1` and `t0` are places in them, t1 <= t0 as times fall."""

    times: Tensor
    t1: int
    t0: int

    @classmethod
    def of(cls, config: Text2VideoZeroConfig, run: Run) -> Schedule:
        """The places nearest to the config's times; one step apart at least where these differ."""
        times, path = run.times, run.path
        if config.t0 is not None and config.t1 is not None:
            asked, known = (config.t1, config.t0), [path.fraction(float(t)) for t in times]
        else:
            positions = run.shape[3] * run.shape[4]
            late, early = (math.log(published_level(level, positions)) for level in PUBLISHED_LEVELS)
            asked, known = (early, late), [_log_level(*path.scalars(float(t))) for t in times]
        places = [k for k, value in enumerate(known) if math.isfinite(value)]
        first, second = (min(places, key=lambda k: abs(known[k] - wanted)) for wanted in asked)
        return cls(times, first, min(max(second, first + (asked[0] != asked[1])), len(times) - 1))

    def at(self, place: int) -> float:
        """The time at a place."""
        return float(self.times[place])


def _drawn(run: Run) -> bytes:
    """Where the run's draws are."""
    return b"" if run.generator is None else bytes(run.generator.get_state().numpy().tobytes())


def _log_level(alpha: float, sigma: float) -> float:
    return math.log(sigma / alpha) if alpha > 0 and sigma > 0 else math.inf


class Text2VideoZero(Method):
    """Makes a clip by an image denoiser (`Denoiser.within_frames`): U-Net, DiT or MMDiT.

    Args:
        saliency: 1 where something is salient, for smoothing, (1 or B, 1, 1 or T, h, w) of any height and width; one
            frame moves with the scene. None = found in the pictures (`kinolab.methods.saliency`).
    """

    Config: ClassVar[type[BaseConfig]] = Text2VideoZeroConfig
    decides = ("reach", "start")
    config: Text2VideoZeroConfig

    def __init__(self, config: Text2VideoZeroConfig | None = None, *, saliency: Tensor | None = None) -> None:
        super().__init__(config)
        self.saliency = saliency
        if saliency is not None and self.config.smooth is None:
            raise InputError("a mask of what is salient is for smoothing the background: set smooth, such as 0.6")

    def check(self, run: Run) -> None:
        """Raises InputError for a video model, a single frame, and beside methods that hold whole clips."""
        denoiser, name = run.denoiser, type(run.denoiser).__name__
        if denoiser.reach is None or not denoiser.within_frames:
            raise InputError(
                f"text2video_zero: {name} models time itself; expected an image model, whose frames are nothing to "
                "each other (kind unet, dit, or mmdit with attention 2d): leave text2video_zero out"
            )
        if run.shape[2] < 2:
            raise InputError("text2video_zero makes a clip, and 1 frame is asked for: use --frames, such as 8")
        if run.codec is not None and run.codec.temporal_ratio != 1:
            raise InputError(
                f"text2video_zero: the autoencoder makes one latent of {run.codec.temporal_ratio} frames; expected one "
                "that makes a latent of each, such as kind image"
            )
        for method in run.methods:
            if method.whole_clips:
                raise InputError(
                    f"text2video_zero samples some frames of a clip at a time, and {type(method).__name__} holds all "
                    "of them: leave one of the two out"
                )

    def network(self, inner: Predict, run: Run) -> Predict:
        """The same calls, in which frames read the first one."""
        reach = Reach(self.config.reach)
        return lambda call: inner(replace(call, options=replace(call.options, reach=reach, reach_beside=True)))

    def walked(self, inner: Walk, estimate: Denoise, run: Run) -> Walk:
        """The walks of the paper's algorithm, in place of one walk of all frames."""
        c = self.config

        def on(frames: Sequence[int], z: Tensor, times: Tensor) -> Tensor:
            """Walk some frames of the clip."""
            run.frames = tuple(frames)
            try:
                return inner(z, times) if len(times) > 1 else z
            finally:
                run.frames = None

        def together(z: Tensor, times: Tensor) -> Tensor:
            """Walk all frames, in chunks that begin with the first one."""
            T, later = z.shape[2], (c.chunk or z.shape[2]) - 1
            made, drawn = [], _drawn(run)
            for start in range(1, T, later):
                frames = [0, *range(start, min(start + later, T))]
                walked = on(frames, z[:, :, frames], times)
                if later < T - 1 and _drawn(run) != drawn:
                    raise InputError(
                        "chunk: this sampler draws noise, so that the first frame would go another way in every chunk: "
                        "use a deterministic one, such as ddim with eta 0, or leave chunk out"
                    )
                made.append(walked if start == 1 else walked[:, :, 1:])
            return torch.cat(made, 2)

        def walk(z: Tensor, times: Tensor) -> Tensor:
            steps, chunks = len(times) - 1, math.ceil((z.shape[2] - 1) / ((c.chunk or z.shape[2]) - 1))
            if self.same_start(run):
                run.planned = chunks * steps
                return together(z[:, :, :1].expand_as(z), times)
            plan = Schedule.of(c, run)
            twice = c.smooth is not None and self.saliency is None
            run.planned = plan.t0 + (2 if twice else 1) * chunks * (steps - plan.t1)
            first_t1 = on([0], z[:, :, :1], times[: plan.t1 + 1])
            first_t0 = on([0], first_t1, times[plan.t1 : plan.t0 + 1])
            clean = self.clean(first_t0, plan, estimate, run) if c.edges == "repeat" else None
            # The start noise of the later frames, drawn from each clip's own seed, has no other use.
            later = self.renoised(first_t0, z[:, :, 1:], plan, run, clean)
            z_t1 = torch.cat([first_t1, later], 2)
            if c.smooth is None:
                return together(z_t1, times[plan.t1 :])
            clean = together(z_t1, times[plan.t1 :]) if self.saliency is None else z_t1
            mask = self.foreground(clean, run)
            return together(self.smoothed(z_t1, mask, run), times[plan.t1 :])

        return walk

    def same_start(self, run: Run) -> bool:
        """Whether all frames begin with the same noise."""
        c, told = self.config, any(value.kind == "field" for value in run.conditions.values())
        moves = c.motion is not None or c.smooth is not None or c.edges != "mirror"
        return c.start == "same" or (c.start == "auto" and told and not moves)

    def moved(self, z: Tensor, frames: int, run: Run, *, edges: Edges = "mirror", whole: bool = False) -> Tensor:
        """(B, C, 1, H, W) of the first frame -> (B, C, frames, H, W): as it stands in it and in the next ones.

        whole: by whole latents, however latents are read.
        """
        places = [self.shift(k, run) for k in range(frames)]
        blend = self.config.sampling == "bilinear" and not whole
        return torch.cat([translated(z, across, down, blend=blend, edges=edges) for across, down in places], 2)

    def shift(self, frame: int, run: Run) -> tuple[float, float]:
        """How far the scene stands from where it began, in latents to the right and down."""
        c, (H, W) = self.config, run.shape[3:]
        if frame == 0:
            return 0.0, 0.0
        if c.motion is not None and c.units == "pixels":
            ratio = 1 if run.codec is None else run.codec.spatial_ratio
            return frame * c.motion[0] / ratio, frame * c.motion[1] / ratio
        x, y = c.motion or (12.0, 12.0)
        # The public grid holds its pixels' corners, half a pixel from where their centres are read.
        return tuple(-(frame * m - 0.5) * side / PUBLISHED_GRID for m, side in ((x, W), (y, H)))  # type: ignore[return-value]

    def clean(self, z: Tensor, plan: Schedule, estimate: Denoise, run: Run) -> Tensor:
        """The clean estimate of the first frame at t0, (B, C, 1, H, W)."""
        a0, s0 = run.path.scalars(plan.at(plan.t0))
        if s0 == 0:
            return z / a0
        run.frames = (0,)
        try:
            return estimate(z, plan.at(plan.t0)).sample
        finally:
            run.frames = None

    def renoised(self, z: Tensor, noise: Tensor, plan: Schedule, run: Run, clean: Tensor | None = None) -> Tensor:
        """The first frame at t0 (B, C, 1, H, W) and noise (B, C, T - 1, H, W) -> the later frames at t1 (eq. 8).

        clean: the first frame's clean estimate, which then moves with its edges repeated, its noise by whole latents.
        """
        (a0, s0), (a1, s1) = (run.path.scalars(plan.at(place)) for place in (plan.t0, plan.t1))
        count, ratio, blends = noise.shape[2] + 1, a1 / a0, self.config.sampling == "bilinear"
        if clean is None:
            moved = self.moved(z, count, run)[:, :, 1:]
        else:
            of_noise = self.moved((z - a0 * clean) / (s0 or 1.0), count, run, whole=True)
            moved = (a0 * self.moved(clean, count, run, edges="repeat") + s0 * of_noise)[:, :, 1:]
        # Of white noise blending leaves this share of the variance; the rest comes back as new noise.
        kept = [blended_share(*self.shift(k, run)) if blends and clean is None else 1.0 for k in range(1, count)]
        deviation = [max(s1**2 - share * (ratio * s0) ** 2, 0.0) ** 0.5 for share in kept]
        return ratio * moved + z.new_tensor(deviation).view(-1, 1, 1) * noise

    def foreground(self, clean: Tensor, run: Run) -> Tensor:
        """What is salient in each frame, 0 or 1 (B, 1, T, H, W), grown.

        clean: sampled latents (B, C, T, H, W), of which only the size counts where a mask is given.
        """
        size = (clean.shape[3], clean.shape[4])
        if self.saliency is not None:
            mask = self.saliency.to(clean)
            if mask.shape[2] not in (1, clean.shape[2]):
                raise InputError(f"saliency: expected 1 mask or one per frame, {clean.shape[2]}, got {mask.shape[2]}")
            if not bool(mask.flatten(1).any(1).all()):
                raise InputError("saliency: nothing is marked in the mask; expected white where something is salient")
        else:
            alpha = run.path.scalars(float(run.times[-1]))[0]
            pictures = clean / alpha if run.codec is None else run.codec.decode(clean / alpha)
            mask = salient(pictures)
        rows, frames = mask.shape[0], mask.shape[2]
        flat = F.interpolate(mask.transpose(1, 2).flatten(0, 1), size, mode="nearest")  # (B * T, 1, H, W)
        grown = F.max_pool2d(flat, self.config.grow, 1, self.config.grow // 2)
        mask = grown.unflatten(0, (rows, frames)).transpose(1, 2).expand(clean.shape[0], -1, -1, -1, -1)
        return mask if frames == clean.shape[2] else self.moved(mask, clean.shape[2], run)

    def smoothed(self, z: Tensor, mask: Tensor, run: Run) -> Tensor:
        """Latents at t1 with the backgrounds mixed (section 3.4; the shares as in the public code).

        mask: what is salient in each frame, (B, 1, T, H, W).
        """
        assert self.config.smooth is not None
        T, share = z.shape[2], self.config.smooth
        behind = self.moved(z[:, :, :1] * (1 - mask[:, :, :1]), T, run)
        free = (1 - mask) * (1 - self.moved(mask[:, :, :1], T, run))
        return (1 - free) * z + free * (share * z + (1 - share) * behind)
