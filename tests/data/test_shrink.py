"""Small copies of a folder: sizes, frames and rates, names and captions, and going on after an interruption."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from kinolab import video
from kinolab.data.shrink import shrink
from kinolab.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ramp = np.linspace(0, 255, 96, dtype=np.uint8)
    picture = np.broadcast_to(ramp[None, None, :, None], (6, 64, 96, 3))
    root = tmp_path / "clips"
    video.write(root / "a" / "wide.mp4", picture, 12)
    video.write(root / "a" / "tiny.mkv", picture[:, :16, :16], 10, lossless=True)
    video.write(root / "shots.gif", picture, 10)
    video.write(root / "numbered", picture, 10)
    (root / "broken.mp4").write_bytes(b"not a video")
    (root / "a" / "wide.txt").write_text("a ramp")
    return root


def test_copies_keep_names_frames_rates_and_captions(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    summary = shrink(folder, out, 32)
    assert (summary.written, summary.present) == (4, 0)
    assert len(summary.failed) == 1 and "broken.mp4" in summary.failed[0]
    wide = video.read(out / "a" / "wide.mp4")
    assert wide.frames.shape == (6, 32, 48, 3) and wide.fps == pytest.approx(12)
    expected = video.read(folder / "a" / "wide.mp4", size=32).frames
    assert np.abs(wide.frames.astype(int) - expected).mean() < 3
    assert (out / "a" / "wide.txt").read_text() == "a ramp"
    assert {p.name for p in out.iterdir() if p.name[0] != "."} == {"a", "shots.mkv", "numbered.mkv"}


def test_small_clips_are_not_enlarged(folder: Path, tmp_path: Path) -> None:
    shrink(folder, tmp_path / "small", 32)
    tiny = video.probe(tmp_path / "small" / "a" / "tiny.mkv")
    assert (tiny.height, tiny.width) == (16, 16)


def test_a_second_call_goes_on_where_the_first_stopped(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    shrink(folder, out, 32)
    (out / "shots.mkv").unlink()
    before = (out / "a" / "wide.mp4").stat().st_mtime_ns
    summary = shrink(folder, out, 32)
    assert (summary.written, summary.present) == (1, 3)
    assert (out / "a" / "wide.mp4").stat().st_mtime_ns == before


def test_other_settings_make_every_copy_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    shrink(folder, out, 32)
    again = shrink(folder, out, 24)
    assert (again.written, again.present, again.renewed) == (4, 0, 4)
    assert video.probe(out / "a" / "wide.mp4").height == 24
    slower = shrink(folder, out, 24, fps=6)
    assert slower.renewed == 4 and video.probe(out / "a" / "wide.mp4").fps == pytest.approx(6)
    assert shrink(folder, out, 24, fps=6).present == 4


def test_a_changed_source_makes_its_copy_again_and_a_touched_one_does_not(folder: Path, tmp_path: Path) -> None:
    out, wide = tmp_path / "small", folder / "a" / "wide.mp4"
    shrink(folder, out, 32)
    os.utime(wide, (1, 1))
    assert shrink(folder, out, 32).renewed == 0
    video.write(wide, np.zeros((5, 64, 96, 3), np.uint8), 12)
    assert shrink(folder, out, 32).renewed == 1
    assert video.read(out / "a" / "wide.mp4").frames.mean() < 5
    (folder / "numbered" / sorted(p.name for p in (folder / "numbered").iterdir())[0]).unlink()
    assert shrink(folder, out, 32).renewed == 1


def test_a_copy_of_which_nothing_is_recorded_is_made_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    video.write(out / "a" / "wide.mp4", np.zeros((2, 16, 16, 3), np.uint8), 12)
    summary = shrink(folder, out, 32)
    assert (summary.written, summary.renewed) == (4, 1)
    assert video.probe(out / "a" / "wide.mp4").height == 32


def test_re_timing(folder: Path, tmp_path: Path) -> None:
    shrink(folder, tmp_path / "small", 32, fps=6)
    assert video.read(tmp_path / "small" / "a" / "wide.mp4").frames.shape[0] == 3


@pytest.mark.parametrize("where", ["clips", "clips/small"])
def test_the_copies_may_not_lie_among_the_clips(folder: Path, where: str) -> None:
    with pytest.raises(InputError, match="lies inside"):
        shrink(folder, folder.parent / where, 32)


def test_two_clips_of_one_name_are_an_error(folder: Path, tmp_path: Path) -> None:
    video.write(folder / "shots", np.zeros((2, 16, 16, 3), np.uint8), 10)
    with pytest.raises(InputError, match=r"shots.*as that of another clip"):
        shrink(folder, tmp_path / "small", 32)


def test_a_folder_that_is_not_there_or_empty_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        shrink(tmp_path / "missing", tmp_path / "small", 32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no clips"):
        shrink(tmp_path / "empty", tmp_path / "small", 32)


def test_what_systems_leave_behind_is_neither_copied_nor_a_change(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    shrink(folder, out, 32)
    (folder / "numbered" / "Thumbs.db").write_bytes(b"x")
    (folder / "numbered" / "._000000.png").write_bytes(b"x")
    (folder / "__MACOSX").mkdir()
    for name in ("__MACOSX/a.txt", "a/._wide.txt"):
        (folder / name).write_bytes(b"x")
    summary = shrink(folder, out, 32)
    assert (summary.written, summary.present) == (0, 4)
    assert not (out / "__MACOSX").exists() and not (out / "a" / "._wide.txt").exists()
