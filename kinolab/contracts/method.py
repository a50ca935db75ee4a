"""A method wraps a sampling run: guidance, a step cache, attention across frames, steering to a given part.

Six places are wrapped, from inside to outside:

    network    the calls of the denoiser, of one or more branches: which features, which frames, which branches run
    branches   the prediction that the sampler's estimate is made of: asks for several branches and mixes them
    estimate   the estimate of the clean sample, for any sampler
    corrected  what becomes of the noisy latents between two steps, by the whole estimate
    walked     the walk from one noise level to another: which times, which frames, in how many walks
    started    the noise that the run begins with

so that methods of different places may be listed in any order; within one place the first one listed is innermost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from kinolab.config import Config as BaseConfig
from kinolab.contracts.options import AS_TRAINED, ForwardOptions
from kinolab.errors import InputError


@dataclass(frozen=True)
class Denoised:
    """The estimate of the clean sample, and the raw learned variance in about [-1, 1] where there is one.

    noise: the noise of the step, where a method changed the sample and leaves the noise as it was; none = what sample
    and z imply. A step then goes on from alpha_t sample + sigma_t noise in place of z.
    """

    sample: Tensor
    variance: Tensor | None = None
    noise: Tensor | None = None


Denoise = Callable[[Tensor, float], Denoised]
"""denoise(z, t): z (B, C, T, H, W) noisy at the one time t of all samples, in the path's units."""


Walk = Callable[[Tensor, Tensor], Tensor]
"""walk(z, times): z (B, C, T, H, W) noisy at times[0] -> z at times[-1], by the run's sampler and all that wraps the
estimate. times fall, float64; those of the run or a part of them, and T may be a part of its frames."""


class Codec(Protocol):
    """What stands between latents and pixels, for methods that work on frames."""

    @property
    def temporal_ratio(self) -> int:
        """Frames that one latent frame stands for."""
        ...

    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> clean latents (B, C, T', H', W'), the mean of their distribution."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Clean latents (B, C, T', H', W') -> (B, 3, T, H, W), not clamped."""
        ...

    @property
    def spatial_ratio(self) -> int:
        """Pixels of a frame's side for one latent."""
        ...


Correct = Callable[[Tensor, float], Tensor]
"""correct(z, s): z (B, C, T, H, W) as a step left it at time s -> what the next step begins with, at the same time."""


@dataclass(frozen=True)
class Call:
    """What is asked of the denoiser at one point of a run.

    z: (B, C, T, H, W), noisy at time t. branches: conditions of B samples by the branch's name; the first is the one
    whose learned variance counts. batched: whether all branches run as one batch, or one after the other.
    """

    z: Tensor
    t: float
    branches: Mapping[str, Any]
    batched: bool = True
    options: ForwardOptions = AS_TRAINED


Predict = Callable[[Call], dict[str, Tensor]]
"""predict(call) -> the denoiser's output (B, C or 2C, T, H, W) for each of the call's branches, in the type of z."""

CONDITIONAL = "conditional"
"""The branch that a run asks for; methods add others, and answer under this name."""


class Path(Protocol):
    """What methods use of a noise path."""

    def scalars(self, t: float) -> tuple[float, float]:
        """alpha and sigma at time t."""
        ...

    def fraction(self, t: float) -> float:
        """Time t as a fraction, 0 clean and 1 noise."""
        ...


@dataclass
class Run:
    """One sampling run as its methods see it; made anew for each, as is all that methods remember of it.

    shape: (B, C, T, H, W) of the latents. step: steps done so far, as the sampler counts them (heun calls the denoiser
    twice in one). generator: the run's own draws, on the CPU. times: (steps + 1,) that the sampler comes by, falling,
    float64. codec: the stage's way to pixels; none = there is none. frames: those of the clip that the walk at work is
    on, set by a method that walks over a part of them; none = all, in order. planned: steps of all walks together, set
    by a method that walks more than once, so that the progress that is told is `taken` of them, steps over all walks;
    none = it is `step` of `steps`. backwards: whether it goes from clean to noise (inversion), where no estimate is to
    be edited.
    """

    denoiser: Any
    conditions: Any
    shape: tuple[int, ...]
    steps: int
    path: Path
    methods: Sequence[Method] = ()
    step: int = field(default=0)
    generator: torch.Generator | None = None
    times: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    codec: Codec | None = None
    frames: tuple[int, ...] | None = None
    planned: int | None = None
    taken: int = 0
    backwards: bool = False

    def noise(self, z: Tensor) -> Tensor:
        """Unit Gaussian noise like z, drawn on the CPU so that every device gets the same."""
        return torch.randn(z.shape, generator=self.generator, dtype=z.dtype).to(z.device)

    @property
    def channels(self) -> int:
        """C; what a denoiser gives behind them is a learned variance."""
        return self.shape[1]


Decision = Literal["start", "reach", "smoothing"]
DECISIONS: dict[Decision, str] = {
    "start": "with which noise the run begins",
    "reach": "which frames are read",
    "smoothing": "when frames are smoothed",
}
"""What one method of a run alone may decide, and what an error calls it."""


class Method:
    """Base of the methods: a config, and wrappers made for one run. What a run remembers is kept in the wrappers.

    One object may wrap any number of runs, at once too.
    """

    Config: ClassVar[type[BaseConfig]]
    """The class of the method's config."""
    option: ClassVar[str | None] = None
    """The field of a request that asks for it; none = a request names it under `methods`."""
    follows_gradient: bool = False
    """Whether it differentiates the denoiser by its input."""
    corrects: bool = False
    """Whether it changes the noisy latents between two steps, which not every sampler allows."""
    decides: tuple[Decision, ...] = ()
    """What it decides, so that no other method of the run may."""
    keeps_noise: bool = False
    """Whether its estimates bring their noise (`Denoised.noise`), which not every sampler goes on with."""
    of_students: bool = True
    """Whether a student of few steps has it from its teacher too."""
    whole_clips: bool = False
    """Whether it holds something of all frames, so that no other method may walk over a part of them (`Run.frames`)."""

    def __init__(self, config: Any = None) -> None:
        self.config = self.Config() if config is None else config

    @property
    def files(self) -> tuple[FilePath, ...]:
        """The files that it reads, which a request's record holds by their hashes."""
        return ()

    def check(self, run: Run) -> None:
        """Raises InputError where the method can't wrap this run, or not beside its other methods."""

    def network(self, inner: Predict, run: Run) -> Predict:
        """Wraps the denoiser's calls."""
        return inner

    def branches(self, inner: Predict, run: Run) -> Predict:
        """Wraps what is asked of the denoiser: answers the branch `CONDITIONAL`, and may ask for more."""
        return inner

    def estimate(self, inner: Denoise, run: Run) -> Denoise:
        """Wraps the estimate of the clean sample."""
        return inner

    def corrected(self, inner: Correct, estimate: Denoise, run: Run) -> Correct:
        """Wraps what becomes of the noisy latents between two steps; `estimate` is that of all methods together."""
        return inner

    def walked(self, inner: Walk, estimate: Denoise, run: Run) -> Walk:
        """Wraps the walk from noise to the clean sample; `estimate` is that of all methods together."""
        return inner

    def started(self, z: Tensor, run: Run) -> Tensor:
        """The noise that the run begins with, of z (B, C, T, H, W): unit Gaussian, drawn from each clip's own seed."""
        return z


def check_methods(run: Run) -> None:
    """Raises InputError where a method is there twice, can't wrap the run, or decides what another one does."""
    kinds = [type(method) for method in run.methods]
    twice = next((kind for kind in kinds if kinds.count(kind) > 1), None)
    if twice is not None:
        raise InputError(f"{twice.__name__} wraps this run twice: leave one of them out")
    for method in run.methods:
        method.check(run)
    for decision, said in DECISIONS.items():
        deciding = [type(method).__name__ for method in run.methods if decision in method.decides]
        if len(deciding) > 1:
            raise InputError(f"{' and '.join(deciding)} all say {said}: leave all but one of them out")
