"""Features of clips: the right networks, named clips that break them, and a cache that is never stale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.errors import InputError
from kinolab.evaluation import features as module
from kinolab.evaluation.clips import ProtocolClips
from kinolab.evaluation.features import Extractors, cache_key, default_cache, extract, needed, reference_features
from kinolab.metrics.extractors.encoder import load_encoder
from kinolab.runtime import system
from tests.closeness import assert_close, difference
from tests.evaluation.tiny import generation, moving_frames, tiny_encoder, write_videos

BOTH = ("fvd", "fid")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("real"), 5)


def cached(folder: Path, encoder: Path, cache: Path | None, **changes: Any) -> tuple[dict[str, Tensor], bool]:
    protocol = generation(encoder, **{"metrics": BOTH} | changes)
    return reference_features(ProtocolClips(folder, protocol), protocol, Extractors(protocol), cache, batch=2)


def test_features_are_the_extractors_own_in_the_order_of_the_clips(encoder: Path, real: Path) -> None:
    protocol = generation(encoder, metrics=BOTH)
    clips, seen = ProtocolClips(real, protocol), list[tuple[int, int]]()
    found = extract(clips.batches(2), Extractors(protocol), len(clips), lambda a, b: seen.append((a, b)))
    whole = torch.cat([b.video for b in clips.batches(1)])
    assert_close(found["video"], load_encoder(encoder)(whole))
    assert_close(found["image"], load_encoder(encoder, per_frame=True)(whole))
    assert found["image"].shape == (5 * 5, 4) and seen == [(2, 5), (4, 5), (5, 5)]


def test_only_the_networks_that_a_metric_reads_are_loaded(tmp_path: Path) -> None:
    missing = {"path": tmp_path / "nowhere"}
    protocol = generation(tmp_path, metrics=("temporal_flickering",), video=missing, image=missing)
    assert Extractors(protocol).networks == {}
    assert needed("video", generation(tmp_path, metrics=("coverage",)))
    assert not needed("image", generation(tmp_path, metrics=("coverage",)))
    assert needed("image", generation(tmp_path, metrics=("subject_consistency",)))


def test_a_cache_gives_equal_features_without_reading_a_clip(
    encoder: Path, real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, hit = cached(real, encoder, None)
    assert not hit
    first, hit = cached(real, encoder, tmp_path / "new" / "cache")
    assert not hit and len(list((tmp_path / "new" / "cache").iterdir())) == 1
    monkeypatch.setattr(ProtocolClips, "batches", lambda *_: pytest.fail("the clips were read again"))
    again, hit = cached(real, encoder, tmp_path / "new" / "cache")
    assert hit and set(again) == {"video", "image"}
    for role, values in plain.items():
        assert torch.equal(values, first[role]) and torch.equal(values, again[role])


def test_the_names_and_places_of_protocol_and_data_do_not_matter(encoder: Path, tmp_path: Path) -> None:
    write_videos(tmp_path / "a", 3)
    cached(tmp_path / "a", encoder, tmp_path / "cache")
    (tmp_path / "a").rename(tmp_path / "b")
    assert cached(tmp_path / "b", encoder, tmp_path / "cache", name="other", description="other")[1]


@pytest.mark.slow
def test_changed_data_protocol_or_weights_miss(encoder: Path, tmp_path: Path) -> None:
    folder, cache = write_videos(tmp_path / "clips", 3), tmp_path / "cache"
    before, _ = cached(folder, encoder, cache)
    for changes in ({"frames": 4}, {"size": 16}, {"seed": 1}, {"minimum": 11}, {"metrics": ("fvd",)}):
        assert not cached(folder, encoder, cache, **changes)[1]
    other, hit = cached(folder, tiny_encoder(tmp_path / "other", seed=1), cache)
    assert not hit and not torch.equal(other["video"], before["video"])
    _, hit = cached(folder, tiny_encoder(tmp_path / "groups", groups=4), cache)
    assert not hit, "the same weights with another config"
    write_videos(folder, 1, first=9)
    after, hit = cached(folder, encoder, cache)
    assert not hit and not torch.equal(after["video"], before["video"])
    assert len(list(cache.iterdir())) == 9


def test_the_key_is_a_plain_file_name(encoder: Path, real: Path) -> None:
    protocol = generation(encoder)
    clips = ProtocolClips(real, protocol)
    key = cache_key(clips, protocol, ["video"])
    assert key.isalnum() and key == cache_key(clips, protocol, ["video"]) != cache_key(clips, protocol, ["image"])
    assert default_cache().is_relative_to(Path.home())


class Stopped(system.Calls):
    """Ctrl-C after the first bytes of a file."""

    def write(self, descriptor: int, data: memoryview, path: Path) -> int:
        super().write(descriptor, data, path)
        raise KeyboardInterrupt


def test_an_interrupted_write_leaves_no_file(encoder: Path, real: Path, tmp_path: Path) -> None:
    with system.replaced(Stopped()), pytest.raises(KeyboardInterrupt):
        cached(real, encoder, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not cached(real, encoder, tmp_path)[1] and cached(real, encoder, tmp_path)[1]


def test_a_damaged_file_is_made_again(encoder: Path, real: Path, tmp_path: Path) -> None:
    before, _ = cached(real, encoder, tmp_path)
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:40])
    after, hit = cached(real, encoder, tmp_path)
    assert not hit and torch.equal(after["video"], before["video"]) and cached(real, encoder, tmp_path)[1]


def test_a_place_that_is_no_folder_is_refused_before_a_clip_is_read(
    encoder: Path, real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(ProtocolClips, "batches", lambda *_: pytest.fail("a clip was read"))
    with pytest.raises(OSError, match="file"):
        cached(real, encoder, tmp_path / "file")


@pytest.mark.parametrize("role", ["video", "image"])
def test_features_that_are_not_finite_name_the_clip_and_are_not_kept(
    role: str, encoder: Path, real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = torch.from_numpy(moving_frames(5, 3)).movedim(-1, 0).float() / 127.5 - 1
    plain = module.Extractors.__call__

    def broken(self: Extractors, video: Tensor) -> dict[str, Tensor]:
        found = plain(self, video)
        for k, clip in enumerate(video):
            if difference(clip, bad) < 0.05:
                rows = len(found[role]) // len(video)
                found[role][(k + 1) * rows - 1, 0] = torch.nan  # of the frames, the clip's last one
        return found

    monkeypatch.setattr(module.Extractors, "__call__", broken)
    with pytest.raises(InputError, match=r"^03\.mkv 0\.00s: encoder gives features that are not finite"):
        cached(real, encoder, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_protocols_without_features_read_no_real_clip(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProtocolClips, "batches", lambda *_: pytest.fail("a clip was read"))
    assert cached(real, tmp_path, tmp_path / "cache", metrics=("temporal_flickering",)) == ({}, False)
    assert not (tmp_path / "cache").exists()
