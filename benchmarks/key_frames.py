"""`python -m benchmarks key_frames MODEL [FILES...]`: what each key frame rule of a DP-VAE costs and gives at cuts.

Two sets of clips, a table for each: videos joined from scenes of the toy world, whose cuts are known, and files. The
last row is the frozen image autoencoder alone, which encodes every frame by itself.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import processor_name
from kinolab import video
from kinolab.autoencoders import Autoencoder, DpVae, DpVaeConfig
from kinolab.cli.data import parse_size
from kinolab.config import load_config
from kinolab.errors import InputError
from kinolab.generation.reconstruct import enlarged
from kinolab.layers.key_frames import Group, Groups, KeyFrameConfig
from kinolab.metrics.reconstruction import WINDOW, psnr, ssim
from kinolab.models import find_model, load_autoencoder, read_model_config
from kinolab.reports.sheet import write_rows
from kinolab.runtime.files import write_text
from kinolab.runtime.memory import peak_memory
from kinolab.runtime.precision import autocast, describe
from kinolab.toyworld.clips import WorldConfig, make_clip
from kinolab.toyworld.source import HELDOUT_SEEDS

TOY_FRAMES, SHORTEST, SCENES = 17, 6, 4
"""Frames of a toy clip, frames of the shortest scene that is cut from one, and scenes of a video."""
TOY_THRESHOLD = 0.03
"""`cut_threshold` for the toy world, where much of a picture is the same in every scene."""
AFTER = 4
"""So many frames from a cut on are those after it."""
AROUND = 3
"""Frames that the picture shows before a cut, and from it on."""
IMAGE = "every frame by the image autoencoder alone"
COLUMNS = (
    "key frames", "PSNR", f"PSNR, {AFTER} frames after a cut", "SSIM", "exact compression, key frames counted",
    "latent channels", "groups", "groups that straddle a cut", "encode, decode (frames/s)",
)  # fmt: skip


@dataclass(frozen=True)
class CutClip:
    """A video (1, 3, T, H, W) in [-1, 1] and the numbers of the first frames of its new scenes."""

    name: str
    video: Tensor
    cuts: tuple[int, ...]

    def after_cuts(self) -> Tensor:
        """(T,) bool: the frames that come at most `AFTER` frames after a cut."""
        frames = torch.zeros(self.video.shape[2], dtype=torch.bool)
        for cut in self.cuts:
            frames[cut : cut + AFTER] = True
        return frames


@dataclass(frozen=True)
class Row:
    """What one rule gives over a set of clips; PSNR in dB, rates in frames per second; none = nothing to measure."""

    name: str
    psnr: float
    after_cuts: float | None
    ssim: float | None
    compression: Fraction
    channels: int
    groups: int
    straddling: int
    encode_rate: float
    decode_rate: float

    def cells(self) -> list[str]:
        """The row of the table, in the order of `COLUMNS`."""
        return [
            self.name,
            f"{self.psnr:.2f} dB",
            "-" if self.after_cuts is None else f"{self.after_cuts:.2f} dB",
            "-" if self.ssim is None else f"{self.ssim:.4f}",
            f"{float(self.compression):.1f} : 1",
            str(self.channels),
            str(self.groups),
            str(self.straddling),
            f"{self.encode_rate:.0f}, {self.decode_rate:.0f}",
        ]


def toy_videos(count: int, side: int, seed: int = 0) -> list[CutClip]:
    """Videos of `SCENES` held-out toy clips each, with known hard cuts.

    A scene is a window of `SHORTEST` to `TOY_FRAMES` frames of a clip of its own; its length and place are drawn from
    `seed`, so that cuts stand at uneven places.
    """
    rng, world, clips = np.random.default_rng(seed), WorldConfig(size=side, frames=TOY_FRAMES), []
    for k in range(count):
        lengths = rng.integers(SHORTEST, TOY_FRAMES + 1, SCENES)
        scenes = []
        for n, length in enumerate(lengths):
            start = int(rng.integers(0, TOY_FRAMES - length + 1))
            made = make_clip(world, HELDOUT_SEEDS + k * SCENES + n)
            scenes.append(made.frames[start : start + length])
        cuts = tuple(int(cut) for cut in np.cumsum(lengths)[:-1])
        clips.append(CutClip(f"toy {k}", video.to_tensor(np.concatenate(scenes))[None], cuts))
    return clips


def read_files(files: Sequence[Path], size: tuple[int, int], frames: int | None, rule: KeyFrameConfig) -> list[CutClip]:
    """Files at `size` (height, width), at most so many frames of each, with the cuts that the rule's detector finds."""
    clips = []
    for path in files:
        images = []
        for frame in video.iter_frames(path, size=size):
            images.append(frame.image)
            if len(images) == frames:
                break
        clip = video.to_tensor(np.stack(images))[None]
        clips.append(CutClip(path.name, clip, tuple(found_cuts(clip, rule))))
    return clips


def found_cuts(clip: Tensor, rule: KeyFrameConfig) -> list[int]:
    """The cuts that the built-in detector finds in a clip (1, 3, T, H, W)."""
    detector = rule.detector()
    return [t for t in range(clip.shape[2]) if detector.begins_scene(clip[0, :, t])]


def rules(model: DpVae, period: int | None = None, threshold: float | None = None) -> dict[str, KeyFrameConfig]:
    """The four rules by name: the model's own config, with cuts found by the built-in detector.

    period: of rule fixed; none = about half a group, 1 + r*k frames long. threshold: `cut_threshold`; none = as it is.
    """
    r, own = model.spec.temporal_ratio, model.config.key_frames
    half = 1 + r * max(1, (model.config.group_frames - 1) // (2 * r))
    shared = own.model_dump() | {"period": None, "cuts": "builtin"}
    if threshold is not None:
        shared["cut_threshold"] = threshold
    changes = {"first": {}, "fixed": {"period": half if period is None else period}, "scene": {}, "best": {}}
    return {
        name: load_config(KeyFrameConfig, shared | {"rule": name} | change, name="key frames")
        for name, change in changes.items()
    }


@torch.no_grad()
def measure(
    name: str,
    clips: Sequence[CutClip],
    encode: Callable[[Tensor], Groups],
    decode: Callable[[Groups], Tensor],
    channels: int,
) -> Row:
    """Put clips through an encoder and a decoder of groups, and count."""
    quality, similarity, after = list[Tensor](), list[Tensor](), list[Tensor]()
    encoding = decoding = 0.0
    frames = pixels = latents = groups = straddling = 0
    for clip in clips:
        began = time.perf_counter()
        coded = encode(clip.video)
        encoded = time.perf_counter()
        rebuilt = decode(coded).float()
        encoding, decoding = encoding + encoded - began, decoding + time.perf_counter() - encoded
        quality.append(psnr(clip.video, rebuilt)[0])
        after.append(clip.after_cuts())
        if min(clip.video.shape[3:]) >= WINDOW:
            similarity.append(ssim(clip.video, rebuilt)[0])
        frames, pixels = frames + clip.video.shape[2], pixels + clip.video.numel()
        latents += sum(group.latents.numel() for group in coded.groups)
        groups += len(coded.groups)
        straddling += sum(any(g.start < cut < g.start + g.frames for cut in clip.cuts) for g in coded.groups)
    decibels, chosen = torch.cat(quality), torch.cat(after)
    return Row(
        name=name,
        psnr=float(decibels.mean()),
        after_cuts=float(decibels[chosen].mean()) if bool(chosen.any()) else None,
        ssim=float(torch.cat(similarity).mean()) if similarity else None,
        compression=Fraction(pixels, latents),
        channels=channels,
        groups=groups,
        straddling=straddling,
        encode_rate=frames / encoding,
        decode_rate=frames / decoding,
    )


def measured(
    model: DpVae, clips: Sequence[CutClip], chosen: dict[str, KeyFrameConfig], say: Callable[[str], None]
) -> list[Row]:
    """A row for each rule, and one for the image autoencoder where the model has one."""
    channels, rows = model.spec.latent_channels, []
    warming = clips[0].video[:, :, : model.config.group_frames]
    with torch.no_grad():
        model.decode_groups(model.encode_groups(warming, chosen["first"]))
    for name, rule in chosen.items():
        say(f"  {name}")
        shown = f"`{name}`" if rule.period is None else f"`{name}`, every {rule.period} frames"
        rows.append(measure(shown, clips, lambda clip, rule=rule: model.encode_groups(clip, rule),  # type: ignore[misc]
                            model.decode_groups, channels))  # fmt: skip
    image = model.image
    if image is not None:
        say(f"  {IMAGE}")
        rows.append(measure(IMAGE, clips, lambda clip: encode_frames(image, clip),
                            lambda coded: decode_frames(image, coded), channels))  # fmt: skip
    return rows


def encode_frames(image: Autoencoder, clip: Tensor) -> Groups:
    """Every frame of a clip (1, 3, T, H, W) as a group of its own."""
    means = image.encode(clip).mean
    return Groups(tuple(Group(t, 1, 0, means[:, :, t : t + 1]) for t in range(means.shape[2])))


def decode_frames(image: Autoencoder, coded: Groups) -> Tensor:
    """The clip of frames that `encode_frames` coded."""
    return image.decode(torch.cat([group.latents for group in coded.groups], dim=2))


def detection(clips: Sequence[CutClip], rule: KeyFrameConfig) -> tuple[int, int, int]:
    """Of known cuts: how many the built-in detector found at the very frame, how many there are, and false ones."""
    right = total = false = 0
    for clip in clips:
        found, true = set(found_cuts(clip.video, rule)), set(clip.cuts)
        right, total, false = right + len(found & true), total + len(true), false + len(found - true)
    return right, total, false


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as a Markdown table."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(row.cells() for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


@torch.no_grad()
def draw(model: DpVae, clips: Sequence[CutClip], chosen: dict[str, KeyFrameConfig], out: Path, upscale: int = 1) -> str:
    """Write the picture of a cut: original, first, scene and best; returns which cut it is.

    It is the cut that is nearest to the middle of a group of rule first, with `AROUND` frames on both sides.
    """
    first = chosen["first"]
    places = [(clip, cut) for clip in clips for cut in clip.cuts if AROUND <= cut <= clip.video.shape[2] - AROUND]
    if not places:
        raise InputError(f"{out}: no clip has a cut with {AROUND} frames before and after it; nothing to show")
    most = model.config.group_frames
    clip, cut = max(places, key=lambda place: min(place[1] % most, most - place[1] % most))
    window = slice(cut - AROUND, cut + AROUND)

    def shown(frames: Tensor) -> np.ndarray:
        return enlarged(video.to_uint8(frames[0, :, window].float().clamp(-1, 1)), upscale)

    rows = [("original", shown(clip.video))]
    for name, rule in (("first", first), ("scene", chosen["scene"]), ("best", chosen["best"])):
        rows.append((name, shown(model.decode_groups(model.encode_groups(clip.video, rule)))))
    write_rows(rows, out)
    return f"{clip.name}, cut before frame {cut}"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks key_frames", description=__doc__)
    parser.add_argument("model", help="model or run folder of a dpvae")
    parser.add_argument("files", nargs="*", type=Path, help="videos, with cuts where the built-in detector sees them")
    parser.add_argument("--toy", type=int, default=8, help="toy videos with known cuts; 0 = none; default 8")
    parser.add_argument("--seed", type=int, default=0, help="what draws the lengths of toy scenes; default 0")
    parser.add_argument("--size", help="pixels, as 64 or 64x96 (height x width); default the model's")
    parser.add_argument("--frames", type=int, help="at most so many frames of each file; default all")
    parser.add_argument("--period", type=int, help="frames between key frames of rule fixed; default half a group")
    parser.add_argument(
        "--cut-threshold", type=float, help=f"change that is a cut; default {TOY_THRESHOLD} for toy, else the model's"
    )
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--threads", type=int, help="threads to compute with; default: as PyTorch chooses")
    parser.add_argument("--markdown", type=Path, help="write what is printed to this file")
    parser.add_argument(
        "--picture", type=Path, help="write a PNG of a cut in a toy video: original, first, scene, best"
    )
    parser.add_argument("--upscale", type=int, default=1, help="in the picture, every pixel so many wide and high")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str], say: Callable[[str], None] = lambda line: None) -> None:
    """Measure, print the tables, and write what was asked for."""
    options = parse(arguments)
    model, size = checked(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    lines = []
    with autocast(options.precision, torch.device("cpu")):
        for line in report(model, size, options, say):
            print(line, flush=True)
            lines.append(line)
    if options.markdown is not None:
        write_text(options.markdown, "\n".join(lines) + "\n")
        print(options.markdown)


def checked(options: argparse.Namespace) -> tuple[DpVae, tuple[int, int]]:
    """The model and the height and width to measure at.

    Raises:
        InputError: for an autoencoder without key frames, a size that it can't take, and options that don't fit.
    """
    for name, least in (("toy", 0), ("seed", 0), ("frames", 1), ("period", 1), ("threads", 1), ("upscale", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError(f"--{name}: expected at least {least}, got {value}")
    if not options.toy and not options.files:
        raise InputError("nothing to measure: name video files, or give --toy 1 or more")
    if options.picture is not None and not options.toy:
        raise InputError("--picture shows a toy video: give --toy 1 or more")
    model = load_autoencoder(options.model, device="cpu")
    if not isinstance(model, DpVae):
        raise InputError(f"{options.model}: expected an autoencoder of kind dpvae, got {model.config.kind}")
    size = parse_size(options.size) or own_size(options.model)
    height, width = (size, size) if isinstance(size, int) else size
    model.spec.check(1, height, width)
    if options.toy and not (height == width and 32 <= height <= 256):
        raise InputError(
            f"toy videos are square, 32 to 256 pixels wide, got {width}x{height}; change --size or --toy 0"
        )
    for path in (options.markdown, options.picture):
        if path is not None and path.is_dir():
            raise InputError(f"{path}: is a folder; expected the name of a file to write")
    for path in options.files:
        video.probe(path)
    return model, (height, width)


def own_size(model: str) -> tuple[int, int]:
    """The height and width that a model folder was trained at."""
    return read_model_config(find_model(model)).size


def report(
    model: DpVae, size: tuple[int, int], options: argparse.Namespace, say: Callable[[str], None]
) -> Iterator[str]:
    """The lines of the report, each set's as soon as it is measured."""
    sets: list[tuple[str, list[CutClip], dict[str, KeyFrameConfig]]] = []
    if options.toy:
        threshold = TOY_THRESHOLD if options.cut_threshold is None else options.cut_threshold
        chosen = rules(model, options.period, threshold)
        sets.append(("Toy videos with known cuts", toy_videos(options.toy, size[0], options.seed), chosen))
    if options.files:
        chosen = rules(model, options.period, options.cut_threshold)
        sets.append(("Files", read_files(options.files, size, options.frames, chosen["scene"]), chosen))
    yield described(model, size, options.precision)
    for title, clips, chosen in sets:
        say(title)
        frames, cuts = sum(clip.video.shape[2] for clip in clips), sum(len(clip.cuts) for clip in clips)
        counted = f"{len(clips)} video{'s' * (len(clips) != 1)}, {frames} frames"
        yield from ("", f"## {title}", "", f"{counted}, {cuts} cuts.")
        if title != "Files":
            right, total, false = detection(clips, chosen["scene"])
            share = f"{right} of {total} true cuts ({right / total:.0%})"
            yield f"The built-in detector finds {share}, and {false} false ones, at {chosen['scene'].cut_threshold:g}."
        else:
            yield f"Cuts are those that rule scene finds at {chosen['scene'].cut_threshold:g}."
        yield from ("", *table(measured(model, clips, chosen, say)))
        if title != "Files" and options.picture is not None:
            yield from ("", f"{options.picture}: {draw(model, clips, chosen, options.picture, options.upscale)}.")
    peak = peak_memory()
    if peak is not None:
        yield from ("", f"Peak memory of the whole process, all rules and the clips: {peak / 1e6:.0f} MB.")


def described(model: DpVae, size: tuple[int, int], precision: str) -> str:
    """What is measured, and on what."""
    config: DpVaeConfig = model.config
    on = f"{describe(precision)}; {processor_name()}, {torch.get_num_threads()} threads"  # type: ignore[arg-type]
    return (
        f"Groups of up to {config.group_frames} frames, {config.temporal_ratio} to a latent; "
        f"{size[1]} x {size[0]} pixels; {on}. Encoding includes finding cuts and trying key frames."
    )
