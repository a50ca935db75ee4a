"""Scores of an autoencoder, or of two folders that belong together: how much of a clip comes back."""

from __future__ import annotations

import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinolab import video
from kinolab.autoencoders.base import Autoencoder
from kinolab.contracts.engine import Engine, Task
from kinolab.contracts.events import Listener, advance, events_of
from kinolab.errors import InputError
from kinolab.evaluation.belonging import check_pairs
from kinolab.evaluation.by_workers import groups, in_order, numbers_of, own_device, settled
from kinolab.evaluation.clips import Batch, GeneratedClips, ProtocolClips, choose
from kinolab.evaluation.features import Extractors
from kinolab.evaluation.measured import Measured
from kinolab.evaluation.protocol import Protocol, at_frames
from kinolab.evaluation.scores import ScoreReport, clip_scores
from kinolab.generation.reconstruct import can_stream, decode_groups, encode_groups
from kinolab.metrics.base import MetricValue, Need, Shown
from kinolab.metrics.temporal import chunk_borders
from kinolab.runtime import devices
from kinolab.runtime.memory import peak_memory
from kinolab.runtime.precision import PrecisionPolicy, autocast, describe

CHUNK = 8
"""Frames of a chunk, after the first one of CHUNK + 1, that the seam error looks at the borders of."""
NOBODY_KNOWS = "of two folders nobody knows the decoder's grid and chunks"
REPEATS = 3
"""How often encoding and decoding are timed, after a first time that does not count."""


class ReconstructionScores:
    """Every reconstruction metric of a protocol, streaming over pairs of clips.

    spatial_ratio: of the decoder whose grid is looked for. lacking: what is not known, and why.
    """

    def __init__(
        self,
        protocol: Protocol,
        spatial_ratio: int | None,
        device: torch.device | str = "auto",
        lacking: Mapping[Need, str] | None = None,
    ) -> None:
        self.protocol, self.names = protocol, list[str]()
        self.extractors = Extractors(protocol, device)
        if spatial_ratio == 1:
            lacking = {"grid": "a decoder of spatial ratio 1 leaves none to be seen in frames of this size"}
        self.measured = Measured(protocol, self.extractors.networks, lacking, spatial_ratio=spatial_ratio)
        self.kept: list[tuple[float, int, Tensor, Tensor]] = []

    def update(
        self,
        batch: Batch,
        rebuilt: Tensor,
        keep: int = 0,
        chunked: tuple[Tensor, list[int]] | None = None,
        whole: Tensor | None = None,
    ) -> None:
        """Add clips and their reconstructions; the `keep` clips with the largest error are held to be shown.

        chunked: the reconstruction chunk by chunk, and the first frame of every chunk but the first.
        whole: the reconstruction in one piece from the same latents as `chunked`; none = `rebuilt`.
        """
        for name, clip in zip(batch.names, rebuilt, strict=True):
            if not bool(torch.isfinite(clip).all()):  # seen before clamping, which would hide infinity
                raise InputError(f"{name}: the reconstruction is not finite; try --precision float32")
        original, rebuilt = batch.video, rebuilt.float().clamp(-1, 1).cpu()
        pieces = None
        if chunked is not None:
            pieces, whole = (x.float().clamp(-1, 1).cpu() for x in (chunked[0], rebuilt if whole is None else whole))
        shown = Shown(rebuilt, original, chunked=pieces, borders=() if chunked is None else chunked[1], whole=whole)
        self.measured.see(shown, sets=False)
        if self.measured.wants("sets"):
            real, made = self.extractors(original), self.extractors(rebuilt)
            self.measured.see(Shown(features=made, real_features=real), sets=True)
        if keep:
            errors = (original - rebuilt).square().mean((1, 2, 3, 4)).tolist()
            start = len(self.names)
            self.kept += [(e, start + k, original[k], rebuilt[k]) for k, e in enumerate(errors)]
            self.kept = sorted(self.kept, key=lambda item: -item[0])[:keep]
        self.names += batch.names

    def values(self, notes: list[str]) -> dict[str, MetricValue]:
        """Every score; what can't be given is said in `notes`."""
        return self.measured.values(notes)

    def per_clip(self) -> dict[str, list[float]]:
        """The scores of every clip, by metric."""
        return self.measured.per_clip()

    def write_videos(self, folder: Path, fps: float) -> dict[int, str]:
        """The kept clips as videos, original | reconstruction | heat map of the error; clip number -> path."""
        from kinolab.evaluation.heatmap import error_heatmap

        written = {}
        for rank, (_, number, original, rebuilt) in enumerate(self.kept):
            a, b = video.to_uint8(original), video.to_uint8(rebuilt)
            path = folder / f"worst-{rank:02d}.mp4"
            video.write(path, np.concatenate([a, b, error_heatmap(a, b)], axis=2), fps=fps)
            written[number] = str(path)
        return written


@torch.no_grad()
def evaluate_autoencoder(
    autoencoder: Autoencoder,
    clips: ProtocolClips,
    protocol: Protocol,
    *,
    subject: dict[str, Any],
    batch: int = 4,
    precision: PrecisionPolicy = "auto",
    device: torch.device | str = "auto",
    videos: Path | None = None,
    keep: int = 8,
    engine: Engine | None = None,
    events: Listener = None,
) -> ScoreReport:
    """Put every clip of a protocol through an autoencoder and compare.

    videos: a folder for the `keep` clips with the largest error; none = none are written.
    engine: whose workers put the clips through; none = this process.

    Raises:
        InputError: for clips that the autoencoder can't take, a reconstruction that is not finite, or an engine where
            the protocol samples the posterior: its noise is drawn clip after clip.
    """
    where = devices.choose(device)
    autoencoder = autoencoder.to(where).eval()
    scores, notes = ReconstructionScores(protocol, autoencoder.spec.spatial_ratio, where), clips.notes()
    told = events_of(events)
    if engine is not None:
        precision = settled(precision, where)
    job = RebuildJob(autoencoder, clips, protocol, precision, str(where), scores.measured.wants("chunks"))
    if engine is None:
        rebuilt: Iterable[Rebuilt] = job.all(batch)
    elif protocol.latents == "sample":
        raise InputError("latents=sample draws its noise clip after clip: leave out --workers, or take -s latents=mean")
    else:
        rebuilt = in_order(engine, job, groups(len(clips), batch), told)
    for made in rebuilt:
        scores.update(made.clips, made.video, keep if videos is not None else 0, made.chunked, made.whole)
        advance(told, len(scores.names), len(clips))
    for name in scores.measured.unseen():
        notes.append(f"{name}: left out, the clips are too short to be put through in chunks")
    for name, why in scores.measured.left.items():
        notes.append(f"{name}: left out, {why}")
    first = next(iter(clips.batches(1))).video.to(where)
    fps = float(clips.record(0).fps)
    written = {} if videos is None else scores.write_videos(videos, fps)
    values = scores.values(notes)
    facts, measured = shape_facts(autoencoder, (clips.frames, *clips.size)), at_frames(protocol, clips.frames)
    facts |= speed_facts(autoencoder, first, protocol.speed_frames, precision, notes)
    facts |= {"precision": describe(precision, where), "device": str(where), "peak_memory_bytes": peak_memory()}
    return ScoreReport(
        subject, clips.describe(), measured, measured.hash(), values,
        clip_scores(scores.names, scores.per_clip(), written), facts, tuple(dict.fromkeys(notes)),
    )  # fmt: skip


@dataclass(frozen=True)
class Rebuilt:
    """Some clips and what came back of them: in one piece, and chunk by chunk with the borders of the chunks.

    whole: in one piece from the same latents as the chunks; none = `video`.
    """

    clips: Batch
    video: Tensor
    chunked: tuple[Tensor, list[int]] | None
    whole: Tensor | None


@dataclass(frozen=True)
class RebuildJob:
    """Clips put through an autoencoder, as a job of an engine: a task is a batch, a part the number of a clip.

    chunks: whether they are put through chunk by chunk too.
    """

    autoencoder: Autoencoder
    clips: ProtocolClips
    protocol: Protocol
    precision: PrecisionPolicy
    device: str
    chunks: bool

    def worker(self, number: int) -> RebuildJob:
        """One that computes on a device of its own."""
        where = own_device(self.device, number)
        return replace(self, autoencoder=self.autoencoder.to(where), device=str(where))

    def all(self, batch: int) -> Iterator[Rebuilt]:
        """Every batch, by this process."""
        generator = torch.Generator().manual_seed(self.protocol.seed)
        for group in self.clips.batches(batch):
            yield self.rebuild(group, generator)

    def run(self, task: Task) -> Rebuilt | None:
        """A batch; the posterior's mean, which needs no noise."""
        numbers = numbers_of(task)
        if numbers is None:
            return None
        return self.rebuild(self.clips.some(numbers), torch.Generator().manual_seed(self.protocol.seed))

    def probe(self, part: int) -> None:
        """Put one through."""
        self.run(Task("", (part,)))

    def name(self, part: int) -> str:
        """The clip's file."""
        return self.clips.record(part).source

    @torch.no_grad()
    def rebuild(self, group: Batch, generator: torch.Generator) -> Rebuilt:
        """Some clips, there and back."""
        where = torch.device(self.device)
        with autocast(self.precision, where):
            original = group.video.to(where)
            rebuilt = _rebuild(self.autoencoder, original, self.protocol, generator).cpu()
            chunked, whole = None, None
            if self.chunks:
                found = _chunked(self.autoencoder, original, self.protocol)
                chunked = None if found is None else (found[0].cpu(), found[1])
                if self.protocol.latents == "sample":  # chunks are of the mean, or noise would pass for a seam
                    whole = self.autoencoder.decode(self.autoencoder.encode(original).mean).cpu()
        return Rebuilt(group, rebuilt, chunked, whole)


def evaluate_folders(
    originals: Path,
    reconstructions: Path,
    protocol: Protocol,
    *,
    batch: int = 4,
    videos: Path | None = None,
    keep: int = 8,
    device: torch.device | str = "auto",
    events: Listener = None,
) -> ScoreReport:
    """Compare the videos of two folders, paired by their names without endings: the first frames of each.

    videos: a folder for the `keep` clips with the largest error; none = none are written.

    Raises:
        InputError: where a video has no partner, two of a folder have one name, or partners differ in rate or aspect.
    """
    left, right = pair(originals, reconstructions, protocol)
    partners = list(zip(left.chosen_verdicts(), right.chosen_verdicts(), strict=True))
    unlike = check_pairs(partners, str(originals), str(reconstructions))
    for note in unlike:
        warnings.warn(note, stacklevel=2)
    scores = ReconstructionScores(protocol, None, device, dict.fromkeys(("grid", "chunks"), NOBODY_KNOWS))
    notes, told = [*unlike, *left.notes(), *right.notes()], events_of(events)
    for a, b in zip(left.batches(batch), right.batches(batch), strict=True):
        scores.update(a, b.video, keep if videos is not None else 0)
        advance(told, len(scores.names), len(left))
    if scores.measured.left:
        notes.append(f"{' and '.join(scores.measured.left)} are left out: {NOBODY_KNOWS}")
    written = {} if videos is None else scores.write_videos(videos, float(left.record(0).fps))
    subject = {"name": str(reconstructions), "kind": "folder", "sha256": right.content_hash()}
    return ScoreReport(
        subject, left.describe(), protocol, protocol.hash(), scores.values(notes),
        clip_scores(scores.names, scores.per_clip(), written), {}, tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def pair(originals: Path, reconstructions: Path, protocol: Protocol) -> tuple[GeneratedClips, GeneratedClips]:
    """The clips of two folders in one order: those of one name stand at one place.

    Raises:
        InputError: where a video has no partner, or two of a folder have one name.
    """
    everything = protocol.model_copy(update={"samples": sys.maxsize})
    left, right = (GeneratedClips(folder, everything) for folder in (originals, reconstructions))
    names: list[dict[str, int]] = []
    for clips in (left, right):
        by_name: dict[str, int] = {}
        for index in clips.indices:
            source = clips.source.record(index).source
            name = source if (clips.folder / source).is_dir() else Path(source).with_suffix("").as_posix()
            if by_name.setdefault(name, index) != index:
                raise InputError(f"{clips.folder}: two videos are called {name}; expected one of each name")
        names.append(by_name)
    lonely = sorted(names[0].keys() ^ names[1].keys())
    if lonely:
        where = originals if lonely[0] in names[0] else reconstructions
        raise InputError(
            f"{where}: {lonely[0]} has no partner of that name ({len(lonely)} without one); expected the same names "
            f"in both folders, and clips of at least {protocol.frames} frames"
        )
    left.indices = choose(left.source, left.protocol.model_copy(update={"samples": protocol.samples}))
    chosen = set(left.indices)
    right.indices = [names[1][name] for name, index in names[0].items() if index in chosen]
    return left, right


def _rebuild(autoencoder: Autoencoder, original: Tensor, protocol: Protocol, generator: torch.Generator) -> Tensor:
    posterior = autoencoder.encode(original)
    latents = posterior.mean if protocol.latents == "mean" else posterior.sample(generator)
    return autoencoder.decode(latents)


def _chunked(autoencoder: Autoencoder, original: Tensor, protocol: Protocol) -> tuple[Tensor, list[int]] | None:
    """The reconstruction chunk by chunk, by the stream where there is one, and where the chunks begin."""
    spec, frames = autoencoder.spec, original.shape[2]
    step = max(spec.frame_step, (protocol.chunk or CHUNK) // spec.frame_step * spec.frame_step)
    borders = chunk_borders(frames, spec.first_frame + step, step)
    if not borders or frames < 4:
        return None
    pieces = [original[:, :, a:b] for a, b in zip([0, *borders], [*borders, frames], strict=True)]
    rebuilt: Iterable[Tensor]
    if can_stream(autoencoder):
        rebuilt = autoencoder.decode_stream(p.mean for p in autoencoder.encode_stream(iter(pieces)))
    else:
        rebuilt = decode_groups(autoencoder, encode_groups(autoencoder, pieces))
    return torch.cat(list(rebuilt), dim=2), borders


def shape_facts(autoencoder: Autoencoder, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Compression of clips of (frames, height, width), key frames included, channels and parameters."""
    spec, (T, H, W) = autoencoder.spec, shape
    C, t, h, w = spec.latent_shape(T, H, W)
    bits = getattr(autoencoder, "bits_per_latent", None)
    facts = {
        "latents": [C, t, h, w],
        "latent_channels": C,
        "temporal_compression": T / t,
        "spatial_compression": H * W / (h * w),
        "total_compression": float(autoencoder.compression(T, H, W)),
        "parameters": sum(p.numel() for p in autoencoder.parameters()),
    }
    if bits is not None:
        facts |= {"bits_per_place": bits, "compression_in_bits": 24 * T * H * W / (bits * t * h * w)}
    return facts


def speed_facts(
    autoencoder: Autoencoder, clip: Tensor, frames: int | None, precision: PrecisionPolicy, notes: list[str]
) -> dict[str, Any]:
    """Frames encoded and decoded a second, the median of some repeats on one clip (1, 3, T, H, W)."""
    wanted = autoencoder.spec.snap_frames(frames or clip.shape[2])
    if wanted > clip.shape[2]:
        notes.append(f"speed: timed on a clip of {clip.shape[2]} frames that is repeated to {wanted}")
        clip = clip.repeat(1, 1, math.ceil(wanted / clip.shape[2]), 1, 1)
    clip = clip[:, :, :wanted]
    with autocast(precision, clip.device):
        encode = median_seconds(lambda: autoencoder.encode(clip).mean, clip.device)
        latents = autoencoder.encode(clip).mean
        decode = median_seconds(lambda: autoencoder.decode(latents), clip.device)
    return {
        "timed_frames": wanted, "encode_seconds": encode, "decode_seconds": decode,
        "encode_frames_per_second": wanted / encode, "decode_frames_per_second": wanted / decode,
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def median_seconds(work: Callable[[], Any], device: torch.device, repeats: int = REPEATS) -> float:
    """The median time of some repeats, after one that does not count."""
    return statistics.median(list(_times(work, device, repeats))[1:])


def _times(work: Callable[[], Any], device: torch.device, repeats: int) -> Iterator[float]:
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        devices.synchronize(device)
        yield time.perf_counter() - began
