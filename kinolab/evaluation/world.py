"""How well a model does what it is asked, measured on held-out requests of the toy world, from pixels alone.

The requests are the captions of held-out clips, always the same ones. The reader of `kinolab.metrics.world` judges
three videos of each: the one the model generates, the true clip (the reader's own ceiling), and the true clip put
through the autoencoder (what the autoencoder costs, whatever the denoiser does).
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from kinolab import __version__, video
from kinolab.autoencoders.base import AutoencoderSpec
from kinolab.data.toy import WorldSource, WorldSourceConfig
from kinolab.data.world import EVENT_SECONDS, WorldClip, WorldConfig, make_clip, parse_caption
from kinolab.diffusion import GuidanceConfig, SamplerConfig
from kinolab.errors import InputError
from kinolab.generate import model_hash
from kinolab.layers.precision import autocast, resolve
from kinolab.metrics.base import MetricValue
from kinolab.metrics.reconstruction import Psnr, Ssim
from kinolab.metrics.world import WorldReading, check, read_world, roughness
from kinolab.model import ModelConfig, Request, VideoModel
from kinolab.world.motion import direction_holds, motion_holds
from kinolab.world.request import CLASSES, SCENARIO_DIRECTIONS, WorldRequest

if TYPE_CHECKING:
    from rich.table import Table

CHECKS = ("colours", "shapes", "count", "direction", "motion", "identity")
SUBJECTS = ("generated", "reconstructed", "true")
Z95 = 1.959963984540054
"""The 97.5% point of the standard normal."""

Asks = Literal["prompt", "prompt and label", "label", "nothing"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Share:
    """How many of the clips that ask for something show it."""

    passed: int
    count: int

    @property
    def value(self) -> float:
        """The share, NaN where no clip asks for it."""
        return self.passed / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of Wilson (1927), which holds for shares near 0 and 1 and for few clips."""
        n, p, zz = self.count, self.value, Z95**2
        if not n:
            return 0.0, 1.0
        centre = (p + zz / (2 * n)) / (1 + zz / n)
        half = Z95 / (1 + zz / n) * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        if not self.count:
            return "-"
        low, high = self.interval
        return f"{100 * self.value:.1f} ({100 * low:.1f}-{100 * high:.1f})"


@dataclass(frozen=True)
class ClipResult:
    """What one video shows. `checks`: None where the request does not ask for it; `physics`: see `WorldCheck`."""

    subject: str
    scenario: str
    caption: str
    clip_seed: int
    noise_seed: int
    checks: dict[str, bool | None]
    physics: float

    @property
    def passed(self) -> bool:
        """Whether everything that was asked for shows."""
        return all(value for value in self.checks.values() if value is not None)


@dataclass(frozen=True)
class WorldReport:
    """The results of an evaluation, and all that must be equal for two of them to be comparable."""

    protocol: dict[str, Any]
    results: tuple[ClipResult, ...]
    psnr: MetricValue
    ssim: MetricValue
    seconds_per_clip: float
    notes: tuple[str, ...] = field(default=())

    def shares(self, subject: str = "generated", scenario: str | None = None) -> dict[str, Share]:
        """The share passed of every check, and of "all" that a request asks; one scenario or all of them."""
        return _shares(self._rows(subject, scenario))

    def physics(self, subject: str = "generated", scenario: str | None = None) -> float:
        """Median over the clips of their distance from motion with constant acceleration, in 64ths of the frame."""
        known = [r.physics for r in self._rows(subject, scenario) if math.isfinite(r.physics)]
        return statistics.median(known) if known else math.nan

    def _rows(self, subject: str, scenario: str | None) -> list[ClipResult]:
        return [r for r in self.results if r.subject == subject and scenario in (None, r.scenario)]

    @property
    def scenarios(self) -> list[str]:
        """The scenarios that occur."""
        return [name for name in CLASSES if any(r.scenario == name for r in self.results)]

    def to_json(self) -> str:
        """Protocol, shares with their intervals, and every clip's own result."""
        record = {
            "protocol": self.protocol,
            "notes": self.notes,
            "checks": {s: self._summary(s, None) for s in SUBJECTS},
            "scenarios": {name: {s: self._summary(s, name) for s in SUBJECTS} for name in self.scenarios},
            "reconstruction": {"psnr": dataclasses.asdict(self.psnr), "ssim": dataclasses.asdict(self.ssim)},
            "seconds_per_clip": self.seconds_per_clip,
            "clips": [dataclasses.asdict(r) | {"physics": finite(r.physics)} for r in self.results],
        }
        return json.dumps(record, indent=1) + "\n"

    def _summary(self, subject: str, scenario: str | None) -> dict[str, Any]:
        summary: dict[str, Any] = {}
        for name, share in self.shares(subject, scenario).items():
            low, high = share.interval
            summary[name] = {"passed": share.passed, "count": share.count, "share": finite(share.value)}
            summary[name] |= {"low": low, "high": high}
        return summary | {"physics": finite(self.physics(subject, scenario))}

    def table(self) -> Table:
        """One row per check: the generated clips, the autoencoder's, and the true ones."""
        asked_with, first = self.protocol["asked_with"], self.protocol["first"]
        start = f" from number {first} on" if first else ""
        table = world_table(
            f"{self.protocol['count']} held-out requests{start} by {asked_with}: % of clips that pass (95% interval)"
        )
        for heading in ("check", "asked", *SUBJECTS):
            table.add_column(heading, justify="left" if heading == "check" else "right")
        columns = [self.shares(subject) for subject in SUBJECTS]
        for name in (*CHECKS, "all"):
            if asked := columns[0][name].count:
                table.add_row(name, str(asked), *(str(c[name]) for c in columns), style="bold" if name == "all" else "")
        table.add_row("physics", "", *(_number(self.physics(s)) for s in SUBJECTS))
        table.add_row("PSNR (dB)", "", "", f"{self.psnr.value:.2f}", "")
        table.add_row("SSIM", "", "", f"{self.ssim.value:.4f}", "")
        return table

    def scenario_table(self) -> Table:
        """The generated clips' shares, one row per scenario."""
        names = [name for name, share in self.shares().items() if share.count]
        rows = {scenario: self._rows("generated", scenario) for scenario in self.scenarios}
        return _shares_table("scenario", names, rows)

    def objects_table(self) -> Table:
        """The generated clips' shares, one row per number of objects that the captions name."""
        names = [name for name, share in self.shares().items() if share.count]
        rows: dict[str, list[ClipResult]] = {}
        for result in sorted(self._rows("generated", None), key=lambda r: len(parse_caption(r.caption).objects)):
            rows.setdefault(str(len(parse_caption(result.caption).objects)), []).append(result)
        return _shares_table("objects", names, rows)


@torch.no_grad()
def evaluate_world(
    model: VideoModel,
    *,
    count: int = 256,
    first: int = 0,
    batch: int = 16,
    seed: int = 0,
    sampler: SamplerConfig | None = None,
    guidance: GuidanceConfig | None = None,
    label: bool = True,
    name: str | None = None,
    progress: Progress | None = None,
) -> WorldReport:
    """Generate a clip for each of `count` held-out requests, and read all of them.

    Args:
        count: how many requests; request k is the same whatever the count.
        first: the number of the first one: choose settings on other requests than those that the result is told of.
        batch: clips generated at once.
        seed: noise of request k comes from seed + k.
        sampler, guidance: the model's own where left out.
        label: give the class label beside the prompt, where the model takes both.
        name: the folder or shipped name of the model, to record it and the hash of its weights.
        progress: called with (clips done, clips in all).

    Raises:
        InputError: for counts below 1, or a request that the model refuses.
    """
    if first < 0:
        raise InputError(f"expected a first request of at least 0, got {first}")
    if count < 1 or batch < 1:
        raise InputError(f"expected a count and a batch of at least 1, got {count} and {batch}")
    world, notes = matching_world(model.config, model.autoencoder.spec)
    source = WorldSource(
        WorldSourceConfig(world=world, heldout_count=first + count, split="heldout"), model.autoencoder.spec
    )
    asks, said = what_to_ask(model, label)
    sampler, guidance = sampler or model.config.sampler, guidance or model.config.guidance
    if asks == "nothing" and guidance.active:
        guidance, said = GuidanceConfig(), [*said, "guidance is off: there is nothing to guide towards"]
    protocol = _protocol(model, name, source, first, asks, sampler, guidance, batch, seed)
    results: list[ClipResult] = []
    psnr, ssim, seconds = Psnr(), Ssim(), 0.0
    for start in range(first, first + count, batch):
        numbers = range(start, min(start + batch, first + count))
        clips = [make_clip(source.world, source.seed(i)) for i in numbers]
        requests = [_request(model, asks, c, seed + i, source.frames) for i, c in zip(numbers, clips, strict=True)]
        callback = _steps(progress, numbers.start - first, len(numbers), count)
        began = time.perf_counter()
        latents = model.sample_latents(requests, sampler=sampler, guidance=guidance, callback=callback)
        generated = video.to_uint8(model.decode(latents))
        seconds += time.perf_counter() - began
        original = torch.stack([video.to_tensor(clip.frames) for clip in clips])
        rebuilt = autoencode(model, original)
        psnr.update(original, rebuilt)
        ssim.update(original, rebuilt)
        for i, clip, made, decoded in zip(numbers, clips, generated, video.to_uint8(rebuilt), strict=True):
            for subject, frames in zip(SUBJECTS, (made, decoded, clip.frames), strict=True):
                results.append(_judge(subject, frames, clip, source.seed(i), seed + i, asks))
        if progress is not None:
            progress(numbers.stop - first, count)
    notes = [*notes, *source.notes(), *said]
    return WorldReport(protocol, tuple(results), psnr.compute(), ssim.compute(), seconds / count, tuple(notes))


def matching_world(config: ModelConfig, spec: AutoencoderSpec) -> tuple[WorldConfig, list[str]]:
    """The toy world at a model's size, length and rate, and what had to differ."""
    height, width = config.size
    ratio = spec.spatial_ratio
    side = max(32, min(height, width, 256))
    side = side // ratio * ratio if side // ratio * ratio >= 32 else -(-32 // ratio) * ratio
    world = WorldConfig(size=side, frames=config.frames, fps=config.fps)
    notes = []
    if (height, width) != (side, side):
        notes.append(f"the model makes {width}x{height}; the true clips are {side}x{side}")
    if (world.frames - 1) / world.fps < EVENT_SECONDS:
        notes.append(f"clips shorter than {EVENT_SECONDS:g} s show no event to its end: the captions name objects only")
    return world, notes


def what_to_ask(model: VideoModel, label: bool = True) -> tuple[Asks, list[str]]:
    """How the model is asked, and what to know about it."""
    spec = model.denoiser.spec
    labels_fit = spec.num_classes > 0 and model.config.class_names == CLASSES
    if model.text_encoder is not None and (spec.text_dim or spec.pooled_dim):
        return ("prompt and label", []) if labels_fit and label else ("prompt", [])
    if labels_fit:
        note = "the model takes labels only: nothing is promised of colours, shapes, count and direction"
        return "label", [note]
    kind = "has other classes than the toy world's" if spec.num_classes else "is unconditional"
    return "nothing", [f"the model {kind}: only whether objects keep their identity is judged"]


def judge(request: WorldRequest, reading: WorldReading, asks: Asks, scenario: str) -> dict[str, bool | None]:
    """Every check's result; None for what the request does not ask.

    A label asks for its scenario in any direction and by any objects.
    """
    if asks in ("prompt", "prompt and label"):
        result = check(request, reading)
        asked = dict.fromkeys(CHECKS, True)
        asked |= {"direction": request.direction is not None, "motion": request.scenario is not None}
        return {name: getattr(result, name) if asked[name] else None for name in CHECKS}
    checks: dict[str, bool | None] = dict.fromkeys(CHECKS, None)
    checks["identity"] = reading.steady
    if asks == "label" and request.scenario is not None:
        paths = [o.path for o in reading.objects]
        extents = [o.extent / o.side for o in reading.objects]
        ways = [WorldRequest((), scenario, way) for way in SCENARIO_DIRECTIONS[scenario]]
        checks["motion"] = bool(paths) and any(
            direction_holds(way, paths) and motion_holds(way, paths, extents) for way in ways
        )
    return checks


def autoencode(model: VideoModel, original: torch.Tensor) -> torch.Tensor:
    """Clips (B, 3, T, H, W) in [-1, 1] through the posterior's mean and back, clamped to [-1, 1]."""
    with autocast(model.precision, model.device):
        latents = model.autoencoder.encode(original.to(model.device)).mean
    return model.decode(latents).cpu()


def _judge(
    subject: str, frames: np.ndarray, clip: WorldClip, clip_seed: int, noise_seed: int, asks: Asks
) -> ClipResult:
    reading, scenario = read_world(frames), CLASSES[clip.label]
    checks = judge(clip.request, reading, asks, scenario)
    return ClipResult(subject, scenario, clip.caption, clip_seed, noise_seed, checks, roughness(reading))


def _request(model: VideoModel, asks: Asks, clip: WorldClip, seed: int, frames: int) -> Request:
    prompt = clip.caption if asks in ("prompt", "prompt and label") else None
    label = clip.label if asks in ("label", "prompt and label") else None
    return Request(prompt, label, frames, model.config.size, seed)


def _steps(progress: Progress | None, done: int, more: int, count: int) -> Callable[..., None] | None:
    """A sampler's callback that reports the share of the batch that its steps amount to."""
    if progress is None:
        return None
    return lambda step, steps, *_: progress(done + more * step // (steps + 1), count)


def _protocol(
    model: VideoModel,
    name: str | None,
    source: WorldSource,
    first: int,
    asks: Asks,
    sampler: SamplerConfig,
    guidance: GuidanceConfig,
    batch: int,
    seed: int,
) -> dict[str, Any]:
    last = len(source) - 1
    return {
        "kinolab": __version__,
        "torch": torch.__version__,
        "model": name,
        "model_sha256": None if name is None else model_hash(name),
        "trained": model.config.trained,
        "count": last - first + 1,
        "first": first,
        "clip_seeds": [source.seed(first), source.seed(last)],
        "noise_seeds": [seed + first, seed + last],
        "asked_with": asks,
        "frames": source.frames,
        "size": list(model.config.size),
        "true_size": list(source.size),
        "fps": source.world.fps,
        "batch": batch,
        "sampler": sampler.model_dump(mode="json"),
        "guidance": guidance.model_dump(mode="json"),
        "precision": str(resolve(model.precision, model.device)).removeprefix("torch."),
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "interval": "Wilson, 95%",
        "reconstruction": "posterior mean of the true clips; PSNR and SSIM are means over their frames",
    }


def _shares(rows: Sequence[ClipResult]) -> dict[str, Share]:
    """The share passed of every check, and of "all" that a request asks."""
    shares = {}
    for name in CHECKS:
        asked = [r.checks[name] for r in rows if r.checks[name] is not None]
        shares[name] = Share(sum(map(bool, asked)), len(asked))
    return shares | {"all": Share(sum(r.passed for r in rows), len(rows))}


def _shares_table(by: str, names: Sequence[str], rows: Mapping[str, Sequence[ClipResult]]) -> Table:
    table = world_table(f"generated, by {by}: % of clips that pass")
    for heading in (by, "clips", *names):
        table.add_column(heading, justify="left" if heading == by else "right")
    for key, results in rows.items():
        shares = _shares(results)
        values = [f"{100 * shares[n].value:.0f}" if shares[n].count else "-" for n in names]
        table.add_row(key, str(shares["all"].count), *values)
    return table


def world_table(title: str) -> Table:
    """An empty table in the style of the world's reports."""
    from rich import box
    from rich.table import Table

    return Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False
    )


def finite(value: Any) -> Any:
    """The same number or record with None for what is not finite, as JSON has it."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def summary_lines(report: WorldReport) -> Sequence[str]:
    """What the tables don't say: how it was sampled, how long it took, and the notes."""
    p = report.protocol
    how = f"{p['sampler']['name']}, {p['sampler']['steps']} steps, guidance {p['guidance']['scale']:g}"
    size = f"{p['frames']} frames of {p['size'][1]}x{p['size'][0]}"
    return [
        f"{size}; {how}; {p['precision']}, {p['threads']} threads; {report.seconds_per_clip:.2f} s per clip",
        f"PSNR and SSIM: mean over {report.psnr.count} frames of the true clips, from the posterior's mean",
        "physics: median distance from constant acceleration over five frames, in 64ths of the frame's side",
        *(f"note: {note}" for note in report.notes),
    ]
