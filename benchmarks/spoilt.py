"""Clips of the toy world with one thing wrong in each, so that the truth is known: cuts, stills, shakes, text, ..."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from kinolab.toyworld.clips import WorldConfig, make_clip

FPS = 12
SECONDS = 3
SIZE = 144
WORLD = WorldConfig(size=SIZE, frames=FPS * SECONDS, fps=FPS)
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "seven", "boxes", "roll")


@dataclass(frozen=True)
class Spoilt:
    """A clip (T, H, W, 3) uint8, what is wrong with it, and where: cuts as (first, last) frame of each transition."""

    frames: np.ndarray
    wrong: str
    cuts: tuple[tuple[int, int], ...] = ()


def plain(seed: int) -> np.ndarray:
    """A clip as the toy world draws it."""
    return make_clip(WORLD, seed).frames


def textured(seed: int) -> np.ndarray:
    """A clip before a wall with a pattern, so that there is something to see a camera move by."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(90, 166, (SIZE // 8, SIZE // 8, 3), dtype=np.uint8)
    wall = np.asarray(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(np.float32)
    wall += rng.normal(0, 6, wall.shape).astype(np.float32)
    frames = plain(seed)
    empty = (np.abs(frames.astype(int) - np.array((238, 239, 241))).max(-1, keepdims=True)) < 12
    return np.where(empty, np.clip(wall, 0, 255).astype(np.uint8), frames)


def shifted(frames: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Each frame moved by so many pixels, what comes in at the border mirrored."""
    most = int(max(np.abs(x).max(), np.abs(y).max())) + 1
    padded = np.pad(frames, ((0, 0), (most, most), (most, most), (0, 0)), mode="reflect")
    height, width = frames.shape[1:3]
    return np.stack(
        [
            padded[t, most - int(b) : most - int(b) + height, most - int(a) : most - int(a) + width]
            for t, (a, b) in enumerate(zip(x, y, strict=True))
        ]
    )


def shaken(seed: int) -> np.ndarray:
    """A camera that jumps by up to 3% of a side from frame to frame."""
    rng = np.random.default_rng(seed)
    frames = textured(seed)
    x, y = rng.integers(-4, 5, (2, len(frames)))
    return shifted(frames, x, y)


def panned(seed: int) -> np.ndarray:
    """A camera that moves on by two pixels a frame."""
    frames = textured(seed)
    way = 2 * np.arange(len(frames)) * (1 if seed % 2 else -1)
    return shifted(frames, way, np.zeros_like(way))


def still(seed: int) -> np.ndarray:
    """One frame again and again, with the grain of a camera."""
    rng = np.random.default_rng(seed)
    frames = (textured if seed % 2 else plain)(seed)
    grain = rng.normal(0, 1.5, frames.shape)
    return np.clip(frames[:1] + grain, 0, 255).round().astype(np.uint8)


def mixed(seed: int) -> np.ndarray:
    """One of the two walls, in turns."""
    return (textured if seed % 2 else plain)(seed)


def with_text(seed: int) -> np.ndarray:
    """Subtitles or a title, for the whole clip."""
    rng = np.random.default_rng(seed)
    size, lines = int(rng.integers(11, 20)), int(rng.integers(2, 4))
    layer = Image.new("L", (SIZE, SIZE))
    draw, font = ImageDraw.Draw(layer), ImageFont.load_default(size)
    top = int(rng.integers(4, SIZE - lines * (size + 3) - 4))
    for k in range(lines):
        text = " ".join(rng.choice(WORDS, 4))
        draw.text((6, top + k * (size + 3)), text, fill=255, font=font)
    ink = np.asarray(layer, np.float32)[None, ..., None] / 255
    colour = np.array([(255, 255, 255), (20, 20, 20), (250, 220, 40)][seed % 3], np.float32)
    frames: np.ndarray = mixed(seed).astype(np.float32)
    if seed % 3 != 1:  # light letters have a dark edge, as subtitles do
        edge = np.asarray(layer.filter(ImageFilter.MaxFilter(3)), np.float32)[None, ..., None] / 255
        frames = frames * (1 - edge)
    return np.clip(frames * (1 - ink) + colour * ink, 0, 255).astype(np.uint8)


def each(frames: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Every frame changed by Pillow."""
    return np.stack([np.asarray(change(Image.fromarray(frame))) for frame in frames])


def blurred(seed: int) -> np.ndarray:
    """Out of focus."""
    return each(mixed(seed), lambda image: image.filter(ImageFilter.GaussianBlur(1.5 + seed % 3)))


def dark(seed: int) -> np.ndarray:
    """Too dark."""
    return (mixed(seed) * np.float32(0.04 + 0.02 * (seed % 5))).astype(np.uint8)


def burnt(seed: int) -> np.ndarray:
    """Burnt out."""
    return np.clip(mixed(seed) * np.float32(1.8) + 80, 0, 255).astype(np.uint8)


def blocky(seed: int) -> np.ndarray:
    """Through strong JPEG compression."""

    def squeezed(image: Image.Image) -> Image.Image:
        kept = io.BytesIO()
        image.save(kept, "JPEG", quality=3 + seed % 6)
        return Image.open(io.BytesIO(kept.getvalue())).convert("RGB")

    return each(textured(seed), squeezed)


def barred(seed: int) -> np.ndarray:
    """With black bars above and below, or at the sides."""
    frames, bar = mixed(seed).copy(), SIZE // 10 + seed % 5
    if seed % 3:
        frames[:, :bar], frames[:, -bar:] = 0, 0
    else:
        frames[:, :, :bar], frames[:, :, -bar:] = 0, 0
    return frames


def copied(seed: int) -> np.ndarray:
    """The same again, smaller and compressed."""
    return each(mixed(seed), lambda image: image.resize((SIZE * 2 // 3,) * 2, Image.Resampling.BILINEAR))


def cut(seed: int) -> Spoilt:
    """A hard cut to another clip."""
    rng = np.random.default_rng(seed)
    at = int(rng.integers(FPS, len(plain(seed)) - FPS // 2))
    frames = np.concatenate([mixed(seed)[:at], mixed(seed + 1000 + seed % 3)[:at]])
    return Spoilt(frames, "cut", ((at, at),))


def dissolved(seed: int) -> Spoilt:
    """A slow mixture of two clips, or a fade through black."""
    first, second = mixed(seed).astype(np.float32), mixed(seed + 1000 + seed % 3).astype(np.float32)
    length = int(FPS * (0.5 + 0.25 * (seed % 5)))
    at, share = len(first) - length, np.linspace(0, 1, length + 2)[1:-1, None, None, None]
    if seed % 2:
        between = first[at:] * (1 - share) + second[:length] * share
    else:
        half = np.abs(2 * share - 1)
        between = np.where(share < 0.5, first[at:] * half, second[:length] * half)
    frames = np.concatenate([first[:at], between, second[length:]])
    return Spoilt(frames.round().astype(np.uint8), "dissolve", ((at, at + length),))


WRONG: dict[str, Callable[[int], np.ndarray]] = {
    "still": still,
    "shaken": shaken,
    "text": with_text,
    "blurred": blurred,
    "dark": dark,
    "burnt": burnt,
    "blocks": blocky,
    "bars": barred,
}
"""What can be wrong with a clip -> one with that."""


def spoil(wrong: str, seed: int) -> Spoilt:
    """A clip with that wrong; `fine`, `panned`, `cut` and `dissolve` too."""
    if wrong in ("cut", "dissolve"):
        return (cut if wrong == "cut" else dissolved)(seed)
    made = {"fine": mixed, "panned": panned, "copied": copied} | WRONG
    return Spoilt(made[wrong](seed), wrong)
