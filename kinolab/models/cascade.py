"""What each stage of a cascade is asked for: the request's own words, and the clip that the stage before made.

A stage may make more frames than it is given (temporal super-resolution), larger ones (spatial), or both; what it is
given is what its condition `low_resolution` was trained on (`LowResolutionConfig.input_shape`). So the frames of a
video count for the last stage, and those of every other follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import lcm
from typing import Any, Protocol

from torch import Tensor
from torch.nn import functional as F

from kinolab.conditioning import GivenPart
from kinolab.conditioning.low_resolution import LowResolutionConfig
from kinolab.config import Config, load_config
from kinolab.contracts.request import Request
from kinolab.contracts.sampling import guidance_values, sampler_values
from kinolab.denoisers.base import DenoiserSpec
from kinolab.diffusion import SamplerConfig
from kinolab.errors import InputError
from kinolab.methods import GuidanceConfig
from kinolab.models.stage import Stage
from kinolab.models.stage_config import LaterStageConfig, StageConfig
from kinolab.runtime.precision import autocast
from kinolab.tasks import encode_given

REFINED = "low_resolution"
"""The condition by which a stage is told what the one before it made."""


BASE = "base"
"""What the first stage is called, which has no name of its own."""


class Keeper(Protocol):
    """Keeps what finished stages made, so that a cascade that was cut off goes on from there."""

    def kept(self, stage: str) -> Tensor | None:
        """The clips (B, 3, T, H, W) that a stage made before; none = it is still to be run."""
        ...

    def keep(self, stage: str, clips: Tensor) -> None:
        """Keep what a stage has made."""
        ...


class StageSettings(Config):
    """How a later stage of a cascade is sampled."""

    sampler: SamplerConfig | None = None
    """Sampler and steps; none = the stage's own."""
    guidance: GuidanceConfig | None = None
    """Classifier-free guidance; none = the stage's own."""


def guidable(config: StageConfig, *, words: bool, label: bool) -> bool:
    """Whether a stage has something to be guided by: words (a prompt, a negative one) or a label that it takes."""
    denoiser = config.denoiser
    reads = any(getattr(denoiser, name, 0) for name in ("text_dim", "pooled_dim"))
    return (words and reads) or (label and bool(getattr(denoiser, "num_classes", 0)))


def settled_stages(
    configs: Sequence[LaterStageConfig], asked: Mapping[str, Any] | None, *, words: bool, label: bool
) -> dict[str, StageSettings]:
    """Sampler and guidance of every later stage, by name: what is asked for, and the stage's own for the rest.

    words, label: whether there is a prompt, and a label.

    Raises:
        InputError: for a name that no stage has, or fields or values that don't fit.
    """
    names = [config.name for config in configs]
    for name in asked or {}:
        if name not in names:
            known = f"expected one of {', '.join(names)}" if names else "the model has one stage"
            raise InputError(f"stages.{name}: no later stage of that name; {known}")
    found = {}
    for config in configs:
        told = guidable(config, words=words, label=label)
        own = (asked or {}).get(config.name)
        values = {} if own is None else own.model_dump() if isinstance(own, Config) else dict(own)
        settled = {
            "sampler": sampler_values(config.sampler.model_dump(), values.pop("sampler", None)),
            "guidance": guidance_values(config.guidance.model_dump(), values.pop("guidance", None), told=told),
        }
        found[config.name] = load_config(StageSettings, settled | values, name=f"stages.{config.name}")
    return found


def stage_name(stage: Stage) -> str:
    """What a stage is called."""
    return str(getattr(stage.config, "name", BASE))


def refines(config: StageConfig) -> LowResolutionConfig:
    """How the clips of a stage differ from those that it is given."""
    found = config.conditions.get(REFINED)
    return found if isinstance(found, LowResolutionConfig) else LowResolutionConfig()


def frame_steps(stages: Sequence[Stage]) -> list[int]:
    """Of each stage, how many frames of the videos lie from one of its frames to the next."""
    steps = [1]
    for stage in reversed(stages[1:]):
        steps.insert(0, steps[0] * refines(stage.config).frames_factor)
    return steps


def stage_frames(stages: Sequence[Stage], asked: int | None) -> list[int]:
    """Frames that each stage makes of a video of so many (none = as trained): every n-th of them."""
    frames = asked or stages[-1].config.frames
    return [(frames - 1) // step + 1 for step in frame_steps(stages)]


def frame_rule(stages: Sequence[Stage]) -> int:
    """By how many frames videos differ in length, so that every stage's autoencoder takes its share of them."""
    return lcm(*(n * s.autoencoder.spec.frame_step for n, s in zip(frame_steps(stages), stages, strict=True)))


def check_stages(stages: Sequence[Stage], frames: int | None, size: tuple[int, int] | None) -> None:
    """Check that every stage's autoencoder takes the clips that it makes of a video of so many frames and that size.

    Raises:
        InputError: where one doesn't; names the stage.
    """
    for number, count in enumerate(stage_frames(stages, frames)):
        try:
            stages[number].autoencoder.spec.check(count, *stage_size(stages, number, size))
        except InputError as error:
            if len(stages) == 1:
                raise
            made = f"stage {stage_name(stages[number])} makes {count} of the video's {frames} frames"
            raise InputError(f"{made}: {error}") from None


def untrained(stages: Sequence[Stage], frames: int | None, size: tuple[int, int] | None) -> str | None:
    """What the stages of a cascade make of a video of so many frames and that size, where that is not what they were
    trained on; None where it is, and of stages that were trained on several shapes (`kinolab.data.buckets`)."""
    found = []
    for number, (stage, count) in enumerate(zip(stages, stage_frames(stages, frames), strict=True)):
        own, made = stage.config, stage_size(stages, number, size)
        if own.buckets or (own.frames, tuple(own.size)) == (count, tuple(made)):
            continue
        (height, width), (high, wide) = own.size, made
        there = f"{own.frames} frames of {width}x{height}"
        found.append(f"{stage_name(stage)} was trained on {there}, and makes {count} of {wide}x{high}")
    if not found:
        return None
    last = stages[-1].config
    other = {"frames": frames not in (None, last.frames), "size": size is not None and tuple(size) != tuple(last.size)}
    left = " and ".join(name for name, differs in other.items() if differs)
    return f"stage {'; stage '.join(found)}: a video may do worse there" + (f"; leave {left} out" if left else "")


def takes_words(spec: DenoiserSpec) -> bool:
    """Whether a prompt tells a denoiser anything."""
    return bool(spec.text_dim or spec.pooled_dim)


def stage_requests(
    stages: Sequence[Stage], number: int, requests: Sequence[Request], clips: Tensor | None = None
) -> list[Request]:
    """The requests as stage `number` is asked: at its size, with its own noise, of what it can be told.

    What no stage takes is asked of the first one, which then refuses it.

    Args:
        clips: what the stage before made, (B, 3, T, H, W) in [-1, 1]; none for the first.
    """
    specs, first = [stage.spec for stage in stages], number == 0
    spec = specs[number]
    words = takes_words(spec) or (first and not any(map(takes_words, specs)))
    labels = bool(spec.num_classes) or (first and not any(other.num_classes for other in specs))
    fps = spec.fps or first
    steps, made = frame_steps(stages)[number], stages[-1].config
    found = []
    for row, request in enumerate(requests):
        told = {
            name: value
            for name, value in request.conditions.items()
            if name in spec.ports or (first and not any(name in other.ports for other in specs))
        }
        if clips is not None:
            told[REFINED] = clips[row]
        found.append(
            replace(
                request,
                prompt=request.prompt if words else None,
                negative=request.negative if words else None,
                label=request.label if labels else None,
                fps=request.fps / steps if fps and request.fps is not None else None,
                frames=((request.frames or made.frames) - 1) // steps + 1,
                size=stage_size(stages, number, request.size),
                seed=stage_seed(request.seed, number),
                conditions=told,
            )
        )
    return found


def stage_size(stages: Sequence[Stage], number: int, asked: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width that a stage makes of a video of the size that is asked for: as trained, or in proportion."""
    own, last = stages[number].config.size, stages[-1].config.size
    if asked is None or tuple(asked) == tuple(last):
        return own
    if number == len(stages) - 1:
        return asked
    ratio = stages[number].autoencoder.spec.spatial_ratio
    height, width = (
        max(1, round(side * mine / whole / ratio)) * ratio for side, mine, whole in zip(asked, own, last, strict=True)
    )
    return height, width


def given_part(stages: Sequence[Stage], video: Tensor, mask: Tensor) -> GivenPart:
    """What is given of clips, as the first stage is told it, with that of later ones beside it.

    Every stage is told at its own size. A later stage that was not trained to be given anything sees it in what it
    refines.

    Args:
        video: (B, 3, T, H, W) in [-1, 1], at the size of the last stage's videos.
        mask: (B, 1, T, H, W), 1 = generate.
    """
    size, steps = (video.shape[3], video.shape[4]), frame_steps(stages)
    parts: list[GivenPart | None] = []
    for number, stage in enumerate(stages):
        if number and stage.denoiser.spec.given == "none":
            parts.append(None)
            continue
        own = size if len(stages) == 1 else stage_size(stages, number, size)
        shown, hidden = video[:, :, :: steps[number]], mask[:, :, :: steps[number]]
        shown, hidden = (shown, hidden) if own == size else _resized(shown, hidden, own)
        with autocast(stage.precision, stage.device):
            latents, folded = encode_given(stage.autoencoder, shown, hidden)
        parts.append(GivenPart(latents, folded, shown, hidden))
    first, *later = parts
    assert first is not None
    return replace(first, later=tuple(later))


def _resized(video: Tensor, mask: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A video and its mask at another size; what mixes given and open pixels is open, so these have no influence."""
    frames = video.transpose(1, 2).flatten(0, 1)  # (B * T, 3, H, W)
    shrunk = F.interpolate(frames, size, mode="area").unflatten(0, (len(video), -1)).transpose(1, 2)
    return shrunk, F.adaptive_max_pool3d(mask, (mask.shape[2], *size))


def stage_seed(seed: int, number: int) -> int:
    """The seed of a stage's noise; the first stage has the request's own."""
    return seed if number == 0 else (seed + 1_000_033 * number) % 2**63
