"""The diffusion process: noise path, what the denoiser predicts, the training loss and sampling.

Denoisers are called with float times (B,) in the path's units: 0 .. num_steps - 1 for the discrete schedules, 1000 * t
with t in (0, 1] (1 = noise) for rectified flow and cosine log-SNR, log(sigma / alpha) / 4 for EDM. Arithmetic is in
float32 (float64 where the latents are), whatever autocast the caller has set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kinolab.config import Config
from kinolab.contracts.method import Codec, Method, Run
from kinolab.diffusion import conversions, variational
from kinolab.diffusion.conversions import Prediction
from kinolab.diffusion.edm import EdmConfig, EdmPath
from kinolab.diffusion.path import (
    DiscretePath,
    FlowPath,
    LogSnrPath,
    NoisePath,
    cosine_betas,
    linear_betas,
    resolution_shift,
    shifted_times,
    spaced_betas,
)
from kinolab.diffusion.run import DenoiserLike, sample_run
from kinolab.diffusion.samplers import SAMPLERS, Callback, SamplerConfig
from kinolab.diffusion.times import MODE_SCALE_MAX, TimeSampling, cosmap, logit_normal, mode
from kinolab.errors import InputError


class DiffusionConfig(Config):
    """Noise path, prediction type and loss; the defaults are those of DiT and Latte with a fixed variance."""

    schedule: Literal["linear", "cosine", "flow", "scaled_linear", "edm", "cosine_logsnr"] = "linear"
    """Betas from 1e-4 to 2e-2 (Ho et al. 2020), the cosine schedule (Nichol & Dhariwal 2021), rectified flow, betas
    from 0.00085 to 0.012 whose square roots are even (Stable Diffusion), the continuous noise levels of EDM (Karras
    et al. 2022), or the cosine schedule in continuous time, log SNR from 20 to -20 (Imagen Video)."""
    betas: tuple[float, float] | None = None
    """First and last beta of linear and scaled_linear, where they are others."""
    edm: EdmConfig | None = None
    """Noise levels of the schedule edm; none = those of Stable Video Diffusion."""
    zero_terminal_snr: bool = False
    """Rescale a discrete schedule so that its last step is pure noise (Lin et al. 2024); predict v, sample or flow."""
    max_beta: float = Field(default=0.999, gt=0.0, lt=1.0)
    """Cosine only: the largest beta, which the last steps have; 0.9999 in the public code of Video Diffusion Models."""
    num_steps: int = Field(default=1000, ge=2)
    """Timesteps of a discrete schedule; the others are continuous and do not use them (leave 1000)."""
    prediction: Prediction = "noise"
    """What the denoiser's output means: noise, sample, v, flow (the velocity noise - sample), or edm (EDM's F)."""
    learned_variance: bool = False
    """The denoiser has C more channels that predict the reverse variance (Nichol & Dhariwal 2021)."""
    loss: Literal["mse", "mse_vb", "min_snr", "min_snr_vb", "l1"] = "mse"
    """Squared error of the prediction; min_snr weights it (Hang et al. 2023); _vb adds the term for a learned
    variance. l1 is the absolute error, which the public code of Video Diffusion Models trains by."""
    min_snr_gamma: float = Field(default=5.0, gt=0.0)
    """Where min_snr stops the weight from growing with the signal-to-noise ratio."""
    time_sampling: TimeSampling = "uniform"
    """Distribution of training times over the path, before any shift (Esser et al. 2024, section 3.1): uniform,
    logit_normal, mode (with heavy tails) or cosmap."""
    logit_mean: float = 0.0
    """Mean m of the logit-normal; above 0 favours noisy times."""
    logit_std: float = Field(default=1.0, gt=0.0)
    """Standard deviation s of the logit-normal."""
    mode_scale: float = Field(default=1.29, ge=-1.0, le=MODE_SCALE_MAX)
    """Scale s of mode sampling: above 0 favours the middle of the path, below 0 its ends; 0 is uniform."""
    stratified: bool = False
    """Spread the times of a batch evenly over the distribution (Kingma et al. 2021, appendix I.1): less variance."""
    time_shift: float = Field(default=1.0, gt=0.0)
    """Rectified flow only: t' = s t / (1 + (s - 1) t) in training and sampling; above 1 suits larger videos."""
    shift_base: int | None = Field(default=None, ge=1)
    """Latent positions T x H x W of the clips that time_shift is meant for. Clips of m positions are shifted by
    sqrt(m / shift_base) more, so that they are as uncertain at every time (Esser et al. 2024, eq. 23); none = all are
    shifted alike."""

    @model_validator(mode="after")
    def _check(self) -> DiffusionConfig:
        flow = self.schedule == "flow"
        self._check_edm()
        if self.schedule == "cosine_logsnr" and (
            self.zero_terminal_snr or self.learned_variance or self.num_steps != 1000
        ):
            raise ValueError(
                "the schedule cosine_logsnr is continuous, down to a log SNR of -20: leave zero_terminal_snr, "
                "learned_variance and num_steps as they are by default"
            )
        if flow and self.zero_terminal_snr:
            raise ValueError("zero_terminal_snr is for linear and cosine: rectified flow ends in pure noise by itself")
        if flow and self.num_steps != 1000:
            raise ValueError("rectified flow is continuous: leave num_steps at 1000 and set the sampler's steps")
        if self.prediction == "noise" and (flow or self.zero_terminal_snr):
            what = "rectified flow" if flow else "zero-terminal SNR"
            raise ValueError(
                f"{what} starts from pure noise, where predicting noise says nothing: use v, sample or flow"
            )
        if (self.time_shift != 1.0 or self.shift_base is not None) and not flow:
            raise ValueError(
                "time_shift and shift_base are for the flow schedule: leave them out, or use zero_terminal_snr"
            )
        if self.learned_variance and flow:
            raise ValueError(
                "a learned variance needs a discrete schedule: use linear or cosine, or learned_variance=false"
            )
        if self.learned_variance != self.loss.endswith("_vb"):
            loss = "mse_vb or min_snr_vb" if self.learned_variance else "mse, min_snr or l1"
            raise ValueError(f"learned_variance={str(self.learned_variance).lower()} goes with the loss {loss}")
        if self.time_sampling != "logit_normal" and (self.logit_mean, self.logit_std) != (0.0, 1.0):
            raise ValueError("logit_mean and logit_std are for time_sampling=logit_normal")
        if self.time_sampling != "mode" and self.mode_scale != 1.29:
            raise ValueError("mode_scale is for time_sampling=mode")
        if self.max_beta != 0.999 and self.schedule != "cosine":
            raise ValueError("max_beta is for the cosine schedule")
        if self.betas is not None:
            if self.schedule not in ("linear", "scaled_linear"):
                raise ValueError(f"betas are for linear and scaled_linear, not for {self.schedule}: leave them out")
            if not 0 < self.betas[0] <= self.betas[1] < 1:
                raise ValueError(f"betas: expected two rising numbers between 0 and 1, got {list(self.betas)}")
        elif self.schedule == "linear":
            linear_betas(self.num_steps)
        return self

    def _check_edm(self) -> None:
        edm = self.schedule == "edm"
        if self.edm is not None and not edm:
            raise ValueError(f"edm holds the noise levels of the schedule edm, not of {self.schedule}: leave it out")
        if edm and (self.zero_terminal_snr or self.learned_variance or self.num_steps != 1000):
            raise ValueError(
                "the schedule edm is continuous, and its noise levels are in edm: leave zero_terminal_snr, "
                "learned_variance and num_steps as they are by default"
            )
        if edm and self.time_sampling != "uniform":
            raise ValueError("the schedule edm draws log-normal noise levels (edm.p_mean, edm.p_std): no time_sampling")

    @property
    def sigma_data(self) -> float:
        """The data's standard deviation that the prediction edm counts with."""
        return 1.0 if self.edm is None else self.edm.sigma_data


SCALED_LINEAR = (0.00085, 0.012)
"""First and last beta of Stable Diffusion."""


def build_path(config: DiffusionConfig) -> NoisePath:
    """The noise path that a config names."""
    if config.schedule == "flow":
        return FlowPath(config.time_shift)
    if config.schedule == "edm":
        return EdmPath(config.edm)
    if config.schedule == "cosine_logsnr":
        return LogSnrPath()
    if config.schedule == "scaled_linear" or config.betas is not None:
        ends = config.betas or SCALED_LINEAR
        betas = spaced_betas(config.num_steps, *ends, roots=config.schedule == "scaled_linear")
    else:
        linear = config.schedule == "linear"
        betas = linear_betas(config.num_steps) if linear else cosine_betas(config.num_steps, config.max_beta)
    return DiscretePath(betas, zero_terminal_snr=config.zero_terminal_snr)


class Diffusion:
    """Owns alpha and sigma, the prediction type and its conversions, the loss and sampling; holds no weights.

    Latents z, z0, noise are (B, C, T, H, W); times are (B,) in the path's units.
    """

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config
        self.path = build_path(config)

    # --- path and conversions

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at times t (B,), shaped to broadcast against `like`, in its device and (float32+) dtype.

        Those of frames, t (B, T), are shaped for latents (B, C, T, H, W).
        """
        alpha, sigma = self.path.alpha_sigma(t)
        shape = (-1, *[1] * (like.ndim - 1)) if t.ndim < 2 else (len(t), 1, t.shape[1], 1, 1)
        dtype = torch.promote_types(like.dtype, torch.float32)
        return (alpha.to(dtype).to(like.device).reshape(shape), sigma.to(dtype).to(like.device).reshape(shape))

    def q_sample(self, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """z_t = alpha_t z0 + sigma_t noise."""
        alpha, sigma = self.coefficients(t, z0)
        return alpha * z0 + sigma * noise

    def target(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the denoiser should predict for this sample and noise."""
        alpha, sigma = self.coefficients(t, z0)
        config = self.config
        return conversions.from_sample_and_noise(z0, noise, alpha, sigma, config.prediction, config.sigma_data)

    def to_sample(self, prediction: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """The clean sample that the denoiser's prediction stands for."""
        return self.convert(prediction, z_t, t, "sample")

    def to_noise(self, prediction: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """The noise that the denoiser's prediction stands for."""
        return self.convert(prediction, z_t, t, "noise")

    def convert(self, prediction: Tensor, z_t: Tensor, t: Tensor, to: Prediction) -> Tensor:
        """The denoiser's prediction as a prediction of another type."""
        alpha, sigma = self.coefficients(t, z_t)
        config = self.config
        return conversions.convert(prediction, z_t, alpha, sigma, config.prediction, to, config.sigma_data)

    def snr(self, t: Tensor) -> Tensor:
        """alpha^2 / sigma^2 at times t: float64, on the CPU."""
        alpha, sigma = self.path.alpha_sigma(t)
        return (alpha / sigma).square()

    def split(self, output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
        """The denoiser's output as prediction and raw learned variance (None where it is not learned).

        Raises:
            InputError: where the output has not C channels, or 2C for a learned variance.
        """
        expected = 2 * channels if self.config.learned_variance else channels
        if output.shape[1] != expected:
            raise InputError(
                f"expected {expected} output channels from the denoiser (learned_variance="
                f"{str(self.config.learned_variance).lower()}), got {output.shape[1]}"
            )
        return output[:, :channels], (output[:, channels:] if self.config.learned_variance else None)

    # --- training

    def shifted_path(self, positions: int | None) -> NoisePath:
        """The path with its times shifted for clips of that many latent positions T x H x W.

        Raises:
            InputError: where the shift depends on the positions and they are not known.
        """
        base = self.config.shift_base
        if base is None:
            return self.path
        if positions is None:
            raise InputError("shift_base: the shift depends on the size of the latents, which was not given")
        return FlowPath(self.config.time_shift * resolution_shift(positions, base))

    def draw_times(
        self, batch: int, generator: torch.Generator | None = None, *, positions: int | None = None
    ) -> Tensor:
        """Training times (B,), float32 on the CPU, from the configured distribution.

        `positions` is T x H x W of the latents; needed where the shift depends on it (`shift_base`).
        """
        config = self.config
        if config.stratified:
            start = torch.rand((), generator=generator, dtype=torch.float64)
            u = (start + torch.arange(batch, dtype=torch.float64) / batch) % 1.0  # one draw, `batch` even steps apart
        else:
            u = torch.rand(batch, generator=generator, dtype=torch.float64)
        if config.time_sampling == "logit_normal":
            u = logit_normal(u, config.logit_mean, config.logit_std)
        elif config.time_sampling == "mode":
            u = mode(u, config.mode_scale)
        elif config.time_sampling == "cosmap":
            u = cosmap(u)
        return self.shifted_path(positions).warp(u).float()

    def loss_weight(self, t: Tensor) -> Tensor:
        """The weight of the squared error at times t, float64 on the CPU: 1, or that of min-SNR-gamma.

        Hang et al. 2023 weight the error of the clean sample by min(SNR, gamma); for another prediction type that is
        min(SNR, gamma) * (d sample / d prediction)^2: over SNR for noise, over SNR + 1 for v. It is 0 at zero SNR.
        """
        if not self.config.loss.startswith("min_snr"):
            return torch.ones(t.shape, dtype=torch.float64)
        gain = conversions.sample_gain(
            *self.path.alpha_sigma(t), self.config.prediction, sigma_data=self.config.sigma_data
        )
        return self.snr(t).clamp(max=self.config.min_snr_gamma) * gain.square()

    def loss(
        self,
        denoiser: DenoiserLike,
        z0: Tensor,
        conditions: object,
        *,
        generator: torch.Generator | None = None,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Noise z0, run the denoiser, compare.

        Args:
            denoiser: called once, with z_t (B, C, T, H, W), t (B,) and the conditions.
            z0: clean latents, (B, C, T, H, W).
            conditions: handed to the denoiser as they are.
            generator: on the CPU; the same draws on every device.
            t, noise: given in place of draws.
            weight: (B, 1, T, H, W) of each latent in the squared error; none = all alike.

        Returns:
            "loss" (B,) to be averaged, its parts "mse" (unweighted), "l1" where that is the loss, and, for a learned
            variance, "vb" in bits per element, and the times "t"; all (B,) on the device of z0.
        """
        z0 = z0.to(torch.promote_types(z0.dtype, torch.float32))
        t = self.draw_times(z0.shape[0], generator, positions=z0[0, 0].numel()) if t is None else t
        if noise is None:
            noise = torch.randn(z0.shape, generator=generator, dtype=z0.dtype).to(z0.device)
        z_t = self.q_sample(z0, t, noise)
        output = denoiser(z_t, t.to(z0.device, torch.float32), conditions).to(z0.dtype)
        prediction, variance = self.split(output, z0.shape[1])
        difference = prediction - self.target(z0, noise, t)
        parts = {"mse": weighted_mean(difference.square(), weight), "t": t.to(z0.device)}
        error = parts["mse"]
        if self.config.loss == "l1":
            error = parts["l1"] = weighted_mean(difference.abs(), weight)
        loss = error * self.loss_weight(t).to(error.dtype).to(error.device)
        if variance is not None:
            assert isinstance(self.path, DiscretePath)
            # The bound trains the variance only: the mean is left to the squared error (section 3.1).
            sample = self.to_sample(prediction.detach(), z_t, t)
            parts["vb"] = variational.bound(self.path, z0, z_t, sample, variance, t)
            loss = loss + parts["vb"]
        return {"loss": loss, **parts}

    @torch.no_grad()
    def loss_at(
        self,
        denoiser: DenoiserLike,
        z0: Tensor,
        conditions: object,
        times: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        generator: torch.Generator | None = None,
        weight: Tensor | None = None,
    ) -> dict[float, float]:
        """The mean loss of a batch at fixed fractions of time (0 clean, 1 noise), for held-out curves.

        The same noise is used at every time, so that the same generator state compares two models like for like.
        """
        noise = torch.randn(z0.shape, generator=generator).to(z0.device)
        result = {}
        for fraction in times:
            if not 0.0 <= fraction <= 1.0:
                raise InputError(f"expected times as fractions from 0 to 1, got {fraction}")
            t = self.path.at_fraction(torch.full((z0.shape[0],), fraction)).float()
            loss = self.loss(denoiser, z0, conditions, t=t, noise=noise, weight=weight)["loss"]
            result[fraction] = float(loss.mean())
        return result

    # --- sampling

    def times(self, sampler: SamplerConfig, *, positions: int | None = None) -> Tensor:
        """The (steps + 1,) falling times of a sampler, float64; the last is the clean sample's.

        `positions` is T x H x W of the latents; needed where the shift depends on it (`shift_base`).
        """
        spacing = sampler.spacing
        kind = SAMPLERS.get(sampler.name)
        if spacing == "auto" and (kind.few_steps or isinstance(self.path, DiscretePath)):
            spacing = kind.spacing or spacing
        path = self.shifted_path(positions)
        return shifted_times(path, path.times(sampler.steps, spacing), sampler.shift or 1.0)

    @torch.no_grad()
    def sample(
        self,
        denoiser: DenoiserLike,
        noise: Tensor | Sequence[int],
        conditions: Any,
        *,
        sampler: SamplerConfig | None = None,
        methods: Sequence[Method] = (),
        generator: torch.Generator | None = None,
        callback: Callback | None = None,
        device: torch.device | str = "cpu",
        codec: Codec | None = None,
        positions: int | None = None,
    ) -> Tensor:
        """Clean latents (B, C, T, H, W) from noise.

        Args:
            denoiser: z, t (B,), conditions, and options where a method has some -> prediction.
            noise: unit Gaussian noise to start from, or the shape (B, C, T, H, W) to draw.
            conditions: one row per sample.
            sampler: 50 steps of DDIM by default.
            methods: what wraps the run (`kinolab.contracts.method`): guidance, a step cache, ...
            generator: on the CPU; the same draws on every device.
            callback: called as callback(step, steps, z, denoised) after each step, counted from 1.
            device: where noise that is drawn here goes.
            codec: what stands between the latents and pixels, for methods that work on frames.
            positions: T x H x W of the clip that the latents are a part of, which a shift may depend on (`shift_base`);
                none = they are all of it.

        Raises:
            InputError: for steps or spacing that this diffusion has not, and for a method that can't wrap this run.
            NonFiniteError: where the denoiser gives NaN or infinity.
        """
        sampler = sampler if sampler is not None else SamplerConfig()
        if not isinstance(noise, Tensor):
            noise = torch.randn(tuple(noise), generator=generator).to(device)
        times = self.times(sampler, positions=noise[0, 0].numel() if positions is None else positions)
        z = noise.to(torch.promote_types(noise.dtype, torch.float32))
        shape = tuple(z.shape)
        run = Run(denoiser, conditions, shape, sampler.steps, self.path, methods, 0, generator, times, codec)
        sampled = sample_run(self, run, z, sampler, callback)
        clean_alpha = self.path.scalars(self.path.clean_time)[0]  # 1 / sigma_data for EDM
        return sampled if clean_alpha == 1.0 else sampled / clean_alpha


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """The mean (B,) of values (B, C, T, H, W), each by its weight (B, 1, T, H, W); none = all alike."""
    if weight is None:
        return values.flatten(1).mean(1)
    weights = weight.to(values).expand_as(values).flatten(1)
    return (values.flatten(1) * weights).sum(1) / weights.sum(1)
