"""Animated webp, PNG and AVIF are clips, with their own times; what isn't animated stays an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from kinolab import video
from kinolab.data import FolderConfig, FolderSource
from kinolab.errors import InputError
from kinolab.video.animations import durations_of

KINDS = [".webp", ".png", ".apng", *([".avif"] if features.check("avif") else [])]
DURATIONS = [100, 200, 50, 300]


def pictures() -> list[Image.Image]:
    """A red square that moves to the right over nothing."""
    found = []
    for index in range(4):
        image = Image.new("RGBA", (32, 16), (0, 0, 0, 0))
        image.paste((255, 0, 0, 255), (index * 8, 4, index * 8 + 8, 12))
        found.append(image)
    return found


def save(path: Path, frames: list[Image.Image], **options: Any) -> Path:
    kind = {".apng": "PNG"}.get(path.suffix)
    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    many: dict[str, Any] = {"save_all": True, "append_images": frames[1:]} if len(frames) > 1 else {}
    frames[0].save(path, format=kind, **many, **lossless, **options)
    return path


@pytest.mark.parametrize("suffix", KINDS)
def test_an_animation_is_a_clip(tmp_path: Path, suffix: str) -> None:
    options: dict[str, Any] = {"disposal": 1} if suffix in (".png", ".apng") else {}
    path = save(tmp_path / f"a{suffix}", pictures(), duration=DURATIONS, **options)
    assert durations_of(path) == pytest.approx([0.1, 0.2, 0.05, 0.3])
    clip = video.read(path)
    assert clip.times == pytest.approx([0, 0.1, 0.3, 0.35])
    for index, image in enumerate(clip.frames.astype(int)):
        assert np.abs(image[8, index * 8 + 4] - (255, 0, 0)).max() <= 12
        assert np.abs(image[8, (index * 8 + 20) % 32] - 255).max() <= 12, "white where nothing is"
    info = video.probe(path)
    assert (info.frames, info.duration) == (4, pytest.approx(0.65)) and info.fps == pytest.approx(4 / 0.65)
    assert len(video.read(path, fps=20).frames) == 13
    assert np.array_equal(next(video.iter_frames(path, start=0.32)).image, clip.frames[3])


@pytest.mark.parametrize("suffix", KINDS)
def test_a_still_stays_an_image(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", pictures()[:1])
    assert durations_of(path) == [] and not video.is_animated(path)
    assert video.read(path).frames.shape == (1, 16, 32, 3)
    [verdict] = FolderSource(FolderConfig(path=tmp_path, size=16, index="none"), allow_empty=True).verdicts()
    assert "a still image" in verdict.dropped[0]
    used = FolderSource(FolderConfig(path=tmp_path, frames=1, size=16, index="none", split="all"))
    assert len(used) == 1


@pytest.mark.parametrize("suffix", KINDS)
def test_an_animation_gives_windows(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / f"a{suffix}", pictures(), duration=100)
    source = FolderSource(FolderConfig(path=tmp_path, frames=2, size=16, index="none", split="all"))
    assert len(source) == 2 and source.verdicts()[0].frames == 4


def test_a_png_with_a_picture_for_old_readers(tmp_path: Path) -> None:
    """A picture before the first frame is none of them."""
    path = save(tmp_path / "a.png", pictures(), duration=[100, 100, 100], default_image=True, disposal=1)
    clip = video.read(path)
    assert len(clip.frames) == 3 and clip.frames[0, 8, 12].tolist() == [255, 0, 0], "the second of four"


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_frames_that_are_shown_for_no_time_are_shown_for_a_tenth(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", pictures(), duration=[0, 100, 5, 100])
    assert durations_of(path) == [0.1, 0.1, 0.1, 0.1]


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_an_animation_that_is_cut_off_says_so(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"a{suffix}", [Image.fromarray(image) for image in noise], duration=100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    with pytest.raises(InputError, match=r"truncated: \d+ of \d+ bytes are there"):
        video.probe(path)
    with pytest.raises(InputError, match=r"truncated: (decoding stopped at|\d+ of \d+ bytes)"):
        list(video.iter_frames(path))


def test_numbered_animations_are_clips_and_numbered_stills_one(tmp_path: Path) -> None:
    for folder, count in (("clips", 4), ("frames", 1)):
        (tmp_path / folder).mkdir()
        for index in range(3):
            save(tmp_path / folder / f"{index:03d}.webp", [p.rotate(index) for p in pictures()[:count]], duration=100)
    names = [v.source for v in FolderSource(FolderConfig(path=tmp_path, frames=2, size=16, index="none")).verdicts()]
    assert names == ["clips/000.webp", "clips/001.webp", "clips/002.webp", "frames"]


# --- images of other kinds -----------------------------------------------------------------------------------------


def test_deep_and_transparent_greys(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint16)[None].repeat(4, axis=0)
    Image.fromarray(ramp * 257).save(tmp_path / "16.png")
    assert np.array_equal(video.read(tmp_path / "16.png").frames[0, 0, :, 0], ramp[0])
    Image.fromarray((ramp / 255).astype(np.float32)).save(tmp_path / "float.tif")
    assert np.array_equal(video.read(tmp_path / "float.tif").frames[0, 0, :, 1], ramp[0])
    both = np.stack([ramp, np.where(ramp < 128, 0, 255)], axis=-1).astype(np.uint8)
    Image.fromarray(both, "LA").save(tmp_path / "la.png")
    found = video.read(tmp_path / "la.png").frames[0, 0, :, 2]
    assert (found[:128] == 255).all() and np.array_equal(found[128:], ramp[0, 128:])
