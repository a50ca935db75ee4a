import json
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kinolab.autoencoders.base import Posterior
from kinolab.contracts.examples import Example
from kinolab.data import CacheConfig, CacheSource, FolderConfig, FolderSource, encode_to_cache, shard_reader
from kinolab.data.cache import read_header
from kinolab.errors import InputError
from kinolab.runtime import weights as weight_files
from kinolab.runtime.hashes import Scan
from kinolab.runtime.locks import held
from kinolab.runtime.records import write_record
from tests.closeness import assert_close, assert_within
from tests.data.clip_files import MeanAutoencoder, write_numbered
from tests.processes import Child

pytestmark = pytest.mark.slow  # many short ones, which take long together


def clips(path: Path, **settings: object) -> FolderSource:
    values = {"path": path, "size": 16, "frames": 5, "split": "all", "index": "none"} | settings
    return FolderSource(FolderConfig.model_validate(values), MeanAutoencoder().spec)


def cache(path: Path, **settings: object) -> CacheSource:
    return CacheSource(CacheConfig.model_validate({"path": path, "split": "all"} | settings))


def contents(path: Path) -> list[Example]:
    source = cache(path)
    return [source[i] for i in range(len(source))]


def same(a: list[Example], b: list[Example]) -> bool:
    facts = [[(e.source, e.time_range, e.caption, e.label, e.fps) for e in side] for side in (a, b)]
    return facts[0] == facts[1] and all(torch.equal(x.latents, y.latents) for x, y in zip(a, b, strict=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "clips"
    for mark in range(4):
        write_numbered(path / f"{mark}.mkv", 17, mark=40 * mark)
        (path / f"{mark}.txt").write_text(f"clip {mark % 3}")
    return path


def test_what_is_read_back_is_what_the_autoencoder_gave(tmp_path: Path, folder: Path) -> None:
    source, network = clips(folder), MeanAutoencoder()
    summary = encode_to_cache(
        source, network, tmp_path / "c", batch=5, shard_size=7, dtype="float32", keep_posterior=True
    )
    assert (summary.encoded, summary.present, summary.items, summary.unreadable) == (12, 0, 12, ())
    stored = cache(tmp_path / "c")
    assert len(stored) == len(source) == 12
    for i in range(12):
        example, pixels = stored[i], source[i]
        posterior = network.encode(pixels.video[None])
        assert torch.equal(example.latents, posterior.mean[0]) and example.latents.shape == (3, 3, 4, 4)
        assert example.logvar is not None and torch.equal(example.logvar, posterior.logvar[0])
        assert (example.source, example.time_range, example.caption, example.fps) == (
            (pixels.source, pixels.time_range, pixels.caption, pixels.fps)
        )  # fmt: skip
    assert stored.captions == ("clip 0", "clip 1", "clip 2")
    assert torch.equal(stored.batch([3, 1]), torch.stack([stored[3].latents, stored[1].latents]))
    assert stored.notes() == [] and [v.kept for v in stored.verdicts()] == [3, 3, 3, 3]


def test_statistics_are_those_of_all_latents(tmp_path: Path, folder: Path) -> None:
    encode_to_cache(clips(folder), MeanAutoencoder(), tmp_path / "c", shard_size=5, dtype="float32")
    z = torch.stack([e.latents for e in contents(tmp_path / "c")]).transpose(0, 1).flatten(1)
    found = cache(tmp_path / "c").statistics
    assert_close(found.mean, z.mean(1))
    assert found.items == 12
    assert_close(found.std, z.std(1, correction=0))


def test_bfloat16_halves_the_cache_and_rounds_once(tmp_path: Path, folder: Path) -> None:
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        sizes[dtype] = encode_to_cache(clips(folder), MeanAutoencoder(), tmp_path / dtype, dtype=dtype).bytes
    exact, rounded = contents(tmp_path / "float32"), contents(tmp_path / "bfloat16")
    assert all(torch.equal(b.latents, a.latents.bfloat16().float()) for a, b in zip(exact, rounded, strict=True))
    assert sizes["bfloat16"] < 0.6 * sizes["float32"]


def test_kept_in_memory_or_mapped_is_the_same(tmp_path: Path, folder: Path) -> None:
    encode_to_cache(clips(folder), MeanAutoencoder(), tmp_path / "c", shard_size=5)
    held, mapped = cache(tmp_path / "c", in_memory=True), cache(tmp_path / "c")
    assert all(torch.equal(held[i].latents, mapped[i].latents) for i in range(12))


def test_windows_of_one_file_stay_on_one_side(tmp_path: Path, folder: Path) -> None:
    encode_to_cache(clips(folder), MeanAutoencoder(), tmp_path / "c")
    sides = [cache(tmp_path / "c", split=s, heldout_fraction=0.3) for s in ("train", "heldout")]
    files = [{s[i].source for i in range(len(s))} for s in sides]
    assert files[0] and files[1] and not files[0] & files[1] and sum(map(len, sides)) == 12
    pixels = clips(folder, split="heldout", heldout_fraction=0.3)
    assert {pixels.record(i).source for i in range(len(pixels))} == files[1]


def test_encoding_again_encodes_nothing(tmp_path: Path, folder: Path) -> None:
    encode_to_cache(clips(folder), MeanAutoencoder(), tmp_path / "c")
    network = MeanAutoencoder()
    summary = encode_to_cache(clips(folder), network, tmp_path / "c")
    assert (summary.encoded, summary.present, network.encoded) == (0, 12, 0)


class Slow(MeanAutoencoder):
    """Slow enough to be killed in the middle; its name goes into the cache, so it is that of the quick one."""

    def encode(self, video: Tensor) -> Posterior:
        time.sleep(0.05)
        return super().encode(video)


Slow.__name__ = "MeanAutoencoder"


def encode_slowly(folder: Path, out: Path) -> None:
    encode_to_cache(clips(folder), Slow(), out, batch=1, shard_size=2)


@pytest.mark.wide
def test_a_killed_encoding_goes_on_and_ends_the_same(tmp_path: Path, folder: Path) -> None:
    out, whole = tmp_path / "killed", tmp_path / "whole"
    process = Child(encode_slowly, folder, out)
    deadline = time.monotonic() + 120
    index = out / "index.jsonl"
    while not (index.exists() and index.read_text().count("\n") >= 2) and time.monotonic() < deadline:
        assert process.running
        time.sleep(0.002)
    process.kill()
    before = cache(out)
    assert 4 <= len(before) < 12 and "interrupted" in before.notes()[0] and before.statistics.items == len(before)

    network = MeanAutoencoder()
    summary = encode_to_cache(clips(folder), network, out, batch=1, shard_size=2)
    assert network.encoded == summary.encoded == 12 - len(before)
    encode_to_cache(clips(folder), MeanAutoencoder(), whole, batch=1, shard_size=2)
    assert same(contents(out), contents(whole))
    assert sorted(p.name for p in (out / "shards").iterdir()) == sorted(p.name for p in (whole / "shards").iterdir())
    assert index.read_text() == (whole / "index.jsonl").read_text()


@pytest.mark.parametrize("remains", ["half a line", "a shard without a line", "half a shard", "no shard"])
def test_every_moment_of_a_kill_is_recovered_from(tmp_path: Path, folder: Path, remains: str) -> None:
    out = tmp_path / "c"
    encode_to_cache(clips(folder), MeanAutoencoder(), out, shard_size=4)
    whole = contents(out)
    index = out / "index.jsonl"
    lines = index.read_text().splitlines(keepends=True)
    last = out / "shards" / json.loads(lines[-1])["shard"]
    index.write_text("".join(lines[:-1]) + (lines[-1][:50] if remains == "half a line" else ""))
    if remains == "half a shard":
        last.rename(last.with_name(f".{last.name}.tmp"))
    elif remains == "no shard":
        index.write_text("".join(lines))
        last.unlink()
    if remains != "no shard":
        write_record(out / "cache.json", read_header(out) | {"complete": False, "statistics": None})
        assert len(cache(out)) == 8
    summary = encode_to_cache(clips(folder), MeanAutoencoder(), out, shard_size=4)
    assert summary.encoded == 4 and same(contents(out), whole)
    assert len(list((out / "shards").iterdir())) == 3


def test_a_finished_cache_notices_lines_that_are_gone(tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "c"
    encode_to_cache(clips(folder), MeanAutoencoder(), out, shard_size=4)
    whole, index = contents(out), out / "index.jsonl"
    lines = index.read_text().splitlines(keepends=True)
    for left in (lines[:-1], [*lines[:-1], lines[-1][:-1]], [*lines[:-1], lines[-1].replace("0", "1", 1)]):
        index.write_text("".join(left))
        with pytest.raises(InputError, match="lacks 4 of 12 windows; run the same kinolab encode again"):
            cache(out)
    assert encode_to_cache(clips(folder), MeanAutoencoder(), out, shard_size=4).encoded == 4
    assert same(contents(out), whole)


def test_a_changed_file_is_noticed_and_only_it_is_encoded_again(tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "c"
    encode_to_cache(clips(folder), MeanAutoencoder(), out, shard_size=4)
    untouched = [e for e in contents(out) if e.source != "1.mkv"]
    write_numbered(folder / "1.mkv", 17, mark=250)
    with pytest.raises(InputError, match=r"1\.mkv changed since it was encoded.*--update"):
        encode_to_cache(clips(folder), MeanAutoencoder(), out)
    assert len(cache(out)) == 12
    network = MeanAutoencoder()
    summary = encode_to_cache(clips(folder), network, out, update=True)
    assert (network.encoded, summary.removed, summary.items) == (3, 3, 12)
    assert same([e for e in contents(out) if e.source != "1.mkv"], untouched)
    assert_within(cache(out)[3].latents[1], 250 / 127.5 - 1, 0.01, "of [-1, 1]")


def test_another_autoencoder_is_noticed(tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "c"
    encode_to_cache(clips(folder), MeanAutoencoder(), out)
    with pytest.raises(InputError, match="another autoencoder"):
        encode_to_cache(clips(folder), MeanAutoencoder(scale=2.0), out)
    summary = encode_to_cache(clips(folder), MeanAutoencoder(scale=2.0), out, update=True)
    assert (summary.encoded, summary.removed) == (12, 12)
    encode_to_cache(clips(folder), MeanAutoencoder(scale=2.0), tmp_path / "fresh")
    assert same(contents(out), contents(tmp_path / "fresh"))


@pytest.mark.parametrize(
    ("settings", "said"), [({"resize": "pad"}, "another transform"), ({"stride": 2}, "cut into other windows")]
)
def test_other_settings_are_noticed(tmp_path: Path, folder: Path, settings: dict[str, object], said: str) -> None:
    out = tmp_path / "c"
    encode_to_cache(clips(folder), MeanAutoencoder(), out)
    with pytest.raises(InputError, match=said):
        encode_to_cache(clips(folder, **settings), MeanAutoencoder(), out)


def test_other_storage_is_noticed(tmp_path: Path, folder: Path) -> None:
    encode_to_cache(clips(folder), MeanAutoencoder(), tmp_path / "c")
    with pytest.raises(InputError, match=r"another encoding.*float32"):
        encode_to_cache(clips(folder), MeanAutoencoder(), tmp_path / "c", dtype="float32")


def test_new_files_are_added_and_new_captions_taken_over(tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "c"
    encode_to_cache(clips(folder), MeanAutoencoder(), out)
    write_numbered(folder / "4.mkv", 17, mark=200)
    (folder / "0.txt").write_text("another caption")
    network = MeanAutoencoder()
    encode_to_cache(clips(folder), network, out)
    assert network.encoded == 3
    captions = {e.source: e.caption for e in contents(out)}
    assert captions["0.mkv"] == "another caption" and captions["4.mkv"] is None and len(captions) == 5
    (folder / "3.mkv").unlink()
    assert encode_to_cache(clips(folder), MeanAutoencoder(), out).items == 15
    assert encode_to_cache(clips(folder), MeanAutoencoder(), out, update=True).items == 12


def test_windows_that_vanish_are_left_out_and_named(tmp_path: Path, folder: Path) -> None:
    source = clips(folder)
    (folder / "2.mkv").unlink()
    summary = encode_to_cache(source, MeanAutoencoder(), tmp_path / "c", shard_size=4)
    assert summary.items == 9 and [w.split(" ")[0] for w in summary.unreadable] == ["2.mkv"] * 3


def test_stills_and_clips_share_a_cache(tmp_path: Path, folder: Path) -> None:
    write_numbered(folder / "short.mkv", 2, mark=222)
    encode_to_cache(clips(folder, short="image"), MeanAutoencoder(), tmp_path / "c")
    source = cache(tmp_path / "c")
    frames = [[source.shape(i)[0] for i in group] for group in source.groups()]
    assert frames == [[3] * 12, [1]]


def test_progress_counts_every_window_once(tmp_path: Path, folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    encode_to_cache(
        clips(folder), MeanAutoencoder(), tmp_path / "c", batch=3, shard_size=6, events=lambda *n: seen.append(n)
    )
    assert seen == [(3, 12), (6, 12), (9, 12), (12, 12)]


def test_folders_that_are_no_cache_are_left_alone(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="not a latent cache"):
        cache(folder)
    with pytest.raises(InputError, match="holds other files"):
        encode_to_cache(clips(folder), MeanAutoencoder(), folder)
    out = tmp_path / "c"
    with held(out / ".lock"), pytest.raises(InputError, match="another kinolab encode"):
        encode_to_cache(clips(folder), MeanAutoencoder(), out)


def test_latents_that_are_not_finite_are_not_written(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="not finite"):
        encode_to_cache(clips(folder), MeanAutoencoder(scale=float("nan")), tmp_path / "c")
    with pytest.raises(InputError, match="no finished shard"):
        cache(tmp_path / "c")


def test_a_damaged_shard_is_named(tmp_path: Path, folder: Path) -> None:
    encode_to_cache(clips(folder), MeanAutoencoder(), tmp_path / "c")
    [shard] = (tmp_path / "c" / "shards").iterdir()
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(InputError, match=f"{shard.name}: damaged"):
        cache(tmp_path / "c")[0]


def test_a_shard_that_is_opened_again_is_not_checked_again(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cache of more shards than stay open, a window would else cost the reading of its whole shard."""
    encode_to_cache(clips(folder), MeanAutoencoder(), tmp_path / "c", batch=5, shard_size=3)
    monkeypatch.setattr(shard_reader, "OPEN_SHARDS", 1)
    scanned: list[int] = []
    scan = weight_files.scan

    def counted(tensor: torch.Tensor, search: bool = True) -> Scan:
        scanned.append(1)
        return scan(tensor, search)

    monkeypatch.setattr(weight_files, "scan", counted)
    source = cache(tmp_path / "c")
    first = [source[i].latents for i in range(12)]
    assert len(scanned) == 4
    assert all(torch.equal(source[i].latents, first[i]) for i in range(12)) and len(scanned) == 4
