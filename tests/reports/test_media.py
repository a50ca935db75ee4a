"""Videos are copied where a browser plays them, written anew where not, and nothing is written when one is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kinolab import video
from kinolab.errors import InputError
from kinolab.reports import Media, Report, Section, compared, write_report
from kinolab.reports.media import clock, slug, spread

FRAMES = np.random.default_rng(0).integers(0, 255, (5, 32, 48, 3), np.uint8)


def test_what_a_browser_plays_is_copied_and_the_rest_written_anew(tmp_path: Path) -> None:
    video.write(tmp_path / "in" / "a b.mp4", FRAMES, 8.0)
    video.write(tmp_path / "in" / "c.mkv", FRAMES, 8.0, lossless=True)
    video.write(tmp_path / "in" / "images", FRAMES, 8.0)
    media = Media()
    names = [media.use(tmp_path / "in" / name, "run 1") for name in ("a b.mp4", "c.mkv", "images")]
    assert names == ["media/run-1/a-b.mp4", "media/run-1/c.mp4", "media/run-1/images.mp4"]
    assert not (tmp_path / "out").exists()
    media.write(tmp_path / "out")
    assert (tmp_path / "out" / names[0]).read_bytes() == (tmp_path / "in" / "a b.mp4").read_bytes()
    for name in names[1:]:
        assert video.probe(tmp_path / "out" / name).codec == "h264"
        assert clock(tmp_path / "out" / name)[1] == 5
    assert clock(tmp_path / "out" / names[1]) == (8.0, 5)


def test_equal_names_do_not_meet(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        video.write(tmp_path / folder / "a.mp4", FRAMES, 8.0)
    media = Media()
    assert media.use(tmp_path / "x" / "a.mp4", "g") == "media/g/a.mp4"
    assert media.use(tmp_path / "y" / "a.mp4", "g") == "media/g/a-2.mp4"
    assert media.use(tmp_path / "x" / "a.mp4", "g") == "media/g/a.mp4"


def test_a_missing_video_is_known_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.mp4: no such file"):
        Media().use(tmp_path / "gone.mp4", "g")
    assert not list(tmp_path.iterdir())


def test_a_reconstruction_stands_beside_its_original_and_the_error(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    block = compared("A clip: 1", FRAMES, FRAMES // 2, 8.0, page, facts={"PSNR": "9 dB"})
    assert block.frames == 5 and block.heatmap == "media/A-clip-1/error.mp4" and block.heatmap_scale == 64
    write_report(Report("r", "", (Section("s", "", (block,)),)), page)
    for _, name in block.videos:
        assert clock(tmp_path / name) == (8.0, 5)


def test_the_first_and_the_last_are_among_those_chosen() -> None:
    assert spread(4) == [0, 1, 2, 3]
    assert spread(100, 6) == [0, 20, 40, 59, 79, 99]
    assert slug("../a b/#c") == "a-b-c" and slug("...") == "x"
