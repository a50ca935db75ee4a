"""Cut copies: the frames of each part, the picture's part, captions along, and the clips untouched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kinolab import video
from kinolab.data.cutting import cut
from kinolab.errors import InputError
from kinolab.runtime.hashes import file_sha256


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    frames = np.zeros((10, 32, 48, 3), np.uint8)
    for k in range(10):
        frames[k, :, 24:] = 20 * k  # the right half says which frame it is
    for name in ("a", "b", "c"):
        video.write(folder / f"{name}.mp4", frames, 5)
    (folder / "a.txt").write_text("a lamp\n")
    return folder


def cut_by(clips: Path, text: str) -> Path:
    edits, out = clips.parent / "data.yaml", clips.parent / "cut"
    edits.write_text(text)
    cut(clips, edits, out)
    return out


def shades(path: Path) -> list[int]:
    return [round(float(frame.image[:, -8:, 0].mean()) / 20) for frame in video.iter_frames(path)]


def test_parts_become_clips_whose_frames_are_those_of_the_times(clips: Path) -> None:
    before = {p.name: file_sha256(p) for p in clips.iterdir()}
    text = "clips:\n  a.mp4: {parts: [{start: 0.4, end: 1.0}, {start: 1.4, end: 9}], crop: [0.5, 0, 0.5, 1]}\n"
    out = cut_by(clips, text + "  b.mp4: {use: false}\n")
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) == [
        "a-1.mp4", "a-1.txt", "a-2.mp4", "a-2.txt", "c.mp4",
    ]  # fmt: skip
    assert shades(out / "a-1.mp4") == [2, 3, 4] and shades(out / "a-2.mp4") == [7, 8, 9]
    assert video.probe(out / "a-1.mp4").width == 24 and video.probe(out / "a-1.mp4").height == 32
    assert (out / "c.mp4").read_bytes() == (clips / "c.mp4").read_bytes()
    assert {p.name: file_sha256(p) for p in clips.iterdir()} == before


def test_a_second_call_makes_only_what_is_new(clips: Path) -> None:
    out = cut_by(clips, "clips:\n  a.mp4: {parts: [{start: 0.4, end: 1.0}]}\n")
    edits = clips.parent / "data.yaml"
    same = cut(clips, edits, out)
    assert (same.written, same.present) == (0, 3)
    edits.write_text("clips:\n  a.mp4: {parts: [{start: 0.6, end: 1.0}]}\n")
    again = cut(clips, edits, out)
    assert (again.written, again.present) == (1, 2) and shades(out / "a.mp4") == [3, 4]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("clips: {d.mp4: {use: false}}", "no such clip"),
        ("clips: {a.mp4: {parts: [{start: 2, end: 1}]}}", "later than start"),
        ("clips: {a.mp4: {crop: [0.6, 0, 0.6, 1]}}", "inside it"),
        ("clips: {a.mp4: {crop: [0, 0, 0, 1]}}", "inside it"),
        ("clips: {a.mp4: {take: true}}", "unknown key"),
        ("parts: []", "unknown key"),
    ],
)
def test_bad_edits_are_one_line(clips: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        cut_by(clips, text)
    assert not (clips.parent / "cut" / "a.mp4").exists()
