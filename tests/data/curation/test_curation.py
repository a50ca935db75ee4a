"""A curation from files to files: the table first, decisions anew without reading, poison, archives in and out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from kinolab import video
from kinolab.config import load_config
from kinolab.contracts.events import Silent
from kinolab.data import FolderConfig, FolderSource
from kinolab.data.curate.frames import Part
from kinolab.data.curation import CurateConfig, CurateSummary, curate, decide, writing
from kinolab.data.curation.items import Item, find_items
from kinolab.data.curation.settings import Bounds, OutputConfig, chosen
from kinolab.data.curation.sources import near_of
from kinolab.data.curation.table import Row
from kinolab.engines import engine_of
from kinolab.errors import InputError, Stopped
from kinolab.runtime import tars
from kinolab.runtime.filesystems import UnansweredError
from kinolab.runtime.remote import Mirror
from tests.engines.inside import Inside

FAST = {"motion": False, "text": False, "blocks": False}


def config(**values: Any) -> CurateConfig:
    clips = {"min_seconds": 0.5} | values.pop("clips", {})
    return load_config(CurateConfig, {"signals": FAST | values.pop("signals", {}), "clips": clips, **values})


def grain(seed: int, frames: int = 8) -> np.ndarray:
    """A clip whose brightness says which it is."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 40, (frames, 8, 8, 3)) + 40 * seed
    return coarse.repeat(6, 1).repeat(6, 2).astype(np.uint8)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips, one of two scenes, and a file that is none."""
    root = tmp_path_factory.mktemp("raw")
    for k in (1, 2, 4):
        video.write(root / f"{k}.mkv", grain(k), fps=8, lossless=True)
    (root / "2.txt").write_text("two", encoding="utf-8")
    video.write(root / "two.mkv", np.concatenate([grain(1)[::-1], grain(5)]), fps=8, lossless=True)
    (root / "bad.mp4").write_bytes(b"no video at all")
    return root


def table(out: Path) -> dict[str, dict[str, Any]]:
    lines = (out / "table.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["clip"]: row for row in map(json.loads, lines)}


def kept(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def files(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_the_table_comes_first_and_deciding_and_cutting_anew_reads_no_frame(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = curate(raw, out, config(), dry=True)
    assert first.read == 4 and [name for name, _ in first.problems] == ["bad.mp4"] and first.written is None
    rows = table(out)
    assert list(rows) == ["1.mkv", "2.mkv", "4.mkv", "two.mkv#0.000-1.000", "two.mkv#1.000-2.000"]
    assert rows["2.mkv"]["caption"] == "two" and rows["1.mkv"]["brightness"] == pytest.approx(60 / 255, rel=0.1)
    assert {row["protocol"] for row in rows.values()} == {first.protocol}
    bright = config(keep={"brightness": {"min": 0.35}})
    second = curate(raw, out, bright)
    assert second.read == 0 and second.written is not None and second.written.written == 3
    shown = kept(out)
    assert [row["source"] for row in shown] == ["2.mkv", "4.mkv", "two.mkv"] and shown[0]["text"] == "two"
    assert (out / shown[0]["file_name"]).read_bytes() == (raw / "2.mkv").read_bytes(), "a whole file as it is"
    assert table(out)["1.mkv"]["dropped"][0].endswith("kept where brightness >= 0.35")
    scene = video.read(out / shown[2]["file_name"])
    assert scene.frames.shape == (8, 48, 48, 3) and scene.fps == 8 and abs(scene.frames.mean() - 220) < 4
    longer = curate(raw, out, config(keep={"brightness": {"min": 0.35}}, clips={"min_seconds": 1.5, "cut": False}))
    assert longer.read == 0 and longer.protocol != first.protocol
    assert (
        longer.written is not None and longer.written.removed == 3 and [r["source"] for r in kept(out)] == ["two.mkv"]
    )


def test_what_was_curated_is_trained_on_as_it_is(raw: Path, tmp_path: Path) -> None:
    curate(raw, tmp_path / "out", config(keep={"brightness": {"max": 0.5}}))
    source = FolderSource(FolderConfig(path=tmp_path / "out", frames=8, size=32, index="none", split="all"))
    assert len(source) == 3
    assert sorted(str(source.record(k).caption) for k in range(3)) == ["None", "None", "two"]


def test_what_all_signals_say_is_trained_on_as_it_is(raw: Path, tmp_path: Path) -> None:
    """The score `text` and the caption that metadata calls so are two things."""
    curate(raw, tmp_path, config(signals={"text": True}))
    rows = {row["source"]: row for row in kept(tmp_path)}
    assert rows["2.mkv"]["text"] == "two" and rows["1.mkv"]["text"] is None
    assert rows["2.mkv"]["text_score"] == table(tmp_path)["2.mkv"]["text"]
    source = FolderSource(FolderConfig(path=tmp_path, frames=8, size=32, index="none", split="all"))
    assert sorted(str(source.record(k).caption) for k in range(len(source))) == ["None"] * 4 + ["two"]


def test_clips_of_a_call_that_was_stopped_go_when_they_are_no_longer_wanted(raw: Path, tmp_path: Path) -> None:
    class OneClip(Silent):
        @property
        def stopping(self) -> bool:
            return (tmp_path / "clips").is_dir() and any((tmp_path / "clips").iterdir())

    with pytest.raises(Stopped):
        curate(raw, tmp_path, config(), events=OneClip())
    [left] = (tmp_path / "clips").iterdir()
    (tmp_path / "clips" / "mine.mkv").write_bytes(left.read_bytes())
    (tmp_path / "clips-mine.tar").write_bytes(b"of somebody else's")
    left.with_suffix(".txt").write_text("said", encoding="utf-8")
    summary = curate(raw, tmp_path, config(keep={"brightness": {"min": 0.9}}))
    assert summary.written is not None and summary.written.removed == 1
    assert [p.name for p in (tmp_path / "clips").iterdir()] == ["mine.mkv"] and (tmp_path / "clips-mine.tar").exists()


def row(k: int, **scores: float | None) -> Row:
    return Row(k, Item(f"{k}", Path(f"{k}")), f"{k}", Part(0.0, 1800.0), True, None, scores)


def test_what_thresholds_cost_alone_and_in_order() -> None:
    rows = [row(k, a=float(k), b=float(k % 2), c=None if k < 2 else 1.0) for k in range(8)]
    keep = {"a": Bounds(min_percentile=25, max=6.5), "b": Bounds(min=1), "c": Bounds(missing="drop")}
    found = decide(rows, keep)
    costs = [(c.bound, c.clips, c.hours, c.more_clips, c.more_hours) for c in found.costs]
    assert costs == [
        ("a >= 1.75 (percentile 25)", 2, 1.0, 2, 1.0), ("a <= 6.5", 1, 0.5, 1, 0.5), ("b >= 1", 4, 2.0, 3, 1.5),
        ("c known", 2, 1.0, 0, 0.0),
    ]  # fmt: skip
    assert [r.number for r in found.kept] == [3, 5]
    assert found.rows[0].reasons == ("a 0, kept where a >= 1.75 (percentile 25)", "b 0, kept where b >= 1", "no c")
    assert decide(rows, {}).kept == rows


def test_long_scenes_are_divided_and_cut_ends_trimmed(raw: Path, tmp_path: Path) -> None:
    cut = config(clips={"max_seconds": 0.6, "trim": 0.1, "min_seconds": 0.3})
    curate(raw, tmp_path, cut, dry=True)
    spans = {name.split("#")[1] for name in table(tmp_path) if name.startswith("two")}
    assert spans == {"0.000-0.450", "0.450-0.900", "1.100-1.550", "1.550-2.000"}


def test_it_stops_between_videos_and_goes_on(raw: Path, tmp_path: Path) -> None:
    class OneGroup(Silent):
        asked = 0

        @property
        def stopping(self) -> bool:
            self.asked += 1
            return self.asked > 2  # the first question is whether there is one to ask

    with pytest.raises(Stopped):
        curate(raw, tmp_path / "a", config(), events=OneGroup())
    stored = set((tmp_path / "a" / ".scores").rglob("*.safetensors"))
    assert len(stored) == 3
    summary = curate(raw, tmp_path / "a", config())
    assert summary.read == 1
    curate(raw, tmp_path / "b", config())
    a, b = files(tmp_path / "a"), files(tmp_path / "b")
    a.pop(".scores/lock"), b.pop(".scores/lock")
    assert a == b


@pytest.mark.wide()
def test_several_processes_give_the_same_bytes_and_what_kills_them_is_listed(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curate(raw, tmp_path / "one", config())
    summary = curate(raw, tmp_path / "two", config(), engine=engine_of("embedded", 2))
    assert [name for name, _ in summary.problems] == ["bad.mp4"]
    a, b = files(tmp_path / "one"), files(tmp_path / "two")
    a.pop(".scores/lock"), b.pop(".scores/lock")
    assert a == b


def test_a_video_that_ends_every_process_is_listed(raw: Path, tmp_path: Path) -> None:
    by = Inside(lambda part: part[1][0].name == "bad.mp4")
    summary = curate(raw, tmp_path / "a", config(), engine=by)
    assert summary.problems == (("bad.mp4", "ended every process that read it (killed by SIGSEGV)"),)


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_archives_out_and_in_again(kind: str, raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    keep = {"keep": {"brightness": {"max": 0.8}}, "output": {"format": kind, "shard": 2}}
    summary = curate(raw, out, config(**keep))
    assert summary.written is not None and (summary.written.written, len(summary.decision.kept)) == (2, 4)
    before = files(out)
    again = curate(raw, out, config(**keep))
    assert again.written is not None and (again.written.written, again.written.present) == (0, 2)
    assert files(out) == before
    found = find_items(out)
    assert len(found.items) == 4 and [item.caption for item in found.items].count("two") == 1
    back = curate(out, tmp_path / "back", config())
    assert back.videos == 4 and not back.problems
    first, last = (sorted(r["brightness"] for r in table(p).values() if r["kept"]) for p in (out, tmp_path / "back"))
    assert first == pytest.approx(last, rel=0.02)
    assert not list((tmp_path / "back" / ".scores" / ".unpacked").iterdir()), "nothing unpacked is left"
    fewer = curate(raw, out, config(keep={"brightness": {"max": 0.3}}, output=keep["output"]))
    assert fewer.written is not None and fewer.written.removed == 1 and not fewer.read


def test_an_archive_of_which_no_clip_can_be_made_is_not_the_one_of_before(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curate(raw, tmp_path, config(output={"format": "webdataset"}))

    def torn(*told: Any) -> None:
        raise InputError("gone")

    monkeypatch.setattr(writing, "write_clip", torn)
    summary = curate(raw, tmp_path, config(output={"format": "webdataset", "quality": 50}))
    assert summary.written is not None
    assert (summary.written.written, summary.written.removed, len(summary.written.failed)) == (0, 1, 5)
    assert not list(tmp_path.glob("clips-*"))


def test_lists_of_paths_and_tables(raw: Path, tmp_path: Path) -> None:
    listed, told = tmp_path / "list.txt", tmp_path / "table.jsonl"
    listed.write_text(f"# some\n{raw / '1.mkv'}\n\n{raw / '4.mkv'}\n", encoding="utf-8")
    told.write_text(json.dumps({"file": str(raw / "2.mkv"), "caption": "deux"}) + "\n", encoding="utf-8")
    assert [i.path.name for i in find_items(listed).items] == ["1.mkv", "4.mkv"]
    [item] = find_items(told).items
    assert item.caption == "deux" and find_items(raw / "1.mkv").items[0].name == "1.mkv"
    listed.write_text("1.mkv\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"list.txt: line 1: 1.mkv: no such file; paths are below"):
        find_items(listed)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"signals": {"motoin": {}}}, "unknown signal 'motoin'"),
        ({"signals": {"sharpness": {"sid": 3}}}, "signals.sharpness: "),
        ({"keep": {"sharpnes": {"min": 1}}}, "keep: sharpnes: no score of that name; there are seconds"),
        ({"keep": {"motion": {"min": 1}}}, "keep: motion: no score of that name"),
        ({"signals": {"cuts": False}}, "signals.cuts: false, and clips.cut"),
        ({"signals": {"native": False}}, "signals.native: every clip's length"),
        ({"signals": {"encoder": True}}, "signals.encoder: missing key 'model'"),
    ],
)
def test_settings_that_can_not_be_met(values: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        chosen(config(**values))


def test_thresholds_that_say_nothing_or_keep_nothing() -> None:
    for bounds in ({}, {"min": 2, "max": 1}, {"min_percentile": 80, "max_percentile": 20}, {"min_percentile": 101}):
        with pytest.raises(InputError, match=r"keep\.fps"):
            config(keep={"fps": bounds})


def test_places_that_can_not_be_read_or_written(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        curate(tmp_path / "none", tmp_path / "out", config())
    with pytest.raises(InputError, match=r"^memory://b/raw/x: lies inside memory://b/raw; choose a folder beside it$"):
        curate(Path("memory://b/raw"), Path("memory://b/raw/x"), config())
    cluster = Inside()
    cluster.place = "auto"
    with pytest.raises(InputError, match=r"^--out memory://b/x: a cluster's workers need a folder that they share"):
        curate(raw, Path("memory://b/x"), config(), engine=cluster)
    with pytest.raises(InputError, match="lies inside"):
        curate(raw, raw / "out", config())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="holds other files and no curation"):
        curate(raw, tmp_path / "other", config())
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"none of 1 videos can be read; a.mp4: not a video"):
        curate(tmp_path / "bad", tmp_path / "out", config())
    (tmp_path / "cut.tar").write_bytes(b"x" * 700)
    with pytest.raises(InputError, match=r"no whole \.tar archive"):
        find_items(tmp_path / "cut.tar")


@pytest.mark.parametrize("size", [b"\xff" * 12, b"\x80" + b"\xff" * 11])
@pytest.mark.parametrize("kind", [b"0", b"x"])
def test_archives_whose_members_have_sizes_that_can_not_be(size: bytes, kind: bytes, tmp_path: Path) -> None:
    with tars.new_archive(tmp_path / "a.tar") as archive:
        archive.add("x.mp4", b"12345")
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[124:136], data[148:156], data[156:157] = size, b" " * 8, kind
    data[148:156] = b"%06o\0 " % sum(data[:512])
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.tar: no whole \.tar archive"):
        tars.members(tmp_path / "a.tar")


def test_a_folder_in_a_store_is_what_it_would_be_on_a_disk(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    store = fsspec.filesystem("memory")
    store.store.clear()
    out, dim = Path("memory://b/set"), config(keep={"brightness": {"max": 0.5}})

    def there() -> dict[str, bytes]:
        return {name.removeprefix("/b/set/"): store.cat_file(name) for name in store.find("/b/set")}

    def visible() -> dict[str, bytes]:
        return {name: data for name, data in files(tmp_path / "out").items() if name[0] != "."}

    class Cut(Silent):
        """Cuts it off behind its second clip."""

        clips = 0

        def wrote(self, path: Path, what: str = "file") -> None:
            self.clips += what != "table"
            if self.clips == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        curate(raw, out, config(), events=Cut())
    curate(raw, tmp_path / "out", config())
    assert there().items() <= visible().items() and len(there()) == 1, "a clip, and nothing that names others"
    summary = curate(raw, out, config())
    assert summary.read == 0 and summary.written is not None and summary.written.present == 1
    assert there() == visible()
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    again = curate(raw, out, dim)
    assert again.read == 4 and again.written is not None and again.written.written == 0, "clips are found there"
    curate(raw, tmp_path / "out", dim)
    assert there() == visible()
    home = tmp_path / "elsewhere" / ".cache" / "kinolab"
    assert not [path for path in home.rglob("*") if path.suffix in (".mkv", ".mp4")], "no clip stays on this disk"
    for kind in ("webdataset", "folder"):
        for place in (out, tmp_path / "out"):
            curate(raw, place, dim.model_copy(update={"output": OutputConfig(format=kind, shard=1)}))
        assert there() == visible()
    store.pipe_file("/b/other/mine.txt", b"x")
    with pytest.raises(InputError, match="holds other files and no curation"):
        curate(raw, Path("memory://b/other"), dim)
    store.pipe_file("/b/films/mine.mp4", b"x")
    with pytest.raises(InputError, match="holds other files and no curation"):
        curate(raw, Path("memory://b/films"), dim)
    store.store.clear()


def test_of_videos_in_a_store_this_disk_holds_a_part_at_a_time(
    raw: Path, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in raw.iterdir():
        store.pipe_file(f"/b/raw/{path.name}", path.read_bytes())
    for k in range(4):
        video.write(tmp_path / "raw" / "pictures" / f"{k:03d}.png", grain(3)[k : k + 1], 1)
        picture = (tmp_path / "raw" / "pictures" / f"{k:03d}.png").read_bytes()
        store.pipe_file(f"/b/raw/pictures/{k:03d}.png", picture)
    for path in raw.iterdir():
        (tmp_path / "raw" / path.name).write_bytes(path.read_bytes())
    sizes = [path.stat().st_size for path in raw.glob("*.mkv")]
    some, source = config(disk_gb=(max(sizes) + 16384) * 1.5e-9), Path("memory://b/raw")
    on_disk, found = curate(tmp_path / "raw", tmp_path / "a", config()), curate(source, tmp_path / "b", some)
    names = files(tmp_path / "a").keys() - {".scores/files.jsonl"}  # which knows each by where it lies
    assert found.problems == on_disk.problems and files(tmp_path / "a").keys() == files(tmp_path / "b").keys()
    assert all(files(tmp_path / "a")[name] == files(tmp_path / "b")[name] for name in names)
    [note] = set(found.notes) - set(on_disk.notes)
    assert note.startswith("memory://b/raw: 10 files of ") and "on this disk at once" in note
    cache = tmp_path / "home" / ".cache" / "kinolab"
    here = [path for path in cache.rglob("*") if path.suffix in (".mkv", ".mp4", ".png")]
    assert all("near" in path.parts for path in here)
    assert sum(path.stat().st_size for path in here) <= (some.disk_gb or 0) * 1e9
    assert curate(source, tmp_path / "b", some).read == 0, "known by size and moment"
    with tars.new_archive(tmp_path / "a.tar") as archive:
        archive.add("x.mkv", (raw / "1.mkv").read_bytes())
        archive.add("x.txt", b"one")
    store.pipe_file("/b/tars/deep/a.tar", (tmp_path / "a.tar").read_bytes())
    store.pipe_file("/b/lists/all.txt", b"# mine\n./1.mkv\nmemory://b/raw/4.mkv\n")
    store.pipe_file("/b/lists/1.mkv", (raw / "1.mkv").read_bytes())
    for where, called in (("tars", ["a/x"]), ("tars/deep/a.tar", ["a/x"]), ("raw/2.mkv", ["2.mkv"]),
                         ("lists/all.txt", ["1.mkv", "memory://b/raw/4.mkv"])):  # fmt: skip
        items = find_items(Path(f"memory://b/{where}")).items
        assert [item.name for item in items] == called
        for item in items:
            with item.local(tmp_path) as path:
                assert path.read_bytes() == (raw / f"{'1' if 'x' in item.name else path.stem}.mkv").read_bytes()
    store.pipe_file("/b/lists/gone.txt", b"3.mkv\n")
    with pytest.raises(InputError, match=r"gone\.txt: line 1: 3\.mkv: no such file; paths are below memory://b/lists"):
        find_items(Path("memory://b/lists/gone.txt"))
    with pytest.raises(InputError, match=r"^memory://b/none: no such bucket or folder"):
        curate(Path("memory://b/none"), tmp_path / "c", config())

    def silent(self: Mirror, name: str, entry: Any, path: Path) -> None:
        raise UnansweredError(f"{self.url}/{name}: no answer")

    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    near_of.cache_clear()
    monkeypatch.setattr(Mirror, "get", silent)
    with pytest.raises(InputError, match="no answer"):
        curate(Path("memory://b/lists/1.mkv"), tmp_path / "c", config())


def test_a_changed_video_is_read_again_and_the_same_content_never(raw: Path, tmp_path: Path) -> None:
    source = tmp_path / "raw"
    source.mkdir()
    (source / "a.mkv").write_bytes((raw / "1.mkv").read_bytes())
    (source / "b.mkv").write_bytes((raw / "1.mkv").read_bytes())
    summary: CurateSummary = curate(source, tmp_path / "out", config(keep={"duplicate": {"max": 0.9}}))
    assert summary.read == 1 and [r.item.name for r in summary.decision.kept] == ["a.mkv"]
    (source / "a.mkv").write_bytes((raw / "4.mkv").read_bytes())
    assert curate(source, tmp_path / "out", config()).read == 1
    assert curate(source, tmp_path / "out", config(signals={"blocks": True})).read == 2, "a new signal reads"


def test_archives_hold_the_same_bytes_whenever_they_are_written(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        with tars.new_archive(tmp_path / name) as archive:
            archive.add("x.mp4", b"12345")
            archive.add("x.txt", b"said")
            archive.add("y.mp4", b"")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    found = tars.members(tmp_path / "a.tar")
    assert [m.name for m in found] == ["x.mp4", "x.txt", "y.mp4"]
    assert tars.read_member(tmp_path / "a.tar", found[0]) == b"12345"
    assert [key for key, _ in tars.grouped(found)] == ["x", "y"]
    with pytest.raises(InputError, match="ends in the middle"):
        tars.read_member(tmp_path / "a.tar", replace(found[0], offset=10**9))
