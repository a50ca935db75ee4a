"""`evaluate reconstruction` and `evaluate generation` from the command line: what comes out, and every wrong input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kinolab import video
from kinolab.cli import main
from kinolab.metrics.extractors.encoder import VideoEncoderExtractor
from kinolab.runtime.devices import announce, choose
from tests.evaluation.tiny import moving_frames, tiny_encoder, write_videos
from tests.tiny_model import save_tiny_model

pytestmark = pytest.mark.slow  # many short ones, which take long together

SMALL = ("-s", "frames=5", "-s", "size=32", "-s", "minimum=10", "-s", "samples=12")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Status, output and errors of a command."""
    monkeypatch.setenv("COLUMNS", "200")

    def command(*args: object) -> tuple[int, str, str]:
        status = 0
        try:
            main(["evaluate", *map(str, args)])
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """The one line that a wrong command says."""

    def command(*args: object) -> str:
        status, _, errors = run(*args)
        lines = [line for line in errors.splitlines() if line.strip()]
        assert status == 2 and len(lines) == 1 and lines[0].startswith("kinolab: "), (status, errors)
        return lines[0].removeprefix("kinolab: ")

    return command


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("real"), 12)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("made"), 12, first=50)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tiny_encoder(tmp_path_factory.mktemp("encoder"))
    return ("-s", f"video.path={folder}", "-s", f"image.path={folder}")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 px, 5 frames, labels."""
    return save_tiny_model(tmp_path_factory.mktemp("model") / "m", text=False)


@pytest.fixture(autouse=True)
def _nothing_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.mark.slow
def test_a_folder_of_videos_is_measured(
    run: Run, real: Path, made: Path, encoder: tuple[str, ...], tmp_path: Path
) -> None:
    out, cache, videos = tmp_path / "new" / "scores.json", tmp_path / "cache", tmp_path / "videos"
    command = ("generation", made, real, *SMALL, *encoder, "--cache", cache, "--out", out, "--videos", videos)
    status, text, errors = run(*command)
    assert (
        status == 0
        and errors == f"{announce(choose())}\n"
        and "fvd" in text
        and "dynamic_degree" in text
        and str(out) in text
    )
    record = json.loads(out.read_text())
    assert record["kind"] == "generation" and record["subject"]["kind"] == "folder"
    assert record["metrics"]["fvd"]["value"] > 0 and len(record["clips"]) == 12
    assert {p.name for p in out.parent.iterdir()} == {"scores.json"} and len(list(cache.iterdir())) == 1
    assert (out.parent / record["clips"][0]["video"]).resolve() == videos / "000.mp4"
    status, text, _ = run(*command)
    again = json.loads(out.read_text())
    assert "read from the cache" in text and again["metrics"] == record["metrics"]


def test_a_model_is_asked_once_per_real_clip(
    run: Run, real: Path, model: Path, encoder: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "s.json"
    status, text, errors = run(
        "generation", model, real, *SMALL, *encoder, "-s", "metrics=[fvd,kid]", "--steps", 2, "--out", out,
        "--cache", tmp_path / "cache", "--precision", "float32",
    )  # fmt: skip
    assert status == 0 and errors == f"{announce(choose())}\n", errors
    record = json.loads(out.read_text())
    assert record["subject"]["kind"] == "model" and record["facts"]["sampler"]["steps"] == 2
    assert record["facts"]["generated_clips"] == 12 and set(record["metrics"]) == {"fvd", "kid"}
    assert "note: the model takes labels, but not every real clip has one" in text


@pytest.mark.slow
def test_an_autoencoder_and_its_videos_are_measured(run: Run, model: Path, tmp_path: Path) -> None:
    write_videos(tmp_path / "clips", 2, frames=17)
    small = ("-s", "size=32", "-s", "metrics=[psnr,seam,grid]", "-s", "split=all")
    out, videos = tmp_path / "s.json", tmp_path / "v"
    status, text, _ = run("reconstruction", model, tmp_path / "clips", *small, "--out", out, "--videos", videos)
    assert status == 0 and "total compression" in text and "encode frames per second" in text
    record = json.loads(out.read_text())
    assert record["subject"]["kind"] == "autoencoder" and record["facts"]["latents"] == [4, 5, 8, 8]
    assert (out.parent / record["clips"][0]["video"]).exists() and len(list(videos.iterdir())) == 2
    status, text, _ = run("reconstruction", tmp_path / "clips", tmp_path / "clips", *small, "--videos", tmp_path / "w")
    assert status == 0 and "100.00" in text and len(list((tmp_path / "w").iterdir())) == 2


def test_mixed_sizes_and_frame_folders_are_fine(run: Run, real: Path, encoder: tuple[str, ...], tmp_path: Path) -> None:
    for k in range(5):
        video.write(tmp_path / "made" / f"{k}.mp4", moving_frames(6, k, 48), 8)
        video.write(tmp_path / "made" / f"wide{k}.mkv", np.tile(moving_frames(5, k), (1, 1, 2, 1)), 8, lossless=True)
    video.write(tmp_path / "made" / "frames", moving_frames(9, 7), 8)
    (tmp_path / "made" / "notes.md").write_text("x")
    status, text, errors = run(
        "generation", tmp_path / "made", real, *SMALL, *encoder, "-s", "metrics=[kvd]", "--cache", tmp_path / "c"
    )
    assert status == 0 and "generated clips: 11" in text and "other files passed over: 1 .md" in text, errors


@pytest.mark.parametrize("kind", ["generation", "reconstruction"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-s", "sampels=4"), "unknown key 'sampels', did you mean 'samples'?"),
        (("-s", "samples"), "override 'samples': expected key=value"),
        (("-s", "metrics=[nothing]"), "unknown metric 'nothing'"),
        (("-s", "size=0"), "size: expected sides of at least one pixel (got 0)"),
        (("--protocol", "nothing"), "nothing: no such protocol; expected a YAML file or one of latte"),
    ],
)
def test_a_typo_is_one_line(
    kind: str, options: tuple[str, ...], message: str, refused: Callable[..., str], real: Path
) -> None:
    assert message in refused(kind, real, real, *options)


def test_a_protocol_of_the_wrong_kind_or_without_its_weights(refused: Callable[..., str], real: Path) -> None:
    assert "odvae: measures reconstruction, expected a protocol of generation" in refused(
        "generation", real, real, "--protocol", "odvae"
    )
    assert "measures generation, expected a protocol of reconstruction (odvae, toy-reconstruction)" in refused(
        "reconstruction", real, real, "--protocol", "toy-generation"
    )
    assert "fvd needs the weights of i3d_torchscript" in refused("generation", real, real, "--protocol", "latte")
    assert "lpips needs `perceptual`" in refused("reconstruction", real, real, "--protocol", "odvae")


def test_folders_that_hold_nothing(refused: Callable[..., str], real: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no clips; expected" in refused("generation", empty, real, *SMALL)
    assert "no clips; expected" in refused("generation", real, empty, *SMALL)
    assert "no clips; expected" in refused("reconstruction", real, empty)
    nowhere = tmp_path / "nowhere"
    assert "expected a model folder, a shipped model or a folder of videos; there is none" in refused(
        "generation", nowhere, real, *SMALL
    )
    assert "nowhere: no such folder of clips" in refused("generation", real, nowhere, *SMALL)
    (empty / "broken.mp4").write_text("no video")
    assert "none of 1 clips is usable: broken.mp4: not a video" in refused("generation", empty, real, *SMALL)


def test_clips_that_are_too_short_or_too_few(
    refused: Callable[..., str], real: Path, encoder: tuple[str, ...], tmp_path: Path
) -> None:
    assert "too short: 5 frames, a window has 16" in refused("generation", real, real)
    write_videos(tmp_path / "two", 2)
    message = refused("generation", tmp_path / "two", real, *SMALL, *encoder, "--out", tmp_path / "s.json")
    assert "asks for at least 10 generated clips, got 2" in message
    assert {p.name for p in tmp_path.iterdir()} == {"two"}, "nothing was written"
    write_videos(tmp_path / "one", 1)
    assert "holding out needs two different clips" in refused(
        "reconstruction", "world", tmp_path / "one", "-s", "frames=5"
    )


def test_a_wrong_weights_file(
    refused: Callable[..., str], real: Path, encoder: tuple[str, ...], tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.pt"
    torch.save({"a": torch.zeros(2)}, wrong)
    for name in ("i3d", "i3d_torchscript", "c3d"):
        message = refused(
            "generation", real, real, *SMALL, "-s", "metrics=[fvd]", "-s", f"video.name={name}", "-s",
            f"video.path={wrong}", "--out", tmp_path / "s.json", "--cache", tmp_path / "cache",
        )  # fmt: skip
        assert "wrong.pt: not " in message
    assert "encoder.yaml: missing; expected a folder" in refused(
        "generation", real, real, *SMALL, "-s", f"video.path={tmp_path}", "--cache", tmp_path / "cache"
    )
    assert "wrong.pt/encoder.yaml: missing; expected a folder" in refused(
        "generation", real, real, *SMALL, "-s", f"video.path={wrong}", "--cache", tmp_path / "cache"
    )
    assert {p.name for p in tmp_path.iterdir()} == {"wrong.pt"}


def test_features_that_are_not_finite(
    refused: Callable[..., str], real: Path, made: Path, encoder: tuple[str, ...], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def broken(self: Any, clips: Tensor) -> Tensor:
        return torch.full((len(clips), 4), torch.nan)

    monkeypatch.setattr(VideoEncoderExtractor, "features", broken)
    message = refused(
        "generation", made, real, *SMALL, *encoder, "-s", "metrics=[fvd]", "--out", tmp_path / "s.json",
        "--cache", tmp_path / "cache", "--videos", tmp_path / "videos",
    )  # fmt: skip
    assert message.startswith("00.mkv 0.00s: encoder gives features that are not finite")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [], "nothing was written"


@pytest.mark.parametrize("kind", ["generation", "reconstruction"])
def test_places_that_cannot_be_written_are_refused_first(
    kind: str, refused: Callable[..., str], real: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    assert "is a folder; expected the name of a JSON file" in refused(kind, "nowhere", real, "--out", tmp_path)
    for option in ("--out", "--videos"):
        place = tmp_path / "file" / "below"
        assert "file: is a file; expected a folder to write into" in refused(kind, "nowhere", real, option, place)
    assert "is a file" in refused(kind, "nowhere", real, "--videos", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_options_of_a_model_mean_nothing_for_videos(refused: Callable[..., str], real: Path) -> None:
    for option, value in (("--steps", 3), ("--guidance", 2), ("--sampler", "euler"), ("--given-frames", 2)):
        assert f"{option} is for a model" in refused("generation", real, real, option, value)


def test_more_given_frames_than_there_are(refused: Callable[..., str], real: Path, model: Path) -> None:
    for count in (5, 50):
        assert f"{count} frames are given of the 5 that tiny" in refused(
            "generation", model, real, *SMALL, "-s", "name=tiny", "--given-frames", count
        )


def test_a_model_that_makes_too_little(refused: Callable[..., str], real: Path, model: Path) -> None:
    longer = ("-s", "frames=6", "-s", "size=32")
    assert "makes 5 frames and the protocol toy-generation looks at 6" in refused("generation", model, "world", *longer)


def test_folders_that_are_no_videos(refused: Callable[..., str], real: Path, tmp_path: Path) -> None:
    """A run that is not finished holds sample videos; nobody means them."""
    write_videos(tmp_path / "run" / "samples", 12)
    (tmp_path / "run" / "recipe.yaml").write_text("kind: denoiser")
    assert "expected a model folder or a finished run folder" in refused("generation", tmp_path / "run", real, *SMALL)
    (tmp_path / "pipeline" / "vae").mkdir(parents=True)
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    assert "a whole diffusers pipeline" in refused("reconstruction", tmp_path / "pipeline", real)
    from kinolab.models import load_autoencoder, save_autoencoder
    from tests.tiny_model import tiny_model

    save_autoencoder(tiny_model(text=False).autoencoder, tmp_path / "autoencoder")
    assert load_autoencoder(tmp_path / "autoencoder") is not None
    assert "holds an autoencoder and no denoiser" in refused("generation", tmp_path / "autoencoder", real, *SMALL)


def test_a_video_without_a_partner(refused: Callable[..., str], real: Path, tmp_path: Path) -> None:
    write_videos(tmp_path / "made", 11)
    small = ("-s", "frames=5", "-s", "size=32", "-s", "metrics=[psnr]")
    message = refused("reconstruction", tmp_path / "made", real, *small, "--out", tmp_path / "s.json")
    assert f"{real}: 11 has no partner of that name (1 without one)" in message and not (tmp_path / "s.json").exists()
