"""Which clips of a folder or of the toy world a protocol takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kinolab import video
from kinolab.autoencoders.base import AutoencoderSpec
from kinolab.data import FolderConfig
from kinolab.errors import InputError
from kinolab.evaluation.clips import GeneratedClips, ProtocolClips, prompt_beside
from kinolab.evaluation.protocol import Protocol
from tests.data.clip_files import frame_numbers, numbered_frames, write_numbered

PROTOCOL = Protocol(name="p", kind="generation", metrics=("temporal_flickering",), frames=4, size=16)


def protocol(**changes: Any) -> Protocol:
    return PROTOCOL.model_copy(update=changes)


def clips(folder: Path, **changes: Any) -> ProtocolClips:
    return ProtocolClips(FolderConfig(path=folder, index="none"), protocol(**changes))


def shown(chosen: ProtocolClips) -> list[tuple[str, int, int]]:
    """File, first and last frame of every clip, in order."""
    found = []
    for batch in chosen.batches(3):
        for name, clip in zip(batch.names, batch.video, strict=True):
            numbers = frame_numbers(clip)
            found.append((name.split()[0], numbers[0], numbers[-1]))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a: 12 frames, b: 9, c: 5."""
    path = tmp_path_factory.mktemp("clips")
    for mark, (name, count) in enumerate((("a", 12), ("b", 9), ("c", 5))):
        write_numbered(path / f"{name}.mkv", count, mark=mark)
    return path


def test_all_windows_or_the_first_of_each_file(folder: Path) -> None:
    everything = [("a.mkv", 0, 3), ("a.mkv", 4, 7), ("a.mkv", 8, 11), ("b.mkv", 0, 3), ("b.mkv", 4, 7), ("c.mkv", 0, 3)]
    assert shown(clips(folder)) == everything
    assert shown(clips(folder, windows="first")) == [("a.mkv", 0, 3), ("b.mkv", 0, 3), ("c.mkv", 0, 3)]


def test_random_windows_take_one_of_each_file_in_turn_and_none_twice(folder: Path) -> None:
    everything = clips(folder, windows="random", seed=5)
    files = [name for name, _, _ in shown(everything)]
    assert len(everything) == (12 - 3) + (9 - 3) + (5 - 3) == len(set(everything.indices))
    assert [set(files[k : k + 3]) for k in (0, 3)] == [{"a.mkv", "b.mkv", "c.mkv"}] * 2
    assert "c.mkv" not in files[6:], "its two windows are used up"
    seeds = [clips(folder, windows="random", samples=2, seed=s) for s in range(12)]
    assert {tuple(sorted({n for n, _, _ in shown(c)})) for c in seeds} == {
        ("a.mkv", "b.mkv"), ("a.mkv", "c.mkv"), ("b.mkv", "c.mkv"),
    }, "where files are more than samples, not always the first by name"  # fmt: skip
    starts = {start for c in seeds for name, start, _ in shown(c) if name == "a.mkv"}
    assert len(starts) > 2 and starts <= set(range(9))


@pytest.mark.parametrize("windows", ["all", "first", "random"])
def test_samples_are_drawn_with_the_seed(folder: Path, windows: str) -> None:
    one, same, other = (clips(folder, windows=windows, samples=2, seed=s) for s in (0, 0, 3))
    assert len(one) == len(one.indices) == 2 and one.indices == same.indices
    assert any(
        clips(folder, windows=windows, samples=2, seed=s).indices != one.indices for s in range(1, 6)
    ), "the seed decides"  # fmt: skip
    assert one.content_hash() == same.content_hash()
    assert (one.content_hash() == other.content_hash()) == (one.indices == other.indices)


def test_an_interval_spans_more_of_the_file(folder: Path) -> None:
    [(name, first, last)] = shown(clips(folder, interval=3))
    assert (name, first, last) == ("a.mkv", 0, 9)
    whole = clips(folder, interval=3)
    assert frame_numbers(next(whole.batches(1)).video[0]) == [0, 3, 6, 9]
    assert whole.record(0).fps == pytest.approx(10 / 3) and whole.record(0).time_range == pytest.approx((0, 1.2))
    assert whole.notes() == [
        f"{folder}: 2 of 3 files are no clips, the first is b.mkv: too short: 3 frames (3 frames apart), a window has 4"
    ]


def test_batches_are_as_large_as_asked_and_say_what_is_in_them(folder: Path) -> None:
    batches = list(clips(folder).batches(4))
    assert [len(b.names) for b in batches] == [4, 2] and batches[0].video.shape == (4, 3, 4, 16, 16)
    assert batches[0].names[1] == "a.mkv 0.40s" and batches[0].captions == (None,) * 4


def test_frames_follow_the_autoencoder_and_it_is_said(folder: Path) -> None:
    rule = AutoencoderSpec(latent_channels=4, temporal_ratio=2, spatial_ratio=8, causal=True)
    chosen = ProtocolClips(folder, PROTOCOL, rule)
    assert chosen.frames == 3 and "windows of 3 frames instead of 4" in chosen.notes()[0]


def test_mixed_sizes_become_one(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.mkv", 4)
    write_numbered(tmp_path / "b.mkv", 4, height=24, width=40)
    [batch] = clips(tmp_path).batches(8)
    assert batch.video.shape == (2, 3, 4, 16, 16)
    assert [frame_numbers(v) for v in batch.video] == [[0, 1, 2, 3]] * 2


def test_a_folder_of_numbered_images_is_one_clip(tmp_path: Path) -> None:
    video.write(tmp_path / "one" / "series", numbered_frames(5), 10)
    assert shown(clips(tmp_path / "one")) == [("series", 0, 3)]
    assert shown(ProtocolClips(tmp_path / "one" / "series", PROTOCOL)) == [(".", 0, 3)]


def test_the_content_hash_is_of_what_is_seen(tmp_path: Path) -> None:
    write_numbered(tmp_path / "x" / "a.mkv", 8)
    before = clips(tmp_path / "x").content_hash()
    (tmp_path / "x").rename(tmp_path / "moved")
    (tmp_path / "moved" / "a.mkv").rename(tmp_path / "moved" / "renamed.mkv")
    assert clips(tmp_path / "moved").content_hash() == before
    different = [clips(tmp_path / "moved", **c).content_hash() for c in (
        {"frames": 3}, {"size": 32}, {"resize": "pad"}, {"interval": 2}, {"fps": 7.0}, {"windows": "first"},
    )]  # fmt: skip
    write_numbered(tmp_path / "moved" / "renamed.mkv", 8, mark=1)
    assert len({before, *different, clips(tmp_path / "moved").content_hash()}) == 8


def test_a_description_says_what_was_measured(folder: Path) -> None:
    chosen = clips(folder, samples=5)
    described = chosen.describe()
    assert described["clips"] == 5 and described["frames"] == 4 and described["size"] == "16x16"
    assert described["sha256"] == chosen.content_hash() and described["files"] in (2, 3)
    assert ProtocolClips(folder, PROTOCOL, name="mine").describe()["name"] == "mine"


def test_a_clip_that_changes_after_the_scan_is_named(tmp_path: Path) -> None:
    for mark, name in enumerate("abc"):
        write_numbered(tmp_path / f"{name}.mkv", 4, mark=mark)
    chosen = clips(tmp_path)
    write_numbered(tmp_path / "b.mkv", 2)
    with pytest.raises(InputError, match=r"b\.mkv: can't be read any more"):
        list(chosen.batches(2))
    (tmp_path / "c.mkv").unlink()
    chosen.indices = [0, 2]
    with pytest.raises(InputError, match=r"c\.mkv: can't be read any more"):
        list(chosen.batches(2))


def test_the_world_gives_as_many_clips_as_asked() -> None:
    world = ProtocolClips("world", protocol(samples=3, size=32))
    [batch] = world.batches(8)
    assert batch.video.shape == (3, 3, 4, 32, 32) and all(batch.captions) and None not in batch.labels
    again, longer = (ProtocolClips("world", protocol(samples=n, size=32)) for n in (3, 4))
    assert again.content_hash() == world.content_hash() != longer.content_hash()


def test_generated_videos_give_their_first_frames_whatever_the_real_ones_skip(folder: Path) -> None:
    taken = GeneratedClips(folder, protocol(interval=3, fps=5.0, split="heldout", windows="random"))
    assert shown(taken) == [("a.mkv", 0, 3), ("b.mkv", 0, 3), ("c.mkv", 0, 3)]
    assert [b.names for b in taken.batches(8)] == [("a.mkv", "b.mkv", "c.mkv")]
    assert len(GeneratedClips(folder, protocol(samples=2))) == 2


def test_prompts_come_from_the_json_beside(tmp_path: Path) -> None:
    for mark, name in enumerate(("a", "b", "c", "d")):
        write_numbered(tmp_path / f"{name}.mkv", 4, mark=mark)
    video.write(tmp_path / "series", numbered_frames(4, first=50), 10)
    (tmp_path / "a.json").write_text(json.dumps({"prompt": "a red ball falls"}))
    (tmp_path / "b.json").write_bytes(b"\xff not JSON")
    (tmp_path / "c.json").write_text(json.dumps(["prompt"]))
    (tmp_path / "series.json").write_text(json.dumps({"prompt": "a blue box"}))
    [batch] = GeneratedClips(tmp_path, PROTOCOL).batches(8)
    assert dict(zip(batch.names, batch.captions, strict=True)) == {
        "a.mkv": "a red ball falls", "b.mkv": None, "c.mkv": None, "d.mkv": None, "series": "a blue box",
    }  # fmt: skip
    assert prompt_beside(tmp_path / "nothing.mp4") is None


def test_equal_videos_of_a_model_all_count_and_copies_among_real_ones_do_not(tmp_path: Path) -> None:
    for name in "abc":
        write_numbered(tmp_path / f"{name}.mkv", 4)
    assert len(GeneratedClips(tmp_path, PROTOCOL)) == 3
    real = clips(tmp_path)
    assert len(real) == 1 and real.notes()[0].endswith(
        "2 of 3 files are no clips, the first is b.mkv: same content as a.mkv"
    )


def test_videos_that_are_too_short_are_said_and_all_of_them_are_refused(tmp_path: Path) -> None:
    write_numbered(tmp_path / "long.mkv", 6)
    write_numbered(tmp_path / "short.mkv", 3, mark=1)
    taken = GeneratedClips(tmp_path, PROTOCOL)
    assert (
        len(taken) == 1 and "1 of 2 files are no clips, the first is short.mkv: too short: 3 frames" in taken.notes()[0]
    )
    with pytest.raises(InputError, match=r"none of 2 clips is usable: long\.mkv: too short: 6 frames, a window has 9"):
        GeneratedClips(tmp_path, protocol(frames=9))


def test_a_single_video_is_a_folder_of_one(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mkv", 9)
    assert shown(ProtocolClips(path, PROTOCOL)) == [("a.mkv", 0, 3), ("a.mkv", 4, 7)]
    assert torch.equal(
        next(ProtocolClips(str(path), PROTOCOL).batches(1)).video, next(clips(tmp_path).batches(1)).video
    )
    with pytest.raises(InputError, match=r"no clip on the heldout side .*holding out needs two different clips"):
        ProtocolClips(path, protocol(split="heldout"))


def test_missing_and_empty_folders_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder of clips"):
        ProtocolClips(str(tmp_path / "nowhere"), PROTOCOL)
    for kind in (ProtocolClips, GeneratedClips):
        with pytest.raises(InputError, match="no clips; expected"):
            kind(tmp_path, PROTOCOL)


def test_broken_captions_are_a_note_until_somebody_needs_them(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.mkv", 6)
    (tmp_path / "captions.csv").write_bytes(b"file,caption\na.mkv,caf\xe9\n")
    for taken in (ProtocolClips(tmp_path, PROTOCOL), GeneratedClips(tmp_path, PROTOCOL)):
        assert len(taken) == 1 and "captions.csv" in taken.notes()[0] and "not needed here" in taken.notes()[0]
        with pytest.raises(InputError, match=r"captions\.csv"):
            taken.require_annotations()
    ProtocolClips("world", PROTOCOL.model_copy(update={"size": 64})).require_annotations()
