"""Buckets of length, aspect and size: what windows they give, and that the cache holds them all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from kinolab.config import load_config, to_yaml
from kinolab.data import CacheConfig, CacheSource, FolderConfig, FolderSource, encode_to_cache
from kinolab.data.buckets import Buckets, bucket_name, outside_buckets
from kinolab.errors import InputError
from kinolab.runtime.summed import ENTRY
from tests.data.clip_files import MeanAutoencoder, frame_numbers, numbered_frames, write_numbered

BUCKETS = [
    {"frames": 9, "size": 16}, {"frames": 9, "size": [16, 32]}, {"frames": 5, "size": 16}, {"frames": 1, "size": 16},
    {"frames": 1, "size": [32, 16]},
]  # fmt: skip


def clips(path: Path, **settings: Any) -> FolderSource:
    values = {"path": path, "buckets": BUCKETS, "split": "all", "index": "none"} | settings
    return FolderSource(load_config(FolderConfig, values), MeanAutoencoder().spec)


def shapes(source: FolderSource) -> dict[str, list[tuple[int, ...]]]:
    found: dict[str, list[tuple[int, ...]]] = {}
    for i in range(len(source)):
        found.setdefault(source.record(i).source, []).append(tuple(source[i].video.shape[1:]))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "clips"
    write_numbered(path / "square.mkv", 20, mark=1)
    write_numbered(path / "wide.mkv", 9, mark=2, width=40)
    write_numbered(path / "short.mkv", 6, mark=3, width=40)
    write_numbered(path / "tiny.mkv", 3, mark=4)
    Image.fromarray(numbered_frames(1, height=48, mark=5)[0]).save(path / "tall.png")
    return path


def test_length_chooses_the_frames_and_aspect_the_size(folder: Path) -> None:
    source = clips(folder)
    assert shapes(source) == {
        "square.mkv": [(9, 16, 16)] * 2, "wide.mkv": [(9, 16, 32)], "short.mkv": [(5, 16, 16)],
        "tall.png": [(1, 32, 16)],
    }  # fmt: skip
    assert [[source.record(i).source for i in g] for g in source.groups()] == [
        ["wide.mkv"], ["square.mkv", "square.mkv"], ["short.mkv"], ["tall.png"]
    ]  # fmt: skip
    assert (source.frames, source.size) == (9, (16, 32)) and frame_numbers(source[2].video) == list(range(9, 18))
    dropped = {v.source: v.dropped for v in source.verdicts() if not v.kept}
    assert dropped == {"tiny.mkv": ("too short: 3 frames, a window has 5",)}
    assert shapes(clips(folder, short="image"))["tiny.mkv"] == [(1, 16, 16)]


def test_all_lengths_are_beginnings_of_the_longest(folder: Path) -> None:
    source = clips(folder, lengths="all")
    assert shapes(source)["square.mkv"] == [(9, 16, 16)] * 2 + [(5, 16, 16)] * 2 + [(1, 16, 16)] * 2
    mine = [source[i] for i in range(len(source)) if source.record(i).source == "square.mkv"]
    assert [frame_numbers(e.video)[0] for e in mine] == [0, 9] * 3
    walked = dict(source.walk(range(len(source))))
    assert all(torch.equal(walked[i].video, source[i].video) for i in range(len(source)))


def test_the_cache_holds_every_shape_and_goes_on(folder: Path, tmp_path: Path) -> None:
    network = MeanAutoencoder()
    source = clips(folder, lengths="all")
    summary = encode_to_cache(source, network, tmp_path / "c", dtype="float32", batch=2)
    assert summary.encoded == len(source)
    again = encode_to_cache(clips(folder, lengths="all"), network, tmp_path / "c", dtype="float32", batch=2)
    assert (again.encoded, again.present) == (0, len(source))
    cache = CacheSource(CacheConfig(path=tmp_path / "c", split="all"))
    assert len(cache) == len(source)
    where = {(r.source, r.time_range, r.frames): i for i, r in ((i, source.record(i)) for i in range(len(source)))}
    for i in range(len(cache)):
        r = cache.record(i)
        assert torch.equal(
            cache[i].latents, network.encode(source[where[r.source, r.time_range, r.frames]].video[None]).mean[0]
        )
    assert [[cache.shape(i) for i in g] for g in cache.groups()] == [
        [(5, 4, 8)], [(5, 4, 4)] * 2, [(3, 4, 4)] * 4, [(1, 8, 4)], [(1, 4, 4)] * 4
    ]  # fmt: skip


def test_the_size_is_part_of_an_items_address(folder: Path, tmp_path: Path) -> None:
    network = MeanAutoencoder()
    encode_to_cache(clips(folder), network, tmp_path / "c")
    larger = [{"frames": 9, "size": 32}, *BUCKETS[1:]]
    with pytest.raises(InputError, match="is now cut into other windows"):
        encode_to_cache(clips(folder, buckets=larger), network, tmp_path / "c")


def test_an_index_without_sizes_is_still_read(tmp_path: Path) -> None:
    write_numbered(tmp_path / "clips" / "a.mkv", 9)
    values = {"path": tmp_path / "clips", "size": 16, "frames": 9, "split": "all", "index": "none"}
    source = FolderSource(FolderConfig.model_validate(values), MeanAutoencoder().spec)
    encode_to_cache(source, MeanAutoencoder(), tmp_path / "c")
    index = tmp_path / "c" / "index.jsonl"
    line = json.loads(index.read_text())
    for item in line["items"]:
        assert item.pop("size") is None
    del line[ENTRY]  # which such an index hasn't either
    index.write_text(json.dumps(line) + "\n")
    assert CacheSource(CacheConfig(path=tmp_path / "c", split="all")).record(0).size is None
    assert encode_to_cache(source, MeanAutoencoder(), tmp_path / "c").present == 1


@pytest.mark.parametrize(
    ("frames", "picture", "size"),
    [
        (9, (100, 100), (64, 64)),
        (9, (40, 40), (32, 32)),
        (9, (20, 20), (32, 32)),
        (9, (90, 160), (32, 64)),
        (9, (200, 100), (64, 64)),
        (1, (200, 100), (64, 32)),
        (5, (100, 50), (64, 32)),
    ],
)
def test_sizes_of_the_nearest_aspect_that_need_no_enlarging(
    frames: int, picture: tuple[int, int], size: tuple[int, int]
) -> None:
    buckets = Buckets(((9, 64, 64), (9, 32, 32), (9, 32, 64), (1, 64, 32)))
    assert buckets.size(frames, picture) == size


def test_lengths() -> None:
    buckets = Buckets(((1, 8, 8), (17, 8, 8), (9, 16, 8), (9, 8, 8)))
    assert buckets.lengths == [17, 9, 1] and buckets.largest == (17, 8, 8)
    assert [buckets.longest(n) for n in (40, 17, 16, 8, 1)] == [17, 17, 9, None, None]
    assert Buckets(((1, 8, 8),)).longest(4) == 1
    assert bucket_name((17, 64, 96)) == "17x64x96"


@pytest.mark.parametrize(
    ("frames", "size", "message"),
    [
        (9, (64, 64), None),
        (5, (48, 80), None),
        (13, (64, 64), None),
        (21, (64, 64), "trained on 1 to 17 frames, asked for 21"),
        (9, (96, 32), "trained on pictures of height / width 0.5 to 1, asked for 96x32 (3)"),
        (9, (128, 128), "trained on pictures of 2048 to 4096 pixels, asked for 128x128 (16384)"),
    ],
)
def test_requests_outside_the_buckets_are_told(frames: int, size: tuple[int, int], message: str | None) -> None:
    assert outside_buckets([(1, 64, 64), (17, 64, 64), (9, 32, 64)], frames, size) == message
    assert outside_buckets([], frames, size) is None


def test_impossible_buckets_are_explained(folder: Path) -> None:
    with pytest.raises(InputError, match="buckets take the place of frames and size"):
        clips(folder, frames=9)
    with pytest.raises(InputError, match="lengths=all is for buckets"):
        clips(folder, buckets=[], lengths="all")
    with pytest.raises(InputError, match="multiples of 4"):
        clips(folder, buckets=[{"frames": 9, "size": 18}])
    source = clips(folder, buckets=[{"frames": 10, "size": 16}])
    assert source.frames == 9 and "windows of 9 frames instead of 10" in source.notes()[0]


def test_a_config_with_buckets_is_written_back(folder: Path, tmp_path: Path) -> None:
    config = clips(folder).config
    (tmp_path / "x.yaml").write_text(to_yaml(config))
    assert load_config(FolderConfig, tmp_path / "x.yaml") == config
