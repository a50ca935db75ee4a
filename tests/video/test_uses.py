"""What data, tasks and reconstruction make of awkward files: the right frames, copies that last, losses are said."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kinolab import video
from kinolab.autoencoders.odvae import OdVae, OdVaeConfig
from kinolab.conditioning.text.base import known_files
from kinolab.data import FolderConfig, FolderSource
from kinolab.data.shrink import shrink
from kinolab.evaluation.protocol import file_hash
from kinolab.generation import reconstruct_report
from kinolab.generation.provenance import input_hashes, model_hash
from kinolab.generation.reconstruct import reconstruct
from kinolab.generation.reconstruct_report import ReconstructConfig
from kinolab.generation.request import GenerateConfig, input_files
from kinolab.metrics.text import weights_hash
from kinolab.tasks.request import GivenConfig, Shape, prepare
from kinolab.video import times
from tests.closeness import assert_within
from tests.video.clips import CASES, FRAMES, copy, encode, number_of

WHOLE = {"size": [64, 96], "index": "none", "split": "all"}


def folder(path: Path, **settings: object) -> FolderSource:
    return FolderSource(FolderConfig.model_validate({"path": path} | WHOLE | settings))


def numbers(clip: torch.Tensor) -> list[int]:
    return [number_of(image) for image in video.to_uint8(clip)]


# --- training data -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["avi", "mp4"])
def test_windows_of_frames_that_are_stored_out_of_order(tmp_path: Path, container: str) -> None:
    made = encode(tmp_path / "a.avi", "h264-open")
    (tmp_path / "clips").mkdir()
    shutil.copyfile(made, tmp_path / "clips" / "a.avi") if container == "avi" else copy(
        made, tmp_path / "clips" / "a.mp4"
    )
    source = folder(tmp_path / "clips", frames=5, stride=7, fps=25)
    expected = [list(range(start, start + 5)) for start in range(0, FRAMES - 4, 7)]
    assert [numbers(example.video) for _, example in source.walk(range(len(source)))] == expected
    times._pasts.clear()  # as in a process that loads data and has scanned nothing
    assert [numbers(source[index].video) for index in (5, 1, 3)] == [expected[index] for index in (5, 1, 3)]
    assert source.verdicts()[0].fps == pytest.approx(25)


def test_a_file_that_seeks_would_get_wrong_is_read_from_its_beginning(tmp_path: Path) -> None:
    """Times that repeat are moved on; the scan knows it, also when another process reads."""
    made = encode(tmp_path / "a.mkv", "mpeg4")
    (tmp_path / "clips").mkdir()
    copy(made, tmp_path / "clips" / "a.mkv", pts=[40 * (k - (k in (9, 16, 24))) for k in range(FRAMES)])
    source = folder(tmp_path / "clips", frames=4, stride=4)
    times._pasts.clear()
    found = [numbers(source[index].video) for index in reversed(range(len(source)))]
    assert found == [list(range(start, start + 4)) for start in reversed(range(0, FRAMES, 4))]


def test_damage_and_variable_rates_are_in_the_verdict(tmp_path: Path) -> None:
    for name in ("damaged-half-lost.webm", "vfr.webm", "trimmed-copy.mp4"):
        shutil.copyfile(CASES / name, tmp_path / name)
    said = {v.source: v for v in folder(tmp_path, frames=5, size=32).verdicts()}
    assert said["damaged-half-lost.webm"].frames == 50 and said["damaged-half-lost.webm"].kept == 10
    assert said["damaged-half-lost.webm"].dropped[0].startswith("everything after 2.0 s: damaged: decoding stopped at")
    assert "variable frame rate, frames taken as stored" in said["vfr.webm"].notes and said["vfr.webm"].frames == 86
    assert said["trimmed-copy.mp4"].frames == 67


def test_small_copies_last_as_long_and_keep_what_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for name in ("damaged-half-lost.webm", "vfr.webm"):
        shutil.copyfile(CASES / name, tmp_path / "clips" / name)
    frames = [Image.new("RGB", (32, 32), (60 * k, 0, 0)) for k in range(4)]
    frames[0].save(tmp_path / "clips" / "a.png", save_all=True, append_images=frames[1:], duration=[100, 100, 300, 100])
    summary = shrink(tmp_path / "clips", tmp_path / "small", 32)
    assert (summary.written, summary.failed) == (3, ()) and "damaged: decoding stopped at 2.000 s" in summary.partial[0]
    assert_within(video.probe(tmp_path / "small" / "vfr.webm").duration, 4.0, 0.003, "seconds")
    assert video.probe(tmp_path / "small" / "damaged-half-lost.webm").frames == 50
    assert_within(video.probe(tmp_path / "small" / "a.mkv").duration, 0.6, 0.003, "seconds")


# --- tasks ---------------------------------------------------------------------------------------------------------

SHAPE = Shape(window=9, size=(64, 96), fps=25.0, temporal_ratio=1)


def test_a_task_takes_the_frames_in_order(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.avi", "h264-b")
    made = prepare(GivenConfig(task="predict", video=path, given=6, start=0.8), SHAPE, None)
    assert numbers(made.canvas.video[0, :, :6]) == [20, 21, 22, 23, 24, 25]


@pytest.mark.parametrize("name", ["mask-palette.png", "labels.png", "alpha.png"])
def test_the_rule_of_a_mask_is_said_once(tmp_path: Path, name: str) -> None:
    clip = encode(tmp_path / "a.mp4", "h264")
    inside = np.zeros((64, 96), np.uint8)
    inside[20:40, 30:60] = 1
    if name == "mask-palette.png":
        shutil.copyfile(CASES / name, tmp_path / name)
    elif name == "labels.png":
        Image.fromarray(inside).save(tmp_path / name)
    else:
        Image.fromarray(np.dstack([inside * 0, inside * 0, inside * 0, inside * 255])).save(tmp_path / name)
    made = prepare(GivenConfig(task="complete", video=clip, mask=tmp_path / name), SHAPE, 9)
    [note] = [note for note in made.notes if note.startswith("mask ")]
    assert note.startswith(f"mask {name}: ")
    generated = made.canvas.mask[0, 0, 0].numpy() == 1
    assert 0 < generated.mean() < 0.9
    if name != "mask-palette.png":
        assert np.array_equal(generated, inside == 1)


def test_new_frames_between_those_of_a_variable_rate_keep_its_length(tmp_path: Path) -> None:
    made = prepare(GivenConfig(task="interpolate", video=CASES / "vfr.webm", insert=1), SHAPE, 9)
    assert made.fps == 43.0
    slow = encode(tmp_path / "a.mkv", "h264", pts=[k * (1 if k < 20 else 9) for k in range(FRAMES)])
    assert prepare(GivenConfig(task="interpolate", video=slow, insert=1), SHAPE, 61).canvas.video.shape[2] == 61


def test_what_is_left_behind_in_a_folder_is_no_input(tmp_path: Path) -> None:
    video.write(tmp_path / "frames", np.zeros((3, 16, 16, 3), np.uint8), 10)
    config = GenerateConfig(model="x", given=GivenConfig(task="predict", video=tmp_path / "frames"))
    before = input_hashes(input_files(config))
    (tmp_path / "frames" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "frames" / "Thumbs.db").write_bytes(b"x")
    assert input_hashes(input_files(config)) == before


def test_what_is_left_behind_changes_no_hash_of_weights(tmp_path: Path) -> None:
    for name in ("model.yaml", "model.safetensors", "vocab.txt"):
        (tmp_path / name).write_bytes(name.encode())
    hashes = (file_hash, weights_hash, lambda folder: model_hash(str(folder)), lambda folder: known_files([folder]))
    before = [found(tmp_path) for found in hashes]
    for name in ("._model.safetensors", "._config.json", "._vocab.txt", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    assert [found(tmp_path) for found in hashes] == before


# --- reconstruction ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def autoencoder() -> OdVae:
    torch.manual_seed(1)
    return OdVae(OdVaeConfig(hidden_size=8, hidden_size_mult=(1, 1, 1, 1), num_res_blocks=1, norm_num_groups=4)).eval()


def rebuilt(
    path: Path, out: Path, network: OdVae, monkeypatch: pytest.MonkeyPatch, **values: object
) -> tuple[str, ...]:
    monkeypatch.setattr(reconstruct_report, "model_hash", lambda name: "0" * 64)
    config = ReconstructConfig.model_validate({"autoencoder": "unused", "precision": "float32", "size": 16} | values)
    return reconstruct(path, out, network, config).notes


@pytest.mark.slow
def test_a_reconstruction_lasts_as_long_as_its_source(
    tmp_path: Path, autoencoder: OdVae, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = rebuilt(CASES / "vfr.webm", tmp_path / "r.mkv", autoencoder, monkeypatch)
    assert (
        "variable rate" in notes and "frames are written evenly, 21.5 a second, so that the copy lasts as long" in notes
    )
    info = video.probe(tmp_path / "r.mkv")
    assert info.frames in range(82, 87)
    assert_within(info.duration, (info.frames or 0) / 21.5, 0.002, "seconds")


def test_a_damaged_clip_is_reconstructed_up_to_the_damage(
    tmp_path: Path, autoencoder: OdVae, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = rebuilt(CASES / "damaged-half-lost.webm", tmp_path / "r.mkv", autoencoder, monkeypatch)
    assert sum("damaged: decoding stopped at 2.000 s after 50 frames" in note for note in notes) == 1
    assert sum("damaged" in note for note in notes) == 1
    assert video.probe(tmp_path / "r.mkv").frames in (49, 50)
