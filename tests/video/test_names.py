"""Which images are frames of one clip, for every command alike, and what isn't a person's data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinolab import video
from kinolab.data import FolderConfig, FolderSource
from kinolab.data.scan import find_clips, hash_source
from kinolab.errors import InputError
from kinolab.video.names import in_order, series

JUNK = (".DS_Store", "Thumbs.db", "._00000.png", "desktop.ini", "ehthumbs.db", "Icon\r")


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["2.png", "1.png", "3.png"], (0, 1, 2)),
        (["f9.jpg", "f10.png", "f11.jpeg"], (0, 1, 2)),
        (["00000.png", "00005.png", "00010.png", "00015.png"], (0, 1, 2, 3)),
        (["00000.png", "00005.png"], (0, 1)),
        ([f"{k:04d}.png" for k in range(20) if k != 7], (*range(7), *range(8, 20))),
        (["1.png", "3.png"], None),
        (["IMG_1201.jpg", "IMG_1207.jpg", "IMG_1210.jpg"], None),
        (["a1.png", "b2.png"], None),
        (["1.png", "01.png"], None),
        (["beach.png", "forest.png"], None),
        (["1.png"], None),
        ([], None),
    ],
)
def test_a_series_counts_in_equal_steps(names: list[str], places: tuple[int, ...] | None) -> None:
    found = series(names)
    assert (found.places if found else None) == places
    assert found is None or list(found.names) == in_order(names)


def test_natural_order_of_odd_names() -> None:
    assert in_order(["a10.png", "a9.png", "²3.png", "a2.png"]) == ["a2.png", "a9.png", "a10.png", "²3.png"]


def write_frames(folder: Path, numbers: list[int], width: int = 5) -> np.ndarray:
    folder.mkdir(parents=True)
    images = np.zeros((len(numbers), 16, 16, 3), np.uint8)
    for image, number in zip(images, numbers, strict=True):
        image[:] = number
        Image.fromarray(image).save(folder / f"{number:0{width}d}.png")
    return images


def test_frames_in_steps_are_a_clip_everywhere(tmp_path: Path) -> None:
    images = write_frames(tmp_path / "clips" / "a", list(range(0, 100, 5)))
    folder = tmp_path / "clips" / "a"
    assert find_clips(tmp_path / "clips") == (["a"], {})
    info = video.probe(folder)
    assert (info.frames, info.duration, info.fps) == (20, 2.0, 10.0)
    clip = video.read(folder)
    np.testing.assert_array_equal(clip.frames, images)
    source = FolderSource(FolderConfig(path=tmp_path / "clips", frames=4, size=16, index="none", split="all"))
    assert len(source) == 5 and video.to_uint8(source[4].video)[:, 0, 0, 0].tolist() == [80, 85, 90, 95]


def test_missing_frames_leave_gaps_and_are_said(tmp_path: Path) -> None:
    write_frames(tmp_path / "a", [k for k in range(24) if k not in (7, 8)])
    clip = video.read(tmp_path / "a")
    assert [round(t * 10) for t in clip.times] == [k for k in range(24) if k not in (7, 8)]
    said = "2 frames missing, the first after 00006.png"
    assert video.probe(tmp_path / "a").notes == clip.notes == (said,)
    assert video.probe(tmp_path / "a").duration == 2.4
    assert video.read(tmp_path / "a", fps=10).frames[:, 0, 0, 0].tolist() == [*range(7), 6, 6, *range(9, 24)]
    [verdict] = FolderSource(FolderConfig(path=tmp_path / "a", frames=4, size=16, index="none")).verdicts()
    assert said in verdict.notes


def test_what_file_managers_leave_changes_neither_hash_nor_split(tmp_path: Path) -> None:
    for mark in range(6):
        write_frames(tmp_path / f"clip{mark}", list(range(mark * 8, mark * 8 + 8)))

    def state() -> tuple[list[str], list[str], dict[str, int], list[str]]:
        names, others = find_clips(tmp_path)
        sides = FolderSource(FolderConfig(path=tmp_path, frames=4, size=16, index="none", heldout_fraction=0.4))
        return names, [hash_source(tmp_path / name) for name in names], others, [v.split for v in sides.verdicts()]

    before = state()
    assert before[0] == [f"clip{mark}" for mark in range(6)] and before[2] == {}
    for mark in range(6):
        for name in JUNK:
            (tmp_path / f"clip{mark}" / name).write_bytes(bytes([mark]) * 99)
        (tmp_path / f"clip{mark}" / "@eaDir").mkdir()
        (tmp_path / f"clip{mark}" / "@eaDir" / "00000.png").write_bytes(b"a thumbnail")
    for name in JUNK:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "clip.mp4").write_bytes(b"x")
    assert state() == before
    (tmp_path / "clip0" / "00003.png").unlink()
    assert state()[1][0] != before[1][0]


def test_kept_scans_know_a_folder_again_whatever_file_managers_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kinolab.data import scan

    monkeypatch.setattr(scan, "WORTH_KEEPING", 0.0)
    write_frames(tmp_path / "clips" / "a", list(range(8)))
    config = FolderConfig(path=tmp_path / "clips", frames=4, size=16, index=tmp_path / "scan.jsonl", split="all")
    first = FolderSource(config).verdicts()
    (tmp_path / "clips" / "a" / ".DS_Store").write_bytes(b"x")
    monkeypatch.setattr(scan, "scan_file", lambda *a, **k: pytest.fail("the clip was read again"))
    assert FolderSource(config).verdicts() == first


def test_scans_of_older_readers_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kinolab.data import scan

    monkeypatch.setattr(scan, "WORTH_KEEPING", 0.0)
    write_frames(tmp_path / "clips" / "a", list(range(8)))
    config = FolderConfig(path=tmp_path / "clips", frames=4, size=16, index=tmp_path / "scan.jsonl", split="all")
    FolderSource(config)
    text = (tmp_path / "scan.jsonl").read_text()
    assert '"reader": 2' in text
    (tmp_path / "scan.jsonl").write_text(text.replace(', "reader": 2', "").replace('"frames"', '"old"'))
    assert FolderSource(config).verdicts()[0].frames == 8


def test_a_folder_with_nothing_but_what_was_left_behind_can_be_written_to(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    video.write(folder, np.zeros((2, 8, 8, 3), np.uint8), 10)
    (folder / ".DS_Store").write_bytes(b"x")
    video.write(folder, np.zeros((3, 8, 8, 3), np.uint8), 10)
    assert len(video.read(folder).frames) == 3
    (folder / ".git").mkdir()
    with pytest.raises(InputError, match="something other"):
        video.write(folder, np.zeros((3, 8, 8, 3), np.uint8), 10)


def test_frames_of_two_sizes_name_the_one_that_differs(tmp_path: Path) -> None:
    write_frames(tmp_path / "a", [0, 1, 2])
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "00001.png")
    with pytest.raises(InputError, match=r"00001\.png: 8x8 pixels, but 00000\.png has 16x16"):
        video.read(tmp_path / "a")
    source = FolderSource(FolderConfig(path=tmp_path, frames=2, size=16, index="none"), allow_empty=True)
    assert "8x8 pixels" in source.verdicts()[0].dropped[0]
