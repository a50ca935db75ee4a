"""One run of sampling: the denoiser, wrapped by the run's methods from inside to outside, walked by its sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinolab.contracts.method import (
    CONDITIONAL,
    Call,
    Correct,
    Denoise,
    Denoised,
    Predict,
    Run,
    Walk,
    check_methods,
)
from kinolab.contracts.options import AS_TRAINED
from kinolab.diffusion.samplers import SAMPLERS, Callback, SamplerConfig
from kinolab.errors import InputError
from kinolab.runtime.precision import NonFiniteError

if TYPE_CHECKING:
    from kinolab.diffusion.diffusion import Diffusion

DenoiserLike = Callable[..., Tensor]
"""denoiser(z (B, C, T, H, W), t (B,), conditions, options if the run has some) -> prediction, (B, C or 2C, T, H, W)."""


def sample_run(diffusion: Diffusion, run: Run, z: Tensor, sampler: SamplerConfig, callback: Callback | None) -> Tensor:
    """z (B, C, T, H, W), unit Gaussian noise in float32 or float64 -> z at the last of the run's times.

    Raises:
        InputError: for a method that can't wrap this run.
        NonFiniteError: where the denoiser gives NaN or infinity.
    """
    check_methods(run)
    correcting = next((type(method).__name__ for method in run.methods if method.corrects), None)
    if correcting is not None and not SAMPLERS.get(sampler.name).corrected:
        able = ", ".join(name for name in SAMPLERS if SAMPLERS.get(name).corrected)
        raise InputError(f"{correcting} changes z between steps, which {sampler.name} does not allow: use {able}")
    keeping = next((type(method).__name__ for method in run.methods if method.keeps_noise), None)
    if keeping is not None and not SAMPLERS.get(sampler.name).keeps_noise:
        able = ", ".join(name for name in SAMPLERS if SAMPLERS.get(name).keeps_noise)
        raise InputError(f"{keeping} changes the estimate and not its noise, which {sampler.name} can't: use {able}")
    estimate = wrapped_estimate(diffusion, run)
    correct: Correct = _unchanged
    for method in run.methods:
        correct = method.corrected(correct, estimate, run)
    last = float(run.times[-1])

    def walk(z: Tensor, times: Tensor) -> Tensor:
        before = int((run.times > times[0]).sum())  # steps of the whole run that lie before this walk

        def after_step(step: int, steps: int, z: Tensor, denoised: Tensor) -> Tensor | None:
            run.step, run.taken = before + step, run.taken + 1
            if callback is not None:
                done, total = (run.step, run.steps) if run.planned is None else (run.taken, run.planned)
                callback(done, total, z, denoised)
            s = float(times[step])
            return correct(z, s) if correcting is not None and s != last else None

        sample = SAMPLERS.get(sampler.name).sample
        return sample(
            estimate, z, times, path=diffusion.path, config=sampler, generator=run.generator, callback=after_step
        )

    whole: Walk = walk
    for method in run.methods:
        whole = method.walked(whole, estimate, run)
    for method in run.methods:
        z = method.started(z, run)
    return whole(z, run.times)


def wrapped_estimate(diffusion: Diffusion, run: Run) -> Denoise:
    """The estimate of the clean sample, with all that the run's methods make of it."""
    predict = _of_frames(calls(run.denoiser), run)
    for method in run.methods:
        predict = method.network(predict, run)
    for method in run.methods:
        predict = method.branches(predict, run)

    def denoise(z: Tensor, t: float) -> Denoised:
        output = predict(Call(z, t, {CONDITIONAL: run.conditions}))[CONDITIONAL]
        prediction, variance = diffusion.split(output, z.shape[1])
        x = diffusion.to_sample(prediction, z, torch.full((z.shape[0],), t, dtype=torch.float64))
        if not torch.isfinite(x).all():
            raise NonFiniteError(
                f"the denoiser gave NaN or infinity at step {int((run.times >= t).sum())} of {run.steps} (t = {t:g}): "
                "try precision float32, or check that the weights themselves are finite"
            )
        return Denoised(x, variance)

    estimate: Denoise = denoise
    for method in run.methods:
        estimate = method.estimate(estimate, run)
    return estimate


def _of_frames(inner: Predict, run: Run) -> Predict:
    """The same calls, in which the branches are told of the frames that the walk at work is on."""

    def predict(call: Call) -> dict[str, Tensor]:
        if run.frames is None:
            return inner(call)
        told = {name: branch.at_frames(run.frames) for name, branch in call.branches.items()}
        return inner(replace(call, branches=told))

    return predict


def _unchanged(z: Tensor, s: float) -> Tensor:
    return z


def calls(denoiser: DenoiserLike) -> Predict:
    """The innermost prediction: the denoiser called with its branches' rows as one batch, or branch by branch."""

    def predict(call: Call) -> dict[str, Tensor]:
        groups = [tuple(call.branches)] if call.batched else [(name,) for name in call.branches]
        found: dict[str, Tensor] = {}
        for names in groups:
            rows = [call.branches[name] for name in names]
            told = reduce(rows[0].cat, rows) if len(rows) > 1 else rows[0]
            z = torch.cat([call.z] * len(rows)) if len(rows) > 1 else call.z
            t = torch.full((z.shape[0],), call.t, dtype=torch.float32, device=z.device)
            options = call.options.of(names)
            plain = options == AS_TRAINED
            output = (denoiser(z, t, told) if plain else denoiser(z, t, told, options)).to(z.dtype)
            found |= dict(zip(names, output.chunk(len(rows)), strict=True))
        return found

    return predict
