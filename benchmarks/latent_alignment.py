"""`python -m benchmarks.latent_alignment IMAGE_MODEL VIDEO_AUTOENCODERS...`: how far the latents of video autoencoders
are from those of the image autoencoder that an image model was trained on, and what that model loses on them untrained.

IMAGE_MODEL is a model folder with an image autoencoder and an image denoiser, or with the autoencoder alone. Of each
video autoencoder, on the same held-out clips of the toy world:

- moments, samples: the distances of the latents that are no key frames' from the image latents of the last frames that
  they stand for (`kinolab.layers.latent_alignment`); 0 = the same distribution;
- read: PSNR of what the image decoder makes of the video latents, against those frames;
- loss: the image model's held-out loss on those latents, a frame at a time, beside its loss on the image latents
  themselves (the row `image`): what an image model that has never seen the video autoencoder loses on its latents.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kinolab.autoencoders.base import Autoencoder
from kinolab.autoencoders.image import ImageAutoencoder
from kinolab.denoisers import Conditions
from kinolab.errors import InputError
from kinolab.layers.latent_alignment import energy_distance, moment_distance
from kinolab.metrics.reconstruction import Psnr
from kinolab.models import VideoModel, find_model, load_autoencoder, read_model_config
from kinolab.runtime.files import write_text
from kinolab.toyworld.clips import WorldConfig
from kinolab.toyworld.source import WorldSource, WorldSourceConfig

BATCH = 8
SAMPLES = 4096
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Row:
    """One autoencoder: PSNR of its reconstructions, distances of its latents, PSNR of what the image decoder reads in
    them, and the image model's loss (none = there is no image model)."""

    name: str
    psnr: float
    moments: float
    samples: float
    read: float
    loss: float | None


@torch.no_grad()
def measure(
    image: ImageAutoencoder, model: VideoModel | None, name: str, video: Autoencoder, clips: Tensor, captions: list[str]
) -> Row:
    """One row; clips (N, 3, T, H, W) in [-1, 1].

    Raises:
        InputError: where the two autoencoders' latents have other shapes, or clips are not one group of frames.
    """
    check(image, name, video, clips.shape[2])
    psnr, read, losses = Psnr(), Psnr(), list[float]()
    latents, references = list[Tensor](), list[Tensor]()
    ratio = video.spec.temporal_ratio
    for start in range(0, len(clips), BATCH):
        batch, told = clips[start : start + BATCH], captions[start : start + BATCH]
        frames = batch[:, :, ratio::ratio]
        z = video.encode(batch).mean
        psnr.update(batch, video.decode(z).clamp(-1, 1))
        later = z[:, :, 1:]
        latents.append(later)
        references.append(image.encode(frames).mean)
        read.update(frames, image.decode(later).clamp(-1, 1))
        if model is not None:
            losses += [_loss(model, later, told, start)] * len(batch)
    z, reference = torch.cat(latents), torch.cat(references)
    return Row(
        name,
        psnr.compute().value,
        float(moment_distance(z, reference)),
        float(energy_distance(z, reference, SAMPLES)),
        read.compute().value,
        sum(losses) / len(losses) if losses else None,
    )


def check(image: ImageAutoencoder, name: str, video: Autoencoder, frames: int) -> None:
    """Raises InputError where later latents don't stand for r frames each, or differ in shape from images'."""
    ours, theirs = video.spec, image.spec
    for what in ("latent_channels", "spatial_ratio"):
        if getattr(ours, what) != getattr(theirs, what):
            raise InputError(
                f"{name}: {what.replace('_', ' ')} {getattr(ours, what)}, and {getattr(theirs, what)} of the image "
                "autoencoder: expected the same"
            )
    r, longest = ours.temporal_ratio, ours.group_frames or frames
    if not ours.first_frame or not r < frames <= longest or (frames - 1) % r:
        raise InputError(
            f"{name}: expected clips of one group, a first frame and {r}*k more, got {frames} frames of {longest}; "
            "change --frames"
        )


def _loss(model: VideoModel, latents: Tensor, captions: list[str], seed: int) -> float:
    """The image model's loss on latents (B, C, T, h, w), every frame an image with its clip's caption."""
    images = latents.transpose(1, 2).flatten(0, 1)[:, :, None]
    conditions = Conditions()
    if model.text_encoder is not None:
        told = [caption for caption in captions for _ in range(latents.shape[2])]
        embedded = model.text_encoder.encode(told)
        spec = model.denoiser.spec
        conditions = Conditions(
            text=embedded.states if spec.text_dim else None,
            text_mask=embedded.mask if spec.text_dim else None,
            pooled=embedded.pooled if spec.pooled_dim else None,
        )
    generator = torch.Generator().manual_seed(seed)
    found = model.diffusion.loss_at(model.denoiser, images, conditions, TIMES, generator)
    return sum(found.values()) / len(found)


def markdown(rows: Sequence[Row], clips: int) -> str:
    """The table, and what it was measured on."""
    head = "| latents of | PSNR | moments | samples | read by the image decoder | loss of the image model |"
    lines = [f"{clips} held-out clips of the toy world; float32.", "", head, "| --- |" + " ---: |" * 5]
    for row in rows:
        loss = "-" if row.loss is None else f"{row.loss:.4f}"
        lines.append(
            f"| {row.name} | {row.psnr:.2f} dB | {row.moments:.5f} | {row.samples:.4f} | {row.read:.2f} dB | {loss} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str], say: Callable[[str], None] = print) -> None:
    """Measure every autoencoder and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latent_alignment", description=__doc__)
    parser.add_argument("image", help="the image model: a model folder or run folder")
    parser.add_argument("videos", nargs="+", help="video autoencoders, as FOLDER or NAME=FOLDER")
    parser.add_argument("--clips", type=int, default=64, help="held-out clips")
    parser.add_argument("--size", type=int, default=64, help="side of the clips in pixels")
    parser.add_argument("--frames", type=int, default=17, help="frames of a clip")
    parser.add_argument("--markdown", type=Path, help="also write the table there")
    options = parser.parse_args(arguments)
    folder = find_model(options.image)
    model = None if read_model_config(folder).denoiser is None else VideoModel.load(folder, device="cpu")
    image = load_autoencoder(folder, device="cpu") if model is None else model.autoencoder
    if not isinstance(image, ImageAutoencoder):
        raise InputError(f"{options.image}: expected an image autoencoder, got {image.config.kind}")
    world = WorldConfig(size=options.size, frames=options.frames)
    source = WorldSource(WorldSourceConfig(world=world, heldout_count=options.clips, split="heldout"))
    examples = [source[i] for i in range(options.clips)]
    clips, captions = torch.stack([e.video for e in examples]), [e.caption or "" for e in examples]
    videos = [(name or Path(path).name, load_autoencoder(path, device="cpu")) for name, _, path in
              (video.rpartition("=") for video in options.videos)]  # fmt: skip
    ratio, *others = sorted({video.spec.temporal_ratio for _, video in videos})
    if others:
        raise InputError(f"expected autoencoders of one temporal ratio in a table, got {ratio} and {others[0]}")
    rows = [_image_row(image, model, clips[:, :, ratio::ratio], captions)]
    rows += [measure(image, model, name, video, clips, captions) for name, video in videos]
    text = markdown(rows, options.clips)
    say(text)
    if options.markdown is not None:
        write_text(options.markdown, text)


@torch.no_grad()
def _image_row(image: ImageAutoencoder, model: VideoModel | None, frames: Tensor, captions: list[str]) -> Row:
    """The image autoencoder itself, on the frames (N, 3, T, H, W) that the others' latents are to come near to."""
    psnr, losses = Psnr(), list[float]()
    for start in range(0, len(frames), BATCH):
        batch = frames[start : start + BATCH]
        z = image.encode(batch).mean
        psnr.update(batch, image.decode(z).clamp(-1, 1))
        if model is not None:
            losses += [_loss(model, z, captions[start : start + BATCH], start)] * len(batch)
    value = psnr.compute().value
    return Row("image", value, 0.0, 0.0, value, sum(losses) / len(losses) if losses else None)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"latent_alignment: {error}")
