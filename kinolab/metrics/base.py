"""What every metric is: it streams over batches, says what it needs and what a good value is, and gives scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from kinolab.config import Config as BaseConfig
from kinolab.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from kinolab.metrics.extractors.base import Extractor
    from kinolab.metrics.weights import LpipsConfig

LEVEL = 0.95
"""The share of intervals that are to hold the true value."""

Better = Literal["higher", "lower", "one"]
"""What a good value is: higher, lower, or near one."""
Need = Literal["pairs", "clips", "sets", "captions", "flow", "grid", "chunks"]
"""What a metric looks at: clips with their originals, clips alone, features of two sets, a caption of each clip,
optical flow, the spatial ratio of the decoder, reconstructions chunk by chunk."""
Role = Literal["video", "image", "classifier", "text", "perceptual"]
"""The field of a protocol that names the weights of a metric."""


@dataclass(frozen=True)
class Interval:
    """Where a score lies, seen from the samples it was computed from.

    method: how it was found (wilson, bootstrap, jackknife, normal); level: the share of such intervals that hold the
    true value.
    """

    low: float
    high: float
    method: str
    level: float = LEVEL


@dataclass(frozen=True)
class MetricValue:
    """A score.

    value: the score itself, in the unit its metric states.
    count: how many samples it was computed from; the protocol says what a sample is.
    protocol: all that must be equal for two values to be comparable, as plain numbers and strings.
    interval: none where the samples are too few or the metric has none.
    """

    value: float
    count: int
    protocol: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    interval: Interval | None = None


@dataclass(frozen=True)
class Shown:
    """What a metric is shown at a time.

    video, original: clips (B, 3, T, H, W) in [-1, 1], measured and true; captions: of each clip.
    chunked, borders, whole: the reconstruction chunk by chunk, the first frame of every chunk but the first, and the
    reconstruction in one piece from the same latents.
    features, real_features: by role, (N, D): of what is measured and of what is true.
    """

    video: Tensor | None = None
    original: Tensor | None = None
    captions: Sequence[str] = ()
    chunked: Tensor | None = None
    borders: Sequence[int] = ()
    whole: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    real_features: Mapping[str, Tensor] = field(default_factory=dict)


class NotOnSuchClipsError(InputError):
    """Raised by `Metric.build`: the metric can't be measured on clips of this kind, and is left out."""


class NoSettings(BaseConfig):
    """Of a metric without settings."""


@dataclass(frozen=True)
class Setup:
    """What a metric is built from: a protocol's fields, and what the evaluation knows of the clips.

    minimum, seed: of the protocol. frames, size: of a clip; fps: of generated clips. spatial_ratio: of the decoder.
    networks: by role. text, perceptual: where those weights are. settings: the metric's own `Config`.
    """

    minimum: int
    seed: int
    frames: int
    size: tuple[int, int]
    fps: float | None = None
    spatial_ratio: int | None = None
    networks: Mapping[str, Extractor] = field(default_factory=dict)
    text: Path | None = None
    perceptual: LpipsConfig | None = None
    settings: Any = None

    def states(self, role: Role) -> Mapping[str, str | int | float | bool]:
        """What a score states of the network of a role."""
        return self.networks[role].spec.protocol()

    def unit(self, role: Role) -> int:
        """Features of one clip: its frames, or one. Those of a clip depend on each other, so that they are left out
        together when noise is estimated."""
        return self.frames if self.states(role)["unit"] == "frame" else 1


class Metric:
    """Base of all metrics: `update` with batches, then `compute`.

    A new one is a class that has `update` (in the form that its `needs` name) and `compute`, says the class variables
    below, and has a line in `kinolab.metrics.METRICS`, or joins it by `METRICS.register(NAME, KIND OF PROTOCOL)`.
    """

    better: ClassVar[Better | None] = None
    """What a good value is; none = neither."""
    assumed: ClassVar[Better | None] = None
    """What counts as good where the sensitivity report has to take a side; none = `better`."""
    digits: ClassVar[int] = 4
    """Decimals that a value is shown with."""
    needs: ClassVar[frozenset[Need]] = frozenset({"clips"})
    """What it looks at."""
    weights: ClassVar[Role | None] = None
    """The field of the protocol that names its network."""
    also: ClassVar[tuple[str, ...]] = ()
    """Scores that are given along with it, without being asked for."""
    derived: ClassVar[Mapping[str, str]] = {}
    """Its scores that follow from another one, and why: the sensitivity report leaves them out."""
    Config: ClassVar[type[BaseConfig]] = NoSettings
    """Its settings, as a protocol has them under `settings`."""

    @classmethod
    def build(cls, setup: Setup) -> Self:
        """One for a protocol. Raises NotOnSuchClipsError where it can't be measured: it is then left out."""
        return cls()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Add a batch: (original, video) of pairs, (video) of clips, (video, captions), (features, real) of sets."""
        raise NotImplementedError

    def see(self, shown: Shown) -> None:
        """Take from a batch what it needs."""
        if "sets" in self.needs:
            assert self.weights is not None, "features of sets are of a network"
            self.update(shown.real_features[self.weights], True)
            self.update(shown.features[self.weights], False)
        elif "pairs" in self.needs:
            self.update(shown.original, shown.video)
        elif "captions" in self.needs:
            self.update(shown.video, shown.captions)
        else:
            self.update(shown.video)

    def compute(self) -> Any:
        """The score of everything so far."""
        raise NotImplementedError

    def score(self, name: str) -> MetricValue:
        """The score of a name, of a class that gives several. Raises InputError where it can't be given."""
        value: MetricValue = self.compute()
        return value

    @property
    def per_clip(self) -> list[float]:
        """The score of every clip so far, where clips have scores of their own."""
        return []

    def notes(self) -> list[str]:
        """What a person should know beside the value."""
        return []
