"""What a clip of an image model keeps and how it moves (`kinolab.methods.text2video_zero`), read from pixels.

The prompts are captions of held-out pictures of the toy world. The clip's first frame is the image model's own, so its
objects, as the reader finds them there, are what the other frames are held against: whether they keep their colours,
their shapes and themselves, and how far they stand from where the asked motion takes them, first position + k motion.
A clip is judged as far as this leaves every object whole in the frame. Odd clips move the other way.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kinolab import video
from kinolab.contracts.engine import Engine
from kinolab.contracts.events import Events, Listener, advance, events_of
from kinolab.errors import InputError
from kinolab.evaluation.by_workers import ModelJob, batches, groups
from kinolab.evaluation.records import plain_table
from kinolab.evaluation.scores import ClipScore, ScoreReport, Settings
from kinolab.evaluation.toy_protocols import ZeroProtocol, protocol_of
from kinolab.evaluation.world import made_by, what_to_ask
from kinolab.generation.matching import matching_world
from kinolab.generation.request import SamplingConfig, sampling_of
from kinolab.methods import GuidanceConfig, checked
from kinolab.metrics.base import MetricValue
from kinolab.metrics.summaries import scores_of
from kinolab.models import Request, VideoModel
from kinolab.toyworld.clips import make_clip
from kinolab.toyworld.reader import ReadObject, WorldReading, check, read_world
from kinolab.toyworld.scenes import FRAME
from kinolab.toyworld.source import WorldSource, WorldSourceConfig
from kinolab.toyworld.words import WorldRequest

if TYPE_CHECKING:
    from rich.table import Table

ALONE = "frames by themselves"
"""What the clips are held against: as many frames of the image model without the method."""
ASKED = ("asked_colours", "asked_shapes", "asked_count")
KEPT = ("kept_colours", "kept_shapes", "kept_identity", "kept")
METHOD = "text2video_zero"


@dataclass(frozen=True)
class ZeroClip:
    """One clip. setting: what was asked of its motion, as `4, 0 nearest`, or `ALONE`; motion: pixels of 64 per frame.

    asked: what its first frame shows of the prompt. kept: what of the first frame's objects all judged frames show;
    None where fewer than two are judged, or the first one shows nothing. frames: how many are judged. errors: pixels of
    64, of every judged frame after the first, a mean over objects; one that does not show counts as standing still.
    found: share of objects and frames that show.
    """

    setting: str
    motion: tuple[float, float]
    prompt: str | None
    clip_seed: int
    noise_seed: int
    asked: Mapping[str, bool | None]
    kept: Mapping[str, bool | None]
    frames: int
    errors: tuple[float, ...]
    found: float

    def values(self, near: float) -> dict[str, Any]:
        """The clip's numbers by the names of metrics; near: half a latent, in pixels of 64."""
        moves = self.errors and self.setting != ALONE
        known: dict[str, Any] = {**self.asked, **self.kept}
        known |= {"position_error": self.errors if moves else math.nan, "found": self.found if moves else math.nan}
        return known | {"within_half_latent": statistics.fmean(self.errors) <= near if moves else None}

    def score(self, near: float) -> ClipScore:
        """The clip's own scores, and all that is known of it."""
        values = self.values(near)
        values["position_error"] = statistics.fmean(self.errors) if self.errors else math.nan
        scores = {name: float(v) for name, v in values.items() if v is not None and math.isfinite(v)}
        return ClipScore(f"{self.setting}, {self.clip_seed}", scores, None, dataclasses.asdict(self))


@dataclass(frozen=True)
class ZeroReport:
    """The results of an evaluation, and all that must be equal for two of them to be comparable."""

    protocol: dict[str, Any]
    results: tuple[ZeroClip, ...]
    notes: tuple[str, ...] = ()

    @property
    def settings(self) -> list[str]:
        """What was asked of the motion, in turn."""
        return list(dict.fromkeys(r.setting for r in self.results))

    def scores(self) -> ScoreReport:
        """The scores of the first motion; beside them those of the others."""
        p, protocol = self.protocol, Settings("zero", self.protocol)
        groups = {setting: self._scores(setting) for setting in self.settings}
        own = groups.pop(self.settings[0])
        subject = {"name": p["model"], "kind": "model", "sha256": p["model_sha256"]}
        clips = tuple(r.score(p["half_latent"]) for r in self.results)
        return ScoreReport(
            subject, {"name": "toy world", "clips": p["count"]}, protocol, protocol.hash(), own, clips, {}, self.notes,
            groups, {"by_frame": {setting: self.by_frame(setting) for setting in self.settings}},
        )  # fmt: skip

    def by_frame(self, setting: str) -> list[float]:
        """The mean error at each frame after the first, over the clips that are judged there."""
        rows = [r.errors for r in self.results if r.setting == setting]
        return [statistics.fmean(r[k] for r in rows if len(r) > k) for k in range(max(map(len, rows), default=0))]

    def _scores(self, setting: str) -> dict[str, MetricValue]:
        rows = [r.values(self.protocol["half_latent"]) for r in self.results if r.setting == setting]
        return scores_of({name: [row[name] for row in rows] for name in rows[0]})

    def to_json(self) -> str:
        """Protocol, scores with their intervals, and every clip's own result."""
        return self.scores().to_json()

    def table(self) -> Table:
        """A row for each motion: shares in percent, errors in pixels of 64."""
        p = self.protocol
        table = plain_table(f"{p['count']} held-out prompts, clips of {p['frames']} frames: what is kept, what moves")
        headings = (
            "motion",
            "as asked",
            "judged",
            "colours",
            "shapes",
            "identity",
            "kept",
            "error",
            "in half a latent",
        )
        for heading in headings:
            table.add_column(heading, justify="left" if heading == "motion" else "right")
        for setting in self.settings:
            scores = self._scores(setting)
            asked = [all(r.asked.values()) for r in self.results if r.setting == setting]
            judged = [r.frames for r in self.results if r.setting == setting]
            cells = [_share(scores.get(name)) for name in KEPT]
            error = scores.get("position_error")
            table.add_row(
                setting, f"{100 * statistics.fmean(asked):.0f}%", f"{statistics.fmean(judged):.1f}", *cells,
                "-" if error is None else f"{error.value:.2f}", _share(scores.get("within_half_latent")),
            )  # fmt: skip
        return table


@torch.no_grad()
def evaluate_zero(
    model: VideoModel,
    protocol: ZeroProtocol | Mapping[str, Any] | None = None,
    *,
    batch: int = 8,
    sampling: SamplingConfig | Mapping[str, Any] | None = None,
    name: str | None = None,
    engine: Engine | None = None,
    events: Listener = None,
) -> ZeroReport:
    """Make clips by an image model for held-out prompts, with each motion and way to read latents, and read them.

    Args:
        protocol: which prompts and motions; as a mapping what differs from the defaults. Noise of clip k comes from
            seed + k, alike with every motion, so that their first frames are the same.
        batch: clips generated at once.
        sampling: the model's own where left out; fields of text2video_zero stand among its methods.
        engine: whose workers generate; none = this process.
        events: counts clips; a stopped call keeps nothing.

    Raises:
        InputError: for a protocol or a batch that can't be, and a model that models time itself.
    """
    asked, told = protocol_of(ZeroProtocol, protocol), events_of(events)
    if batch < 1:
        raise InputError(f"expected a batch of at least 1, got {batch}")
    world, _ = matching_world(model)
    world, last = world.model_copy(update={"frames": 1}), asked.first + asked.count
    source = WorldSource(
        WorldSourceConfig(world=world, heldout_count=last, split="heldout"), model.output.autoencoder.spec
    )
    asks, notes = what_to_ask(model, False)
    sampling = sampling_of(model.config, sampling)
    if asks == "nothing" and sampling.guidance is not None and sampling.guidance.active:
        sampling = sampling.model_copy(update={"guidance": GuidanceConfig()})
    pieces, results = tuple(_pieces(asked, batch)), list[ZeroClip]()
    job = ModelJob(model, _make, (pieces, source, asks, asked, sampling))
    sizes = [len(piece.numbers) for piece in pieces]
    for _, clips in batches(job, groups(len(pieces), 1), engine, told, sizes):
        results += clips
        advance(told, len(results), sum(sizes))
    order = {piece.setting: None for piece in pieces}
    results.sort(key=lambda r: (list(order).index(r.setting), r.noise_seed))
    said = {"asked_with": asks, "clip_seeds": [source.seed(asked.first), source.seed(last - 1)], "batch": batch}
    record = made_by(model, name) | _record(model, asked, sampling) | said
    return ZeroReport(record, tuple(results), tuple(notes))


def _record(model: VideoModel, asked: ZeroProtocol, sampling: SamplingConfig) -> dict[str, Any]:
    """What was asked, and how it was sampled."""
    size, last = model.output.config.size, asked.first + asked.count - 1
    return {
        "protocol": asked.name, "count": asked.count, "first": asked.first, "frames": asked.frames,
        "motions": [list(m) for m in asked.motions], "samplings": list(asked.samplings), "size": list(size),
        "noise_seeds": [asked.seed + asked.first, asked.seed + last], **sampling.record(),
        "half_latent": model.output.autoencoder.spec.spatial_ratio / 2 * FRAME / min(size),
        "device": str(model.device), "errors": "pixels of the clips' size, scaled to 64",
    }  # fmt: skip


@dataclass(frozen=True)
class _Piece:
    """Clips of one run: what was asked, the motion in pixels of 64, how latents are read; none = without the method."""

    setting: str
    motion: tuple[float, float]
    way: str | None
    numbers: tuple[int, ...]


def _pieces(asked: ZeroProtocol, batch: int) -> list[_Piece]:
    """The runs of an evaluation; one run moves all its clips alike, so clips of odd numbers are runs of their own."""
    ways = [(f"{x:g}, {y:g} {way}", (x, y), way) for x, y in asked.motions for way in asked.samplings]
    found = []
    for setting, (x, y), way in [*ways, (ALONE, (0.0, 0.0), None)]:
        for sign in (1, -1):
            numbers = [i for i in range(asked.first, asked.first + asked.count) if (i % 2 == 1) == (sign == -1)]
            parts = [tuple(numbers[k : k + batch]) for k in range(0, len(numbers), batch)]
            found += [_Piece(setting, (sign * x, sign * y), way, part) for part in parts]
    return found


def _make(model: VideoModel, context: Any, numbers: range, events: Events) -> list[ZeroClip]:
    """The clips of a run, and what they show; numbers: the run's own."""
    pieces, source, asks, asked, sampling = context
    piece, size = pieces[numbers.start], model.output.config.size
    clips = [make_clip(source.world, source.seed(i)) for i in piece.numbers]
    requests = [
        Request(clip.caption if asks == "prompt" else None, None, asked.frames, size, seed=asked.seed + i)
        for i, clip in zip(piece.numbers, clips, strict=True)
    ]
    how = _moving(sampling, piece, min(size) / FRAME)
    made = video.to_uint8(model.decode(model.sample_latents(requests, events=events, **how.arguments)))
    results = []
    for i, clip, request, frames in zip(piece.numbers, clips, requests, made, strict=True):
        read = judge(frames, piece.motion, clip.request.objects if asks == "prompt" else None)
        results.append(ZeroClip(piece.setting, piece.motion, request.prompt, source.seed(i), request.seed, **read))
    return results


def _moving(sampling: SamplingConfig, piece: _Piece, scale: float) -> SamplingConfig:
    """The sampling with the motion of a piece; without the method where it has none."""
    methods = dict(sampling.methods)
    own = dict(methods.pop(METHOD, None) or {})
    if piece.way is not None:
        own |= {"motion": [scale * m for m in piece.motion], "units": "pixels", "sampling": piece.way}
        methods |= checked({METHOD: own})
    return sampling.model_copy(update={"methods": methods})


def judge(
    frames: np.ndarray, motion: tuple[float, float], objects: tuple[tuple[str, str], ...] | None = None
) -> dict[str, Any]:
    """What a clip (T, H, W, 3) uint8 shows, as fields of `ZeroClip`; motion: pixels of 64 from frame to frame.

    objects: what was asked for; None = nothing.
    """
    side = min(frames.shape[1:3])
    scale = FRAME / side
    first = read_world(frames[:1])
    asked: dict[str, bool | None] = dict.fromkeys(ASKED)
    if objects is not None:
        shows = check(WorldRequest(objects), first)
        asked = {"asked_colours": shows.colours, "asked_shapes": shows.shapes, "asked_count": shows.count}
    judged = _judged(first.objects, np.asarray(motion), frames.shape[0], side)
    if judged < 2:
        empty: dict[str, bool | None] = dict.fromkeys(KEPT)
        return {"asked": asked, "kept": empty, "frames": judged, "errors": (), "found": math.nan}
    reading = read_world(frames[:judged])
    pairs = [(o, _same_object(o, reading)) for o in first.objects]
    same = {o.colour for o in reading.objects} == {o.colour for o in first.objects}
    kept: dict[str, bool | None] = {
        "kept_colours": same,
        "kept_shapes": all(found is not None and found.shape == o.shape for o, found in pairs),
        "kept_identity": reading.steady and reading.count == first.count,
    }
    kept["kept"] = all(kept.values())
    errors, shown = [], []
    for k in range(1, judged):
        distances = []
        for o, found in pairs:
            start = o.position[0] * scale
            there = found is not None and bool(found.seen[k])
            at = found.position[k] * scale if found is not None and there else start
            distances.append(float(np.linalg.norm(at - (start + k * np.asarray(motion)))))
            shown.append(float(there))
        errors.append(statistics.fmean(distances))
    return {
        "asked": asked, "kept": kept, "frames": judged, "errors": tuple(errors), "found": statistics.fmean(shown)
    }  # fmt: skip


def _same_object(first: ReadObject, reading: WorldReading) -> ReadObject | None:
    """The object of a reading that stands where one of the first frame does; None where that colour has none there."""
    there = [o for o in reading.objects if o.colour == first.colour and o.seen[0]]
    far = lambda o: float(np.linalg.norm(o.position[0] - first.position[0]))  # noqa: E731
    return min(there, key=far, default=None)


def _judged(objects: Sequence[ReadObject], motion: np.ndarray, frames: int, side: int) -> int:
    """How many frames the motion leaves every object whole in the frame; 0 where there is none."""
    for k in range(frames):
        for o in objects:
            at = o.position[0] + k * motion * side / FRAME
            # Half a pixel of an anti-aliased rim may lie outside.
            if (at - o.extent < -0.5).any() or (at + o.extent > side + 0.5).any():
                return k
    return frames if objects else 0


def summary_lines(report: ZeroReport) -> list[str]:
    """What the table doesn't say."""
    p = report.protocol
    return [
        f"{p['sampler']['name']}, {p['sampler']['steps']} steps; {p['precision']}, {p['threads']} threads; motion in "
        "pixels of 64 to the right and down from frame to frame, and the other way in odd clips",
        "as asked: clips whose first frame shows the prompt's objects; judged: frames that the motion leaves whole, on "
        "average; colours, shapes, identity, kept (all three): clips whose judged frames show the first one's objects",
        f"error: pixels of 64 from first position + k motion; half a latent is {p['half_latent']:g}; an object that "
        "does not show counts as standing still",
        *(f"note: {note}" for note in report.notes),
    ]


def _share(value: MetricValue | None) -> str:
    if value is None:
        return "-"
    low, high = (value.interval.low, value.interval.high) if value.interval is not None else (value.value, value.value)
    return f"{100 * value.value:.0f}% ({100 * low:.0f}-{100 * high:.0f})"
