from pathlib import Path

import pytest
import torch

from kinolab import data, video
from kinolab.data import CacheConfig, CacheSource, WorldSource, WorldSourceConfig, encode_to_cache
from kinolab.errors import InputError
from kinolab.toyworld.clips import WorldConfig, make_clip
from tests.data.clip_files import MeanAutoencoder

SMALL = WorldConfig(size=32, frames=4)


def test_a_clip_is_that_of_its_seed() -> None:
    source = WorldSource(WorldSourceConfig(world=SMALL, count=3, seed=7))
    clip, example = make_clip(SMALL, 9), source[2]
    assert torch.equal(example.video, video.to_tensor(clip.frames))
    assert (example.caption, example.label, example.fps) == (clip.caption, clip.label, clip.fps)
    assert source.classes[clip.label]


def test_sides_never_share_a_seed() -> None:
    config = WorldSourceConfig(world=SMALL, count=50, heldout_count=20)
    seeds = {
        s: {WorldSource(config.model_copy(update={"split": s})).seed(i) for i in range(n)}
        for s, n in (("train", 50), ("heldout", 20), ("all", 70))
    }
    assert seeds["train"] | seeds["heldout"] == seeds["all"] and len(seeds["all"]) == 70
    with pytest.raises(IndexError):
        WorldSource(config)[50]


def test_frame_counts_follow_the_autoencoder() -> None:
    source = data.build(WorldSourceConfig(world=SMALL), MeanAutoencoder().spec, split="heldout")
    assert source[0].video.shape == (3, 3, 32, 32) and "3 frames instead of 4" in source.notes()[0]
    with pytest.raises(InputError, match="multiples of 7"):
        data.build(WorldSourceConfig(world=SMALL), MeanAutoencoder(ratio=7).spec)


def test_the_world_can_be_cached_and_added_to(tmp_path: Path) -> None:
    def encode(count: int, network: MeanAutoencoder) -> int:
        source = WorldSource(WorldSourceConfig(world=SMALL, count=count), network.spec)
        return encode_to_cache(source, network, tmp_path, shard_size=2, dtype="float32").encoded

    network = MeanAutoencoder()
    assert encode(3, network) == 3 and encode(5, network) == 2
    stored = CacheSource(CacheConfig(path=tmp_path, split="all"))
    pixels = WorldSource(WorldSourceConfig(world=SMALL), network.spec)
    for i in range(5):
        assert torch.equal(stored[i].latents, network.encode(pixels[i].video[None]).mean[0])
        assert (stored[i].caption, stored[i].label) == (pixels[i].caption, pixels[i].label)
    with pytest.raises(InputError, match="another transform"):
        source = WorldSource(WorldSourceConfig(world=SMALL.model_copy(update={"fps": 4.0}), count=5), network.spec)
        encode_to_cache(source, network, tmp_path)
