"""Masked draws in a latent cache: what they hold, that they resume, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kinolab.data import CacheConfig, CacheSource, encode_to_cache
from kinolab.errors import InputError
from kinolab.layers.masking import fully_given, partly_given
from kinolab.tasks import CachedDraws, TasksConfig
from kinolab.toyworld.clips import WorldConfig
from kinolab.toyworld.source import WorldSource, WorldSourceConfig
from tests.tiny_model import tiny_model

TASKS = TasksConfig(unconditional=1, predict=1, complete=1)


@pytest.fixture(scope="module")
def source() -> WorldSource:
    config = WorldSourceConfig(world=WorldConfig(size=32, frames=5), count=7)
    return WorldSource(config, tiny_model().autoencoder.spec)


def cache(path: Path) -> CacheSource:
    return CacheSource(CacheConfig(path=path, split="all"))


def encode(
    path: Path, source: WorldSource, tasks: TasksConfig | None = TASKS, count: int = 2, update: bool = False
) -> None:
    draws = None if tasks is None else CachedDraws(tasks, count)
    encode_to_cache(
        source, tiny_model().autoencoder, path, batch=2, shard_size=3, dtype="float32", draws=draws, update=update
    )


def test_draws_stand_beside_their_clips(tmp_path: Path, source: WorldSource) -> None:
    encode(tmp_path / "c", source)
    stored = cache(tmp_path / "c")
    assert stored.draws == {"count": 2, "tasks": TASKS.without_unconditional().described()}  # type: ignore[union-attr]
    for i in range(7):
        example = stored[i]
        assert example.given is not None and example.mask is not None
        assert example.given.shape == (2, *example.latents.shape) and example.mask.shape == (
            2,
            4,
            *example.latents.shape[1:],
        )
        assert not torch.equal(example.mask[0], example.mask[1]) or i < 7
        known, some = fully_given(example.mask), partly_given(example.mask)
        assert some.any() and not known.all() and not example.given[~some.expand_as(example.given)].any()
    masks = torch.stack([stored[i].mask for i in range(7)])  # type: ignore[misc]
    assert len({m.numpy().tobytes() for m in masks.flatten(0, 1)}) > 4, "clips have masks of their own"


@pytest.mark.slow
def test_draws_do_not_depend_on_interruption_or_on_when_they_were_made(tmp_path: Path, source: WorldSource) -> None:
    encode(tmp_path / "one", source)
    encode(tmp_path / "later", source, tasks=None)
    assert cache(tmp_path / "later").draws is None and cache(tmp_path / "later")[0].given is None
    encode(tmp_path / "later", source)
    lost = sorted((tmp_path / "later" / "shards").glob("*.given.safetensors"))
    lost[1].unlink()
    with pytest.raises(InputError, match="run the same kinolab encode again"):
        [cache(tmp_path / "later")[i] for i in range(7)]
    encode(tmp_path / "later", source)
    a, b = cache(tmp_path / "one"), cache(tmp_path / "later")
    for i in range(7):
        one, other = a[i], b[i]
        assert torch.equal(one.latents, other.latents)
        assert torch.equal(one.given, other.given) and torch.equal(one.mask, other.mask)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="add --tasks"):
        encode(tmp_path / "later", source, tasks=None)
    assert cache(tmp_path / "later")[6].given is not None
    fewer = WorldSource(source.config.model_copy(update={"count": 5}), tiny_model().autoencoder.spec)
    with pytest.raises(InputError, match="not in this source"):
        encode(tmp_path / "later", fewer)
    encode(tmp_path / "later", fewer, update=True)
    assert len(cache(tmp_path / "later")) == 5 and cache(tmp_path / "later")[4].given is not None


def test_other_draws_are_refused_and_made_anew_on_demand(tmp_path: Path, source: WorldSource) -> None:
    encode(tmp_path / "c", source)
    before = cache(tmp_path / "c")[0].mask
    other = TasksConfig(predict=0, past=1)
    with pytest.raises(InputError, match="other draws of masks"):
        encode(tmp_path / "c", source, other)
    assert torch.equal(cache(tmp_path / "c")[0].mask, before)  # type: ignore[arg-type]
    encode(tmp_path / "c", source, other, count=1, update=True)
    stored = cache(tmp_path / "c")
    assert stored[0].mask is not None and len(stored[0].mask) == 1
    assert stored.draws is not None and stored.draws["tasks"]["past"] == 1


def test_what_has_nothing_to_draw_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to draw"):
        CachedDraws(TasksConfig(predict=0, unconditional=1), 2)
    with pytest.raises(InputError, match="at least 1 draw"):
        CachedDraws(TasksConfig(), 0)


def test_a_damaged_file_of_draws_is_not_taken_for_whole(tmp_path: Path, source: WorldSource) -> None:
    encode(tmp_path / "c", source)
    whole = [stored.given for stored in cache(tmp_path / "c")]
    path = min((tmp_path / "c" / "shards").glob("*.given.safetensors"))
    data = bytearray(path.read_bytes())
    data[-9] ^= 16
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"{path.name}: damaged .*; delete it and run the same kinolab encode again"):
        encode(tmp_path / "c", source)
    path.unlink()
    encode(tmp_path / "c", source)
    assert all(torch.equal(a, b.given) for a, b in zip(whole, cache(tmp_path / "c"), strict=True))  # type: ignore[arg-type]
