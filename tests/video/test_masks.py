"""Masks are taken as what they are: 0 and 1, labels, palettes, flat colours, transparency; and the rule is said."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinolab import video
from kinolab.errors import InputError
from tests.video.clips import CASES

SIZE = (16, 24)
INSIDE = np.zeros(SIZE, bool)
INSIDE[4:12, 8:20] = True


def marked(path: Path, **options: object) -> tuple[np.ndarray, str]:
    found = video.read_mask(path, SIZE, **options)  # type: ignore[arg-type]
    return found.generated, found.rule


def saved(tmp_path: Path, array: np.ndarray, name: str = "m.png", mode: str | None = None) -> Path:
    Image.fromarray(array, mode).save(tmp_path / name)
    return tmp_path / name


def coloured(background: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    image = np.empty((*SIZE, len(background)), np.uint8)
    image[:], image[INSIDE] = background, shape
    return image


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [
        (0, 255, np.uint8),
        (0, 1, np.uint8),
        (0, 128, np.uint8),
        (0, 1, np.uint16),
        (0, 65535, np.uint16),
        (3, 9, np.uint8),
    ],
)
def test_two_values(tmp_path: Path, low: int, high: int, kind: type) -> None:
    generated, rule = marked(saved(tmp_path, np.where(INSIDE, high, low).astype(kind)))
    assert np.array_equal(generated, INSIDE[None]) and rule == f"two values: {low} is given, {high} generated"


def test_one_bit(tmp_path: Path) -> None:
    Image.fromarray(INSIDE).save(tmp_path / "m.png")
    generated, rule = marked(tmp_path / "m.png")
    assert np.array_equal(generated[0], INSIDE) and rule == "two values: 0 is given, 1 generated"


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_soft_masks_are_cut_at_half(tmp_path: Path, suffix: str) -> None:
    ramp = np.tile(np.linspace(0, 255, SIZE[1]).astype(np.uint8), (SIZE[0], 1))
    generated, rule = marked(saved(tmp_path, ramp, f"m.{suffix}"))
    assert rule == "brighter than half is generated"
    assert np.array_equal(generated[0], np.arange(SIZE[1])[None].repeat(SIZE[0], 0) >= SIZE[1] // 2)
    deep = saved(tmp_path, ramp.astype(np.uint16) * 257, "deep.png")
    assert marked(deep)[0].mean() == 0.5


def test_labels(tmp_path: Path) -> None:
    labels = np.where(INSIDE, 2, 0).astype(np.uint8)
    labels[5, 9] = 1
    generated, rule = marked(saved(tmp_path, labels))
    assert np.array_equal(generated[0], INSIDE) and rule == "labels up to 2: 0 is given, all others are generated"


def test_the_palette_of_davis() -> None:
    path = CASES / "mask-palette.png"
    with Image.open(path) as image:
        assert image.mode == "P"
        expected = np.asarray(image) > 0
    assert expected.any() and not expected.all()
    found = video.read_mask(path, expected.shape)
    assert np.array_equal(found.generated[0], expected)
    assert found.rule == "a palette: its background (index 0, or black) is given, all others are generated"


@pytest.mark.parametrize(
    ("palette", "inside"),
    [
        ([0, 0, 0, 128, 0, 0], 1),  # black background at 0
        ([200, 0, 0, 0, 0, 0], 0),  # black background at 1: a program sorted by size
        ([10, 20, 30, 90, 0, 0], 1),  # no black at all: index 0
    ],
)
def test_palettes(tmp_path: Path, palette: list[int], inside: int) -> None:
    image = Image.fromarray(np.where(INSIDE, inside, 1 - inside).astype(np.uint8), "P")
    image.putpalette(palette + [77, 88, 99] * 254)
    image.save(tmp_path / "m.png")
    assert np.array_equal(marked(tmp_path / "m.png")[0][0], INSIDE)


def test_a_palette_of_black_and_white_is_black_and_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.where(INSIDE, 0, 1).astype(np.uint8), "P")
    image.putpalette([255, 255, 255, 0, 0, 0] * 128)  # index 0 is white
    image.save(tmp_path / "m.png")
    assert np.array_equal(marked(tmp_path / "m.png")[0][0], INSIDE)


def test_flat_colours_on_black(tmp_path: Path) -> None:
    image = coloured((0, 0, 0), (128, 0, 0))
    image[5, 10] = (0, 128, 0)
    generated, rule = marked(saved(tmp_path, image))
    assert np.array_equal(generated[0], INSIDE) and rule.startswith("flat colours on black")


@pytest.mark.parametrize(
    ("background", "shape", "generated", "rule"),
    [
        ((255, 255, 255, 0), (255, 255, 255, 255), True, "white paint on transparent"),
        ((0, 0, 0, 0), (0, 0, 0, 255), True, "paint on transparent"),
        ((0, 0, 0, 0), (220, 30, 30, 255), True, "paint on transparent"),
    ],
)
def test_paint_on_transparent(
    tmp_path: Path, background: tuple[int, ...], shape: tuple[int, ...], generated: bool, rule: str
) -> None:
    found, said = marked(saved(tmp_path, coloured(background, shape)))
    assert np.array_equal(found[0], INSIDE) is generated and said.startswith(rule)


def test_a_hole_in_a_picture_is_generated(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 4), dtype=np.uint8)
    image[..., 3] = np.where(INSIDE, 0, 255)
    generated, rule = marked(saved(tmp_path, image))
    assert np.array_equal(generated[0], INSIDE) and rule == "a picture with transparent parts: these are generated"


def test_black_and_white_on_transparent(tmp_path: Path) -> None:
    image = coloured((0, 0, 0, 0), (255, 255, 255, 255))
    image[:2] = (0, 0, 0, 255)
    assert np.array_equal(marked(saved(tmp_path, image))[0][0], INSIDE)


def test_grey_with_alpha(tmp_path: Path) -> None:
    image = coloured((255, 0), (255, 255))
    assert np.array_equal(marked(saved(tmp_path, image, mode="LA"))[0][0], INSIDE)
    solid = coloured((0, 255), (255, 255))
    assert np.array_equal(marked(saved(tmp_path, solid, mode="LA"))[0][0], INSIDE)


def test_masks_that_a_camera_turned(tmp_path: Path) -> None:
    stored = np.rot90(INSIDE).astype(np.uint8) * 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "m.png", exif=exif)
    assert np.array_equal(marked(tmp_path / "m.png")[0][0], INSIDE)


def test_a_folder_has_one_rule_for_all(tmp_path: Path) -> None:
    """A frame of which all is marked, or nothing, is read as its neighbours are."""
    (tmp_path / "m").mkdir()
    for number, mask in enumerate([INSIDE, np.ones(SIZE, bool), np.zeros(SIZE, bool)]):
        saved(tmp_path / "m", mask.astype(np.uint8), f"{5 * number:05d}.png")
    (tmp_path / "m" / ".DS_Store").write_bytes(b"x")
    generated, rule = marked(tmp_path / "m")
    assert [g.mean() for g in generated] == [INSIDE.mean(), 1, 0] and rule == "two values: 0 is given, 1 generated"


def test_palettes_in_a_folder_where_one_frame_is_all_background(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for number in (0, 1):
        image = Image.fromarray((INSIDE * number).astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 128, 0, 0] + [0, 0, 0] * 254)
        image.save(tmp_path / "m" / f"{number:02d}.png")
    generated, _ = marked(tmp_path / "m")
    assert not generated[0].any() and np.array_equal(generated[1], INSIDE)


@pytest.mark.parametrize("name", ["m.mkv", "m.gif"])
def test_masks_in_videos(tmp_path: Path, name: str) -> None:
    frames = np.stack([np.roll(INSIDE, k, axis=1) for k in range(6)]).astype(np.uint8) * 255
    pictures = np.repeat(frames[..., None], 3, axis=3)
    video.write(tmp_path / name, pictures, 10, lossless=name == "m.mkv")
    generated, rule = marked(tmp_path / name)
    assert np.array_equal(generated, frames > 0) and rule == "two values: 0 is given, 255 generated"
    later, _ = marked(tmp_path / name, start=0.2, fps=10.0)
    assert np.array_equal(later, frames[2:] > 0)


def test_masks_are_fitted_as_pictures_are(tmp_path: Path) -> None:
    wide = np.repeat(np.repeat(INSIDE, 3, axis=0), 3, axis=1).astype(np.uint8)
    assert np.array_equal(marked(saved(tmp_path, wide))[0][0], INSIDE)
    tall = np.zeros((32, 24), np.uint8)
    tall[8:24] = INSIDE
    assert np.array_equal(marked(saved(tmp_path, tall))[0][0], INSIDE), "cropped"
    padded = marked(saved(tmp_path, tall), resize="pad")[0][0]
    assert padded.shape == SIZE and not padded[:, :4].any()


def test_masks_that_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    saved(tmp_path / "two", INSIDE.astype(np.uint8), "0.png")
    saved(tmp_path / "two", INSIDE[:8].astype(np.uint8), "1.png")
    for name, message in (
        ("none.png", "no such file"), ("bad.png", "not an image"), ("empty", "without images"),
        ("two", r"1\.png: another size than 0\.png"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            marked(tmp_path / name)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "mask.png"
    os.mkfifo(pipe)
    for read in (lambda: video.read_mask(pipe, (8, 8)), lambda: video.probe(pipe), lambda: video.read(pipe)):
        with pytest.raises(InputError, match=r"mask\.png: neither a file nor a folder"):
            read()
