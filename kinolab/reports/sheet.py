"""A contact sheet: some frames of several videos in one picture, with captions and checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kinolab.runtime import files

BACK, CARD, EDGE, INK = (244, 245, 248), (255, 255, 255), (221, 225, 233), (27, 31, 39)
YES, NO = (23, 113, 61), (179, 38, 30)
FRAME, GAP, PAD, MARGIN = 128, 4, 14, 20
CAPTION, MARKS = 28, 24


@dataclass(frozen=True)
class Strip:
    """One video of a sheet: frames (T, H, W, 3) uint8, its caption, and name -> passed."""

    caption: str
    frames: np.ndarray
    checks: dict[str, bool] = field(default_factory=dict)


def write_sheet(strips: Sequence[Strip], path: Path, *, columns: int = 2, shown: int = 5) -> None:
    """Write a PNG with `shown` frames of every video, evenly spread over its length, `columns` videos side by side."""
    width = 2 * PAD + shown * FRAME + (shown - 1) * GAP
    height = 2 * PAD + CAPTION + FRAME + MARKS
    rows = -(-len(strips) // columns)
    size = MARGIN + columns * (width + MARGIN), MARGIN + rows * (height + MARGIN)
    sheet = Image.new("RGB", size, BACK)
    draw = ImageDraw.Draw(sheet)
    for k, strip in enumerate(strips):
        x = MARGIN + k % columns * (width + MARGIN)
        y = MARGIN + k // columns * (height + MARGIN)
        draw.rounded_rectangle((x, y, x + width - 1, y + height - 1), 12, fill=CARD, outline=EDGE)
        _draw_strip(sheet, draw, strip, x + PAD, y + PAD, shown)
    _save(sheet, path)


def write_rows(rows: Sequence[tuple[str, np.ndarray]], path: Path, *, margin: int = 90, cut: int = 16) -> None:
    """Write a picture of rows of frames (T, H, W, 3) uint8 with their names.

    Args:
        rows: name and frames, of one shape.
        path: a .png, or a .webp, which is much smaller and shows frames almost as they are.
        margin: pixels for the names.
        cut: pixels of the gap in the middle, which stands for a cut; 0 for none.
    """
    count, height, width = rows[0][1].shape[:3]
    gap = 4
    sheet = Image.new("RGB", (margin + count * (width + gap) + cut, len(rows) * (height + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for k, (name, frames) in enumerate(rows):
        y = gap + k * (height + gap)
        draw.text((8, y + height // 2 - 8), name, "black", ImageFont.load_default(14))
        for t, frame in enumerate(frames):
            sheet.paste(Image.fromarray(frame), (margin + t * (width + gap) + (cut if t >= count // 2 else 0), y))
    _save(sheet, path)


def _save(sheet: Image.Image, path: Path) -> None:
    with files.handed(path) as beside:
        if path.suffix == ".webp":
            sheet.save(beside, format="WEBP", quality=85, method=6)
        else:
            sheet.save(beside, format="PNG", optimize=True)


def _draw_strip(sheet: Image.Image, draw: ImageDraw.ImageDraw, strip: Strip, x: int, y: int, shown: int) -> None:
    room = shown * FRAME + (shown - 1) * GAP
    draw.text((x, y), _fitting(strip.caption, room, 19), INK, ImageFont.load_default(19))
    y += CAPTION
    for k, t in enumerate(np.linspace(0, len(strip.frames) - 1, shown).round().astype(int)):
        image = Image.fromarray(strip.frames[t])
        image = image.resize((FRAME, FRAME), Image.Resampling.NEAREST if image.width < FRAME else Image.Resampling.BOX)
        sheet.paste(image, (x + k * (FRAME + GAP), y))
    y += FRAME + 9
    font = ImageFont.load_default(15)
    for name, passed in strip.checks.items():
        colour = YES if passed else NO
        mark = [(x, y + 8), (x + 4, y + 12), (x + 11, y + 3)] if passed else [(x + 1, y + 3), (x + 10, y + 12)]
        draw.line(mark, fill=colour, width=2, joint="curve")
        if not passed:
            draw.line([(x + 10, y + 3), (x + 1, y + 12)], fill=colour, width=2)
        draw.text((x + 16, y), name, colour, font)
        x += 16 + int(font.getlength(name)) + 18


def _fitting(text: str, room: int, size: int) -> str:
    """The text, cut with an ellipsis where it is wider than `room` pixels."""
    font = ImageFont.load_default(size)
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "...") > room:
        text = text[:-1]
    return text.rstrip() + "..."
