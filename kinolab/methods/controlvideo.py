"""ControlVideo (Zhang et al. 2023, arXiv:2305.13077): a video from an image model and control maps, without training.

Four things keep the frames of an image model together, all at once:

1. every frame begins with the same noise (section 4.1);
2. every frame's self-attention reads all frames ("fully cross-frame attention", section 3.2);
3. in a few steps the clean estimate is smoothed, every other frame from its neighbours (`smoother`, section 3.3);
4. a long clip goes by key frames and what lies between them (`hierarchical`, section 3.4).

The control maps are a condition of the model and no matter of this file: they are told frame by frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from kinolab.config import Config as BaseConfig
from kinolab.contracts.method import Denoise, Method, Predict, Run
from kinolab.errors import InputError
from kinolab.methods.hierarchical import Hierarchical, HierarchicalConfig
from kinolab.methods.noise_policy import NoiseConfig, NoisePolicy
from kinolab.methods.smoother import Smoother, SmootherConfig


class ControlVideoConfig(BaseConfig):
    """What keeps the frames together; the defaults are the paper's."""

    same_noise: bool = True
    """Every frame begins with the noise of the first one."""
    smoother: SmootherConfig | None = SmootherConfig()
    """When and by what frames are smoothed; none = never."""
    long: HierarchicalConfig = HierarchicalConfig()
    """Up to which length all frames read all, and how longer clips are cut."""


class ControlVideo(Method):
    """An image model's frames made a video."""

    Config: ClassVar[type[BaseConfig]] = ControlVideoConfig
    whole_clips = True
    config: ControlVideoConfig

    def __init__(self, config: ControlVideoConfig | None = None) -> None:
        super().__init__(config)
        self.hierarchical = Hierarchical(self.config.long)
        self.smoother = Smoother(self.config.smoother or SmootherConfig(steps=()))
        self.noise = NoisePolicy(NoiseConfig(kind="same" if self.config.same_noise else "independent"))
        start = self.noise.decides if self.config.same_noise else ()
        self.decides = (*start, *self.hierarchical.decides, *self.smoother.decides)
        self.keeps_noise = self.smoother.keeps_noise

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of the smoother."""
        return self.smoother.files

    def check(self, run: Run) -> None:
        """Raises InputError where one of its parts can't wrap the run; says which, and of what."""
        try:
            self.hierarchical.check(run)
            self.smoother.check(run)
        except InputError as error:
            text = str(error)
            said = f".{text}" if text.startswith("smoother") else f": {text.removeprefix('hierarchical: ')}"
            raise InputError(f"controlvideo{said}") from None

    def started(self, z: Tensor, run: Run) -> Tensor:
        """The noise of each clip's first frame in all frames: z (B, C, T, H, W)."""
        return self.noise.started(z, run)

    def network(self, inner: Predict, run: Run) -> Predict:
        """Every frame reads all, or by key frames."""
        return self.hierarchical.network(inner, run)

    def estimate(self, inner: Denoise, run: Run) -> Denoise:
        """The estimate smoothed in some steps."""
        return self.smoother.estimate(inner, run)
