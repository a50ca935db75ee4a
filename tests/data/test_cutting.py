"""Cut copies: the frames of each part, the picture's part, captions along, and the clips untouched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kinolab import video
from kinolab.data.annotations import annotate
from kinolab.data.cutting import cut
from kinolab.data.scan import find_clips
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


def names(out: Path) -> list[str]:
    return sorted(p.name for p in out.iterdir() if not p.name.startswith("."))


def test_what_is_no_longer_wanted_goes_and_nothing_else(clips: Path) -> None:
    out = cut_by(clips, "clips:\n  a.mp4: {parts: [{start: 0, end: 1}, {start: 1, end: 2}]}\n")
    (out / "b.txt").write_text("written by hand\n")
    (clips / "c.mp4").unlink()
    cut_by(clips, "clips:\n  a.mp4: {parts: [{start: 1, end: 2}]}\n  b.mp4: {use: false}\n")
    assert names(out) == ["a.mp4", "a.txt", "b.txt"] and shades(out / "a.mp4") == [5, 6, 7, 8, 9]
    (out / "c.mp4").write_text("somebody else's")  # the record says that ours is gone
    cut_by(clips, "clips:\n  a.mp4: {use: false}\n")
    assert names(out) == ["b.mp4", "b.txt", "c.mp4"]


def test_captions_are_those_of_now(clips: Path) -> None:
    out = cut_by(clips, "clips: {}\n")
    (clips / "a.txt").write_text("a candle\n")
    (clips / "b.txt").write_text("a ball\n")
    assert cut(clips, clips.parent / "data.yaml", out).written == 0
    assert (out / "a.txt").read_text() == "a candle\n" and (out / "b.txt").read_text() == "a ball\n"
    (clips / "a.txt").unlink()
    cut(clips, clips.parent / "data.yaml", out)
    assert names(out) == ["a.mp4", "b.mp4", "b.txt", "c.mp4"]


def test_what_a_table_says_of_a_clip_it_says_of_its_parts(clips: Path) -> None:
    (clips / "a.txt").unlink()
    (clips / "labels.csv").write_text("file,label,caption\na.mp4,lamp,a blue lamp\nb.mp4,ball,\n")
    (clips / "other.csv").write_text("file,caption\nc,a box\n")
    out = cut_by(clips, "clips:\n  a.mp4: {parts: [{start: 0, end: 1}, {start: 1, end: 2}]}\n")
    found = annotate(out, find_clips(out)[0], "auto", "auto")
    assert found.captions == {"a-1.mp4": "a blue lamp", "a-2.mp4": "a blue lamp"}
    assert found.classes == ("ball", "lamp") and found.labels == {"a-1.mp4": 1, "a-2.mp4": 1, "b.mp4": 0}
    assert annotate(out, find_clips(out)[0], "other.csv", "none").captions == {"c.mp4": "a box"}
    (clips / "labels.csv").unlink()
    (clips / "other.csv").unlink()
    cut(clips, clips.parent / "data.yaml", out)
    assert not list(out.glob("[!.]*.jsonl")) and not list(out.glob("*.csv"))


def test_copies_that_would_have_one_name_are_refused(clips: Path) -> None:
    (clips / "a.mkv").write_bytes((clips / "a.mp4").read_bytes())
    with pytest.raises(InputError, match=r"a\.mp4: its copy would be a\.mp4, as that of a\.mkv"):
        cut_by(clips, "clips:\n  a.mkv: {crop: [0, 0, 0.5, 1]}\n")
    (clips / "a-1.mp4").write_bytes((clips / "b.mp4").read_bytes())
    with pytest.raises(InputError, match=r"its copy would be a-1\.mp4, as that of a-1\.mp4"):
        cut_by(clips, "clips:\n  a.mp4: {parts: [{start: 0, end: 1}, {start: 1, end: 2}]}\n")
    assert not (clips.parent / "cut").exists()


def test_a_name_that_no_copy_can_have_leaves_out_that_clip(clips: Path) -> None:
    (clips / "a.mp4").rename(clips / "what is this?.mp4")
    (clips.parent / "data.yaml").write_text("clips: {}\n")
    found = cut(clips, clips.parent / "data.yaml", clips.parent / "cut")
    assert found.written == 2 and len(found.failed) == 1 and "what is this?" in found.failed[0]


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
