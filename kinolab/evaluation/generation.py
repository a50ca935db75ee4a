"""Scores of generated clips: of a folder of videos, or of a model that is asked for them, against real ones."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab import video
from kinolab.contracts.engine import Engine, Task
from kinolab.contracts.events import Events, Listener, Silent, events_of
from kinolab.errors import InputError
from kinolab.evaluation.belonging import unlike
from kinolab.evaluation.by_workers import groups, in_order, numbers_of, own_device, settled
from kinolab.evaluation.clips import Batch, GeneratedClips, ProtocolClips
from kinolab.evaluation.features import Extractors, extract, reference_features
from kinolab.evaluation.measured import Measured
from kinolab.evaluation.protocol import Protocol
from kinolab.evaluation.scores import ScoreReport, clip_scores
from kinolab.generation.request import SamplingConfig, sampling_of
from kinolab.methods import GuidanceConfig
from kinolab.metrics.base import MetricValue, Shown
from kinolab.metrics.extractors.base import resize_frames
from kinolab.models import Request, VideoModel
from kinolab.runtime.precision import resolve
from kinolab.toyworld.clips import WorldClip, make_clip
from kinolab.video import Resize

if TYPE_CHECKING:
    from kinolab.evaluation.shown import Shown as ShownTo


class Generated(Interface):
    """Clips that were, or are being, generated."""

    name: str

    def __len__(self) -> int: ...

    def batches(self, size: int) -> Iterator[Batch]:
        """All clips in batches of at most `size`."""
        ...

    def describe(self) -> dict[str, Any]:
        """What made them."""
        ...


class ModelClips:
    """The clips of a model, one for each real clip: by its caption or label where the model takes them.

    Args:
        model: what generates.
        name: the model's folder or shipped name.
        clips: the real clips, whose captions and labels are asked for.
        protocol: how many, of how many frames, from which seed.
        sampling: the model's own where left out.
        given_frames: so many first frames of each real clip are given.
        shown: a method that is shown each real clip, of the toy world, and may be asked for another of its motion.

    Raises:
        InputError: for a model that makes fewer frames than the protocol looks at, or given frames that leave nothing
            to measure or are of another size than the model's.
    """

    def __init__(
        self,
        model: VideoModel,
        name: str,
        clips: ProtocolClips,
        protocol: Protocol,
        *,
        sampling: SamplingConfig | None = None,
        given_frames: int = 0,
        shown: ShownTo | None = None,
    ) -> None:
        if model.output.config.frames < protocol.frames:
            raise InputError(
                f"{name} makes {model.output.config.frames} frames and the protocol {protocol.name} looks at "
                f"{protocol.frames}; take a protocol of fewer (-s frames={model.output.config.frames})"
            )
        self.model, self.name, self.clips, self.protocol = model, name, clips, protocol
        self.sampling = sampling_of(model.config, sampling)
        self.given_frames, self.shown = given_frames, shown
        if shown is not None and not hasattr(clips.source, "world"):
            raise InputError(f"{clips.name}: what is shown is made of clips of the toy world; expected its own")
        self.notes: list[str] = []
        self._check_given()
        self.asked = self._what_to_ask()
        guided = self.sampling.guidance
        if self.asked == "nothing" and guided is not None and guided.active:
            self.sampling = self.sampling.model_copy(update={"guidance": GuidanceConfig()})
        self.seconds, self.threads = 0.0, torch.get_num_threads()
        self.prompts: list[str | None] = []

    def _what_to_ask(self) -> str:
        spec = self.model.denoiser.spec
        text = self.model.text_encoder is not None and bool(spec.text_dim or spec.pooled_dim)
        if text or spec.num_classes > 1:
            self.clips.require_annotations()
        records = [self.clips.record(i) for i in range(len(self.clips))]
        world = hasattr(self.clips.source, "world")
        if text and (world or all(r.caption for r in records)):
            return "prompt"
        if text:
            self.notes.append("the model takes prompts, but not every real clip has a caption")
        if spec.num_classes > 1:
            if not world and any(r.label is None for r in records):
                self.notes.append("the model takes labels, but not every real clip has one")
            elif self._labels_fit([r.label for r in records if r.label is not None]):
                return "label"
            else:
                self.notes.append("the model takes labels, but of other classes than the real clips'")
        return "nothing"

    def _labels_fit(self, labels: list[int]) -> bool:
        """Whether the classes of the real clips are the model's: by name where it has names, else by number."""
        theirs, ours = self.clips.source.classes, self.model.config.class_names
        if ours:
            return set(theirs) <= set(ours)
        return bool(labels) and max(labels) < self.model.denoiser.spec.num_classes

    def _check_given(self) -> None:
        """Raise InputError where the given frames don't fit."""
        if not self.given_frames:
            return
        if self.given_frames >= self.protocol.frames:
            raise InputError(
                f"{self.given_frames} frames are given of the {self.protocol.frames} that {self.protocol.name} looks "
                "at: nothing would be left to generate; give fewer"
            )
        if self.clips.size != self.model.output.config.size:
            (h, w), (height, width) = self.clips.size, self.model.output.config.size
            raise InputError(
                f"{self.name} makes frames of {height}x{width} and would be given some of {h}x{w}; take a protocol of "
                f"its size (-s size=[{height},{width}])"
            )

    def __len__(self) -> int:
        return len(self.clips)

    def requests(self, numbers: range) -> list[Request]:
        """What is asked for clip k of the real ones, with the protocol's seed + k."""
        found = []
        for k in numbers:
            record = self.clips.record(k)
            caption, label = record.caption, record.label
            if not record.annotated and self.asked != "nothing":
                made = self._asked(k)[1]
                caption, label = made.caption, made.label
            prompt = caption if self.asked == "prompt" else None
            wanted: int | str | None = None
            if self.asked == "label":
                assert label is not None
                wanted = self.clips.source.classes[label] if self.model.config.class_names else label
            found.append(Request(prompt, wanted, seed=self.protocol.seed + k))
        return found

    def _asked(self, k: int) -> tuple[WorldClip, WorldClip]:
        """Real clip k of the toy world, and the one that is asked for."""
        source = self.clips.source
        seed = source.seed(self.clips.indices[k])
        clip = make_clip(source.world, seed)
        return clip, clip if self.shown is None else self.shown.asked(source.world, seed, clip)

    def batches(self, size: int, engine: Engine | None = None, events: Events | None = None) -> Iterator[Batch]:
        """Generate all clips, by an engine's workers where there is one; they come in the same order."""
        parts, here = groups(len(self), size), SampleJob(self, str(self.model.device))
        made = map(here.make, parts) if engine is None else in_order(engine, here, parts, events or Silent())
        for batch, seconds, self.threads in made:
            self.seconds += seconds
            self.prompts += batch.captions
            yield batch

    @torch.no_grad()
    def some(self, numbers: range) -> tuple[Batch, float]:
        """The clips of these numbers, and the seconds that they took to generate."""
        requests = self.requests(numbers)
        given = self.clips.some(numbers).video if self.given_frames else None
        began = time.perf_counter()
        made = self._generate(requests, given) if self.shown is None else self._shown(self.shown, numbers, requests)
        seconds = time.perf_counter() - began
        names, captions = tuple(f"{k:05d}" for k in numbers), tuple(r.prompt for r in requests)
        return Batch(names, self._shaped(made), captions), seconds

    def _generate(self, requests: list[Request], given: Tensor | None) -> Tensor:
        if given is None:
            latents = self.model.sample_latents(requests, **self.sampling.arguments)
            return self.model.decode(latents).cpu()
        # The model's own length; what stands after the given frames has no influence.
        rest = self.model.output.config.frames - given.shape[2]
        given = torch.cat([given, given[:, :, -1:].expand(-1, -1, rest, -1, -1)], dim=2)
        mask = torch.ones(len(given), 1, *given.shape[2:])
        mask[:, :, : self.given_frames] = 0
        made = self.model.complete(given, mask, requests, exact=True, **self.sampling.arguments)
        return made.cpu()

    def _shown(self, shown: ShownTo, numbers: range, requests: list[Request]) -> Tensor:
        """Clips of a method that is shown the real ones."""
        config = self.model.output.config
        real, asked = zip(*(self._asked(k) for k in numbers), strict=True)
        whole = [replace(r, frames=config.frames, size=config.size) for r in requests]
        return shown.make(self.model, real, asked, whole, self.sampling)

    def _shaped(self, made: Tensor) -> Tensor:
        """The frames and size that the protocol looks at."""
        size = self.protocol.size
        height, width = (size, size) if isinstance(size, int) else size
        return fitted(made[:, :, : self.protocol.frames], (height, width), self.protocol.resize)

    def describe(self) -> dict[str, Any]:
        """How they were made."""
        return {
            "asked_with": self.asked,
            "given_frames": self.given_frames,
            **self.sampling.record(),
            "precision": str(resolve(self.model.precision, self.model.device)).removeprefix("torch."),
            "first_seed": self.protocol.seed,
        }


@dataclass(frozen=True)
class SampleJob:
    """The clips of a model, as a job of an engine: a task is a batch, a part the number of a clip."""

    clips: ModelClips
    device: str

    def worker(self, number: int) -> SampleJob:
        """One whose model is on a device of its own."""
        self.clips.model.to(own_device(self.device, number))
        return self

    def make(self, numbers: range) -> tuple[Batch, float, int]:
        """A batch, the seconds it took, and the threads that torch computed with."""
        return *self.clips.some(numbers), torch.get_num_threads()

    def run(self, task: Task) -> tuple[Batch, float, int] | None:
        """The same of a task."""
        numbers = numbers_of(task)
        return None if numbers is None else self.make(numbers)

    def probe(self, part: int) -> None:
        """Make one clip."""
        self.make(range(part, part + 1))

    def name(self, part: int) -> str:
        """Its number."""
        return f"clip {part}"


def fitted(video: Tensor, size: tuple[int, int], resize: Resize) -> Tensor:
    """Clips (B, 3, T, H, W) brought to `size` as a folder's are when they are read: cropped, padded or stretched."""
    (H, W), (h, w) = video.shape[3:], size
    if resize == "stretch" or H * w == W * h:
        return resize_frames(video, size, "bicubic")
    factor = max(h / H, w / W) if resize == "crop" else min(h / H, w / W)
    video = resize_frames(video, (max(1, round(H * factor)), max(1, round(W * factor))), "bicubic")
    H, W = video.shape[3:]
    if resize == "pad":
        top, left = (h - H) // 2, (w - W) // 2
        return F.pad(video, (left, w - W - left, top, h - H - top), value=-1.0)
    top, left = (H - h) // 2, (W - w) // 2
    return video[..., top : top + h, left : left + w]


@torch.no_grad()
def evaluate_generated(
    generated: ModelClips | GeneratedClips,
    real: ProtocolClips,
    protocol: Protocol,
    *,
    subject: dict[str, Any],
    batch: int = 8,
    cache: Path | None = None,
    videos: Path | None = None,
    keep: int = 8,
    device: torch.device | str = "auto",
    engine: Engine | None = None,
    events: Listener = None,
) -> ScoreReport:
    """Measure generated clips against real ones.

    cache: a folder where features of the real clips are kept, by content; none = they are not kept.
    videos: a folder for the first `keep` generated clips; none = none are written.
    device: where the networks that features come from compute.
    engine: whose workers sample a model's clips; none = this process.

    Raises:
        InputError: where there are fewer clips than the protocol's minimum; nothing was generated then.
    """
    for count, what in ((len(real), "real"), (len(generated), "generated")):
        if count < protocol.minimum:
            raise InputError(
                f"{protocol.name} asks for at least {protocol.minimum} {what} clips, got {count}: give it more, or "
                "lower `minimum` in a copy of the protocol (its scores then stand in another column)"
            )
    if "prompt_agreement" in protocol.metrics and isinstance(generated, GeneratedClips):
        generated.require_annotations()
    extractors = Extractors(protocol, device)
    notes = [*real.notes(), *(generated.notes() if isinstance(generated, GeneratedClips) else generated.notes)]
    for note in _unlike(generated, real):
        warnings.warn(note, stacklevel=2)
        notes.append(note)
    reference, cached = reference_features(real, protocol, extractors, cache, batch=batch)
    if cached:
        notes.append("features of the real clips were read from the cache")
    scores = GenerationScores(protocol, extractors, generated.record(0).fps if isinstance(generated, GeneratedClips)
                              else generated.model.output.config.fps)  # fmt: skip
    keeper = _Keeper(videos, keep, scores.fps)
    told = events_of(events)
    if engine is not None and isinstance(generated, ModelClips):
        generated.model.precision = settled(generated.model.precision, generated.model.device)
        made = generated.batches(batch, engine, told)
    else:
        made = generated.batches(batch)
    features = extract(scores.watch(keeper.watch(made)), extractors, len(generated), told)
    metrics = scores.values(reference, features, notes)
    facts: dict[str, Any] = {"real_clips": len(real), "generated_clips": len(generated)}
    if isinstance(generated, ModelClips):
        facts |= {"seconds_per_clip": generated.seconds / len(generated), "threads": generated.threads}
        facts |= generated.describe()
    ordered = {m: metrics[m] for m in protocol.metrics if m in metrics}
    return ScoreReport(
        subject, real.describe(), protocol, protocol.hash(), ordered,
        clip_scores(scores.names, scores.per_clip(), keeper.written), facts, tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def _unlike(generated: ModelClips | GeneratedClips, real: ProtocolClips) -> list[str]:
    """What is to be known before a number: see `belonging.unlike`."""
    rates = [real.record(k).fps for k in range(len(real))]
    if isinstance(generated, ModelClips):
        return unlike(rates, [generated.model.output.config.fps], [generated.model.output.config.size], real.size)
    found = generated.chosen_verdicts()
    made = [generated.record(k).fps for k, v in enumerate(found) if v.fps]  # frames in a folder have no rate
    stored = [v.size for v in found if v.size]
    return unlike(rates, made, stored, real.size)


class GenerationScores:
    """Every metric of a protocol of generation: those of clips on the way, those of sets from features of all clips."""

    def __init__(self, protocol: Protocol, extractors: Extractors, fps: float) -> None:
        self.fps, self.names = fps, list[str]()
        self.measured = Measured(protocol, extractors.networks, fps=fps)

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; every clip is scored on its way."""
        for batch in batches:
            self.measured.see(Shown(batch.video, captions=[c or "" for c in batch.captions]), sets=False)
            self.names += batch.names
            yield batch

    def values(self, real: dict[str, Tensor], made: dict[str, Tensor], notes: list[str]) -> dict[str, MetricValue]:
        """All scores, with the features of both sets by role; what can't be given is said in `notes`."""
        self.measured.see(Shown(features=made, real_features=real), sets=True)
        return self.measured.values(notes, sets=True) | self.measured.values(notes, sets=False)

    def per_clip(self) -> dict[str, list[float]]:
        """Every clip's own scores."""
        return self.measured.per_clip()


class _Keeper:
    """Writes the first clips that pass by as videos."""

    def __init__(self, folder: Path | None, keep: int, fps: float) -> None:
        self.folder, self.keep, self.fps = folder, keep, fps
        self.written: dict[int, str] = {}
        self.seen = 0

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            for k, clip in enumerate(batch.video):
                number = self.seen + k
                if self.folder is not None and number < self.keep:
                    path = self.folder / f"{number:03d}.mp4"
                    video.write(path, video.to_uint8(clip), fps=self.fps)
                    self.written[number] = str(path)
            self.seen += len(batch.names)
            yield batch
