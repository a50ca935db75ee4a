from pathlib import Path

import numpy as np
import pytest
import torch

from kinolab import video
from kinolab.autoencoders.base import AutoencoderSpec
from kinolab.data import FolderConfig, FolderSource, scan
from kinolab.data.scan import is_frame_folder
from kinolab.errors import InputError
from tests.data.clip_files import frame_numbers, numbered_frames, write_numbered

RULE = AutoencoderSpec(latent_channels=4, temporal_ratio=4, spatial_ratio=8, causal=True)


def folder(path: Path, **settings: object) -> FolderSource:
    values = {"path": path, "size": 16, "split": "all", "index": "none"} | settings
    return FolderSource(FolderConfig.model_validate(values))


def test_windows_hold_the_frames_they_claim(tmp_path: Path) -> None:
    write_numbered(tmp_path / "deep" / "er" / "a.mkv", 23)
    source = folder(tmp_path, frames=5)
    assert [frame_numbers(source[i].video) for i in range(len(source))] == [
        list(range(k, k + 5)) for k in (0, 5, 10, 15)
    ]
    assert source[2].source == "deep/er/a.mkv"
    assert source[2].time_range == pytest.approx((1.0, 1.5))
    [verdict] = source.verdicts()
    assert (verdict.kept, verdict.frames, verdict.size) == (4, 23, (16, 16))
    assert verdict.dropped == ("3 frames that fill no window",)


def test_reading_in_one_pass_gives_what_single_reads_give(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.mkv", 23)
    video.write(tmp_path / "b.mp4", numbered_frames(60, height=32, width=48), 24)
    source = folder(tmp_path, frames=6, stride=4, fps=12)
    order = [*range(len(source)), 3, 1, 1, 0]
    walked = list(source.walk(order))
    assert [i for i, _ in walked] == order
    assert all(torch.equal(example.video, source[i].video) for i, example in walked)


def test_far_apart_windows_are_read_by_seeking(tmp_path: Path) -> None:
    write_numbered(tmp_path / "long.mkv", 200, fps=25)
    source = folder(tmp_path, frames=2, stride=180)
    assert [frame_numbers(e.video) for _, e in source.walk([0, 1])] == [[0, 1], [180, 181]]


@pytest.mark.parametrize("fps", [4.0, 5.0, 7.0, 10.0, 16.0, 20.0])
def test_retiming_shows_what_a_read_at_that_rate_shows(tmp_path: Path, fps: float) -> None:
    path = write_numbered(tmp_path / "a.mkv", 20)
    source = folder(tmp_path, frames=6, fps=fps)
    expected = video.read(path, fps=fps).frames[:, 8, 8, 0].tolist()
    assert frame_numbers(source[0].video) == expected[:6]
    assert len(source) == len(expected) // 6
    assert source[0].fps == fps
    notes = " ".join(source.verdicts()[0].notes)
    assert ("repeat" in notes) == (fps > 10) and ("re-timed" in notes) == (fps != 10)


def test_a_rate_off_by_a_hair_is_taken_as_it_is(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.mkv", 60, fps=29.97)
    source = folder(tmp_path, frames=30, fps=30)
    assert [frame_numbers(source[i].video) for i in (0, 1)] == [list(range(30)), list(range(30, 60))]
    assert source.verdicts()[0].notes[0].endswith("fps taken as 30")


def test_frame_counts_follow_the_autoencoder_and_it_is_said(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.mkv", 20)
    config = FolderConfig(path=tmp_path, frames=16, size=16, split="all", index="none")
    source = FolderSource(config, RULE)
    assert source.frames == 13 and source[0].video.shape == (3, 13, 16, 16)
    assert source.notes() == ["windows of 13 frames instead of 16: the autoencoder takes 1 + 4*k frames"]
    with pytest.raises(InputError, match="multiples of 8"):
        FolderSource(config.model_copy(update={"size": 20}), RULE)


def test_pictures_are_resized_and_what_is_lost_is_said(tmp_path: Path) -> None:
    write_numbered(tmp_path / "wide.mkv", 4, height=16, width=32)
    for resize, said in (
        ("crop", "crop loses 50%"),
        ("pad", "50% of the window is padding"),
        ("stretch", "stretched by 2"),
    ):
        source = folder(tmp_path, frames=4, size=[32, 32], resize=resize)
        assert source[0].video.shape == (3, 4, 32, 32)
        notes = source.verdicts()[0].notes
        assert any(said in note for note in notes)
        assert any("32x16 enlarged 2 times" in note for note in notes) == (resize != "pad")


def test_bad_files_are_dropped_with_their_cause(tmp_path: Path) -> None:
    write_numbered(tmp_path / "good.mkv", 6)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("not a video")
    whole = (tmp_path / "good.mkv").read_bytes()
    (tmp_path / "stub.mkv").write_bytes(whole[:200])
    write_numbered(tmp_path / "short.mkv", 3)
    source = folder(tmp_path, frames=5)
    said = {v.source: v for v in source.verdicts()}
    assert len(source) == 1 and said["good.mkv"].kept == 1
    assert "empty" in said["empty.mp4"].dropped[0]
    assert "not a video" in said["text.mp4"].dropped[0]
    assert said["stub.mkv"].kept == 0 and said["stub.mkv"].dropped
    assert said["short.mkv"].dropped == ("too short: 3 frames, a window has 5",)
    with pytest.raises(InputError, match=r"none of 5 clips is usable.*empty\.mp4"):
        folder(tmp_path, frames=50)


def test_frames_before_the_damage_are_used(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), np.uint8)
    video.write(tmp_path / "a.mkv", noise, 10, lossless=True)
    whole = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    source = folder(tmp_path, frames=4)
    [verdict] = source.verdicts()
    assert 3 <= verdict.kept < 7 and verdict.dropped[0].startswith("everything after")
    assert np.array_equal(video.to_uint8(source[2].video), noise[8:12])


def test_a_file_that_changes_after_the_scan_is_named(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.mkv", 10)
    source = folder(tmp_path, frames=5)
    write_numbered(tmp_path / "a.mkv", 7)
    assert [i for i, _ in source.walk([0, 1])] == [0]
    with pytest.raises(InputError, match=r"a\.mkv"):
        source[1]


def test_copies_are_used_once(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.mkv", 5)
    (tmp_path / "b.mkv").write_bytes((tmp_path / "a.mkv").read_bytes())
    source = folder(tmp_path, frames=5)
    assert [v.dropped for v in source.verdicts()] == [(), ("same content as a.mkv",)]


def test_a_file_lies_on_one_side_and_stays_there(tmp_path: Path) -> None:
    for mark in range(12):
        write_numbered(tmp_path / f"{mark}.mkv", 6, mark=mark)
    sides = {s: folder(tmp_path, frames=2, split=s, heldout_fraction=0.4) for s in ("train", "heldout", "all")}
    files = {s: {source.record(i).source for i in range(len(source))} for s, source in sides.items()}
    assert files["train"] | files["heldout"] == files["all"] and not files["train"] & files["heldout"]
    assert len(sides["train"]) + len(sides["heldout"]) == len(sides["all"]) == 36
    for mark in range(12, 16):
        write_numbered(tmp_path / f"{mark}.mkv", 6, mark=mark)
    grown = folder(tmp_path, frames=2, split="train", heldout_fraction=0.4)
    assert files["train"] <= {grown.record(i).source for i in range(len(grown))}


def test_two_clips_can_be_split_and_one_can_not(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.mkv", 4, mark=1)
    with pytest.raises(InputError, match="two different clips"):
        folder(tmp_path, frames=4, split="heldout")
    assert len(folder(tmp_path, frames=4, split="train")) == 1
    write_numbered(tmp_path / "b.mkv", 4, mark=2)
    assert len(folder(tmp_path, frames=4, split="train")) == len(folder(tmp_path, frames=4, split="heldout")) == 1


def test_numbered_images_are_one_clip_and_others_are_stills(tmp_path: Path) -> None:
    video.write(tmp_path / "series", numbered_frames(6), 10)
    video.write(tmp_path / "tmp", numbered_frames(1, first=77), 10)
    [still] = (tmp_path / "tmp").iterdir()
    still.rename(tmp_path / "photo.png")
    (tmp_path / "tmp").rmdir()
    source = folder(tmp_path, frames=3, images="use", image_fps=5)
    assert [frame_numbers(source[i].video) for i in range(3)] == [[77], [0, 1, 2], [3, 4, 5]]
    assert source.groups() == [[1, 2], [0]] and source[1].fps == 5
    auto = folder(tmp_path, frames=3)
    assert len(auto) == 2 and "still image" in auto.verdicts()[0].dropped[0]
    assert len(folder(tmp_path, frames=1)) == 7


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["1.png", "2.png", "3.png"], True),
        (["f_09.jpg", "f_10.jpg", "f_11.jpg"], True),
        (["1.png", "3.png"], False),
        (["cat1.png", "dog2.png"], False),
        (["1.png"], False),
        (["1.png", "2.png", "clip.mp4"], False),
        (["beach.png", "forest.png"], False),
    ],
)
def test_which_folders_are_clips(files: list[str], expected: bool) -> None:
    assert is_frame_folder(files) is expected


def test_short_clips_can_serve_as_images(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.mkv", 3)
    source = folder(tmp_path, frames=5, short="image")
    assert frame_numbers(source[0].video) == [0]
    assert "used as an image" in source.verdicts()[0].notes[-1]


def test_no_window_crosses_a_scene_cut(tmp_path: Path) -> None:
    pytest.importorskip("scenedetect")
    random = np.random.default_rng(0)
    scenes = [np.repeat(random.integers(0, 256, (1, 32, 32, 3), np.uint8), 12, axis=0) for _ in range(2)]
    video.write(tmp_path / "a.mkv", np.concatenate(scenes), 10, lossless=True)
    source = folder(tmp_path, frames=5, size=32, scene_cuts="split")
    starts = [round(source.record(i).time_range[0] * 10) for i in range(len(source))]
    assert starts == [0, 5, 12, 17]
    assert source.verdicts()[0].notes == ("2 scenes",) and source.verdicts()[0].dropped == (
        "4 frames that fill no window",
    )


def test_a_kept_scan_reads_changed_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "WORTH_KEEPING", 0.0)
    clips, index = tmp_path / "clips", tmp_path / "kept" / "scan.jsonl"
    for name in "ab":
        write_numbered(clips / f"{name}.mkv", 5, mark=ord(name))
    first = folder(clips, frames=5, index=index)
    read: list[str] = []
    original = scan.scan_file

    def watched(path: Path, name: str, **settings: object) -> scan.ScannedFile:
        read.append(name)
        return original(path, name)

    monkeypatch.setattr(scan, "scan_file", watched)
    again = folder(clips, frames=5, index=index)
    assert read == [] and again.verdicts() == first.verdicts()
    write_numbered(clips / "b.mkv", 7, mark=9)
    assert folder(clips, frames=5, index=index).verdicts()[1].frames == 7 and read == ["b.mkv"]
    index.write_text("{broken")
    assert folder(clips, frames=5, index=index).verdicts()[1].frames == 7


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        folder(tmp_path / "nowhere")
    (tmp_path / "readme.md").write_text("x")
    with pytest.raises(InputError, match="no clips"):
        folder(tmp_path)


def test_a_single_file_is_a_folder_of_one(tmp_path: Path) -> None:
    write_numbered(tmp_path / "b.mkv", 5)
    path = write_numbered(tmp_path / "a.mkv", 6, mark=1)
    source = folder(path, frames=5)
    assert [v.source for v in source.verdicts()] == ["a.mkv"] and frame_numbers(source[0].video) == [0, 1, 2, 3, 4]


def test_an_interval_takes_every_nth_frame_over_the_whole_span(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.mkv", 23)
    source = folder(tmp_path, frames=3, interval=3)
    assert [frame_numbers(source[i].video) for i in range(len(source))] == [[0, 3, 6], [9, 12, 15]]
    assert source[1].fps == pytest.approx(10 / 3) and source[1].time_range == pytest.approx((0.9, 1.8))
    assert source.verdicts()[0].dropped == ("2 frames that fill no window",)
    assert [e.video.equal(source[i].video) for i, e in source.walk([0, 1])] == [True, True]
    assert len(folder(tmp_path, frames=8, interval=3)) == 1
    with pytest.raises(InputError, match=r"too short: 8 frames \(3 frames apart\), a window has 9"):
        folder(tmp_path, frames=9, interval=3)


def test_an_interval_counts_frames_of_the_asked_rate_and_strides_count_after_it(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.mkv", 20)
    source = folder(tmp_path, frames=3, fps=5.0, interval=2)  # 10 fps -> 5 -> every second
    assert [frame_numbers(source[i].video) for i in range(len(source))] == [[0, 4, 8]]
    assert source[0].fps == 2.5
    overlapping = folder(tmp_path, frames=3, interval=2, stride=1)
    assert [frame_numbers(overlapping[i].video) for i in (0, 1, len(overlapping) - 1)] == [
        [0, 2, 4], [2, 4, 6], [14, 16, 18],
    ]  # fmt: skip
    assert folder(tmp_path, frames=5, interval=1)[1].video.equal(folder(tmp_path, frames=5)[1].video)


def test_an_interval_changes_what_a_cached_window_is(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.mkv", 20)
    records = [folder(tmp_path, frames=3, interval=n).record(0) for n in (1, 2, 3)]
    assert len({(r.time_range, r.frames, r.fps) for r in records}) == 3


def test_windows_in_memory_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_numbered(tmp_path / "a.mkv", 12)
    plain, kept = folder(tmp_path, frames=4), folder(tmp_path, frames=4, in_memory=True)
    first = [kept[i].video for i in range(3)]
    first[0].mul_(0)  # what was given out is the caller's own
    monkeypatch.setattr(FolderSource, "_read", lambda *_: pytest.fail("the file was read again"))
    again = [kept[i] for i in range(3)]
    assert [frame_numbers(e.video) for e in again] == [list(range(k, k + 4)) for k in (0, 4, 8)]
    assert [(e.source, e.time_range, e.fps) for e in again] == [
        (r.source, r.time_range, r.fps) for r in map(plain.record, range(3))
    ]
    assert [frame_numbers(e.video) for e in (kept[2], kept[0])] == [[8, 9, 10, 11], [0, 1, 2, 3]]


def test_copies_can_be_kept(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.mkv", 5)
    (tmp_path / "b.mkv").write_bytes((tmp_path / "a.mkv").read_bytes())
    source = folder(tmp_path, frames=5, copies="keep")
    assert [source[i].source for i in range(len(source))] == ["a.mkv", "b.mkv"]
    write_numbered(tmp_path / "c.mkv", 5, mark=1)
    sides = [folder(tmp_path, frames=5, copies="keep", split=s, heldout_fraction=0.5) for s in ("train", "heldout")]
    names = [{s[i].source for i in range(len(s))} for s in sides]
    assert {"a.mkv", "b.mkv"} in names and {"c.mkv"} in names, "copies never stand on both sides"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.csv", b"file,caption\na.mkv,caf\xe9\n"),  # another encoding
        ("captions.csv", b'file,caption\na.mkv,"never closed\n'),
        ("captions.jsonl", b'{"file": "a.mkv", "caption": \n'),
        ("captions.json", b"[1, 2"),
        ("labels.csv", b"file,label\na.mkv,1\na.mkv,2\n"),
        ("captions.csv", b"file,caption\nnobody.mkv,a cat\n"),  # names no clip
        ("a.txt", b"caf\xe9\n"),
    ],
)
def test_broken_captions_stop_those_alone_who_need_them(tmp_path: Path, name: str, content: bytes) -> None:
    write_numbered(tmp_path / "a.mkv", 5)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as refused:
        folder(tmp_path, frames=5)
    config = FolderConfig(path=tmp_path, size=16, split="all", index="none", frames=5)
    source = FolderSource(config, annotated=False)
    assert frame_numbers(source[0].video) == list(range(5)) and source.record(0).caption is None
    assert f"captions and labels are not read, and not needed here: {refused.value}" in source.notes()
    with pytest.raises(InputError) as later:
        source.require_annotations()
    assert str(later.value) == str(refused.value)


def test_captions_that_are_whole_are_read_by_those_who_need_none(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.mkv", 5)
    (tmp_path / "a.txt").write_text("a cat")
    source = FolderSource(FolderConfig(path=tmp_path, size=16, split="all", index="none", frames=5), annotated=False)
    source.require_annotations()
    assert source[0].caption == "a cat" and not source.notes()
