"""`reconstruct` in any mode gives what the autoencoder gives for the whole clip, for any length, and measures it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kinolab import video
from kinolab.autoencoders import DpVae, DpVaeConfig, ImageConfig
from kinolab.autoencoders.odvae import OdVae, OdVaeConfig
from kinolab.errors import InputError
from kinolab.generation import reconstruct_report
from kinolab.generation.key_frames import chosen_rule
from kinolab.generation.reconstruct import (
    can_stream,
    decode_groups,
    encode_groups,
    reconstruct,
    side_by_side,
)
from kinolab.generation.reconstruct_report import ReconstructConfig
from kinolab.layers import strips
from kinolab.metrics.reconstruction import psnr
from kinolab.runtime.progress import Reporter
from tests.closeness import assert_close, assert_within

pytestmark = pytest.mark.slow  # many short ones, which take long together

ODVAE = OdVaeConfig(hidden_size=8, hidden_size_mult=(1, 1, 1, 1), num_res_blocks=1, norm_num_groups=4)
CONFIG = ReconstructConfig(autoencoder="unused", precision="float32")


@pytest.fixture(autouse=True)
def no_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests hand over an autoencoder that has no folder."""
    monkeypatch.setattr(reconstruct_report, "model_hash", lambda name: "0" * 64)


def autoencoder(config: OdVaeConfig = ODVAE) -> OdVae:
    torch.manual_seed(1)
    return OdVae(config).eval()


def write_clip(path: Path, frames: int, height: int = 24, width: int = 32) -> np.ndarray:
    rng = np.random.default_rng(0)
    y, x, t = np.mgrid[0:height, 0:width, 0:frames]
    waves = [128 + 90 * np.sin(x / 5 + t / 3), 128 + 90 * np.cos(y / 4 - t / 5), 60 + 3 * t + 0 * x]
    clip = np.stack(waves, -1).transpose(2, 0, 1, 3) + rng.normal(0, 4, (frames, height, width, 3))
    clip = clip.clip(0, 255).astype(np.uint8)
    video.write(path, clip, 12.0, lossless=True)
    return clip


def panels(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three parts of a lossless result."""
    original, rebuilt, error = np.split(video.read(path).frames, 3, axis=2)
    return original, rebuilt, error


def changed(**values: object) -> ReconstructConfig:
    return ReconstructConfig.model_validate(CONFIG.model_dump() | values)


@torch.no_grad()
def test_the_stream_equals_the_whole_and_the_numbers_are_those_of_the_pixels(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "c.mkv", 37)
    model = autoencoder()
    whole = model.decode(model.encode(video.to_tensor(clip)[None]).mean)
    for mode in ("stream", "whole"):
        report = reconstruct(tmp_path / "c.mkv", tmp_path / mode, model, changed(mode=mode))
        original, rebuilt, error = panels(tmp_path / mode)
        np.testing.assert_array_equal(original, clip)
        # a value within 1e-5 of a half may round either way
        assert np.abs(rebuilt.astype(int) - video.to_uint8(whole[0])).max() <= 1
        np.testing.assert_array_equal(error, (4 * np.abs(original.astype(int) - rebuilt)).clip(max=255))
        assert_within(report.psnr.value, psnr(video.to_tensor(clip)[None], whole).mean(), 1e-3, "dB")
        assert report.mode == mode and report.frames == 37 and report.fps == 12 and not report.notes
        assert report.latent_shape == (4, 10, 3, 4)
        assert report.ratio == pytest.approx(3 * 37 * 24 * 32 / (4 * 10 * 3 * 4))
        assert report.encode_seconds > 0 and report.decode_seconds > 0


@torch.no_grad()
def test_groups_that_arrive_equal_the_tiling_of_the_whole_clip() -> None:
    model = autoencoder(ODVAE.model_copy(update={"norm": "clip"}))
    clip = torch.rand(1, 3, 29, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    chunks = [clip[:, :, :9], clip[:, :, 9:17], clip[:, :, 17:25], clip[:, :, 25:]]
    latents = list(encode_groups(model, iter(chunks)))
    assert_close(torch.cat(latents, 2), model.encode_tiled(clip, 9).mean)
    decoded = torch.cat(list(decode_groups(model, iter(latents))), 2)
    assert_close(decoded, model.decode_tiled(torch.cat(latents, 2), 3))


def test_an_autoencoder_without_a_stream_is_tiled_and_says_so(tmp_path: Path) -> None:
    write_clip(tmp_path / "c.mkv", 21)
    model = autoencoder(ODVAE.model_copy(update={"norm": "clip"}))
    assert can_stream(autoencoder()) and not can_stream(model)
    report = reconstruct(tmp_path / "c.mkv", tmp_path / "r", model, CONFIG)
    assert report.mode == "tiled" and "tiled instead" in report.notes[0] and report.frames == 21
    with pytest.raises(InputError, match="norm 'clip'"):
        reconstruct(tmp_path / "c.mkv", tmp_path / "s", model, changed(mode="stream"))
    assert not (tmp_path / "s").exists()


def test_what_breaks_the_rules_is_cut_and_said(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "c.mkv", 20, height=27, width=37)
    report = reconstruct(tmp_path / "c.mkv", tmp_path / "r", autoencoder(), CONFIG)
    assert (report.frames, report.size) == (17, (24, 32))
    assert "cut from 37x27 to 32x24" in report.notes[0] and "the last 3 frames left out" in report.notes[1]
    np.testing.assert_array_equal(panels(tmp_path / "r")[0], clip[:17, 1:25, 2:34])
    report = reconstruct(tmp_path / "c.mkv", tmp_path / "q", autoencoder(), changed(frames=7, size=16, upscale=2))
    assert (report.frames, report.size) == (5, (16, 16)) and "5 frames instead of 7" in report.notes[0]
    assert video.read(tmp_path / "q").frames.shape == (5, 32, 96, 3)


def test_memory_does_not_grow_with_the_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No chunk holds more than 17 frames, however long the clip."""
    most = 0
    stream = OdVae.decode_stream

    def watched(self: OdVae, chunks: Iterator[Tensor]) -> Iterator[Tensor]:
        nonlocal most
        for chunk in stream(self, chunks):
            most = max(most, chunk.shape[2])
            yield chunk

    monkeypatch.setattr(OdVae, "decode_stream", watched)
    write_clip(tmp_path / "c.mkv", 97, 8, 8)
    seen: list[tuple[int, int]] = []
    report = reconstruct(
        tmp_path / "c.mkv", tmp_path / "r", autoencoder(), CONFIG, lambda done, total: seen.append((done, total))
    )
    assert most == 17 and report.frames == 97 and report.ssim is None, "8 x 8 is smaller than the window of SSIM"
    assert seen[0] == (17, 97) and seen[-1] == (97, 97)


def test_the_record_beside_it_makes_it_again(tmp_path: Path) -> None:
    write_clip(tmp_path / "c.mkv", 5)
    report = reconstruct(tmp_path / "c.mkv", tmp_path / "r.mp4", autoencoder(), changed(tile=5))
    record = json.loads((tmp_path / "r.json").read_text())
    assert ReconstructConfig.model_validate(record["reconstruct"]).tile == 5
    assert record["psnr"]["value"] == report.psnr.value and record["latent_shape"] == [4, 2, 3, 4]
    text = "\n".join(report.lines())
    assert "3 x 5 x 24 x 32 pixels : 4 x 2 x 3 x 4 latents" in text and "float32 (as asked); tiled" in text


def test_the_error_is_amplified_and_pixels_are_enlarged() -> None:
    a, b = np.full((2, 3, 3), 100, np.uint8), np.full((2, 3, 3), 110, np.uint8)
    row = side_by_side(a, b, 4.0, 2)
    assert row.shape == (4, 18, 3)
    assert (row[:, :6] == 100).all() and (row[:, 6:12] == 110).all() and (row[:, 12:] == 40).all()


def test_mistakes_are_named(tmp_path: Path) -> None:
    write_clip(tmp_path / "c.mkv", 5, 8, 8)
    model = autoencoder()
    with pytest.raises(InputError, match=r"expected 1 \+ 4\*k frames, got 8; use 5"):
        reconstruct(tmp_path / "c.mkv", tmp_path / "r", model, changed(tile=8))
    with pytest.raises(InputError, match="not both"):
        reconstruct(tmp_path / "c.mkv", tmp_path / "r", model, changed(tile=5, mode="whole"))
    with pytest.raises(InputError, match="is the clip itself"):
        reconstruct(tmp_path / "c.mkv", tmp_path / "c.mkv", model, CONFIG)
    with pytest.raises(InputError, match="at least 8 x 8"):
        reconstruct(tmp_path / "c.mkv", tmp_path / "r", model, changed(size=(4, 8)))
    assert [p.name for p in tmp_path.iterdir()] == ["c.mkv"]


IMAGE = ImageConfig(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, mid_block_attention=False)


def dpvae(**fields: object) -> DpVae:
    torch.manual_seed(1)
    return DpVae(DpVaeConfig.model_validate({"image": IMAGE.model_dump(), "group_frames": 9, **fields})).eval()


def write_scenes(path: Path, scenes: tuple[int, ...]) -> np.ndarray:
    """Scenes of so many frames, each of one colour with a little noise, 24 x 32 pixels."""
    colours = [(200, 30, 30), (30, 60, 210), (40, 220, 40), (230, 220, 60)]
    rng = np.random.default_rng(0)
    parts = [
        np.full((n, 24, 32, 3), colours[k % 4]) + rng.integers(-4, 5, (n, 24, 32, 3)) for k, n in enumerate(scenes)
    ]
    clip = np.concatenate(parts).astype(np.uint8)
    video.write(path, clip, 12.0, lossless=True)
    return clip


@torch.no_grad()
def test_the_ratio_of_several_groups_counts_every_key_frame(tmp_path: Path) -> None:
    model, clip = dpvae(), write_clip(tmp_path / "c.mkv", 9 + 9 + 5)
    whole = model.decode(model.encode(video.to_tensor(clip)[None]).mean)
    for mode in ("auto", "whole"):
        report = reconstruct(tmp_path / "c.mkv", tmp_path / mode, model, changed(mode=mode))
        assert report.frames == 23 and report.latent_shape == (4, 8, 3, 4) and not report.notes
        assert report.ratio == pytest.approx(float(model.compression(23, 24, 32)))
        _, rebuilt, _ = panels(tmp_path / mode)
        assert np.abs(rebuilt.astype(int) - video.to_uint8(whole[0])).max() <= 1
    write_clip(tmp_path / "d.mkv", 9 + 3)
    report = reconstruct(tmp_path / "d.mkv", tmp_path / "d", model, changed())
    assert report.frames == 10 and report.notes == ("the last 2 frames left out: the autoencoder takes "
                                                    "9*m or 9*m + 1 + 4*k frames",)  # fmt: skip
    with pytest.raises(InputError, match="leave out --tile"):
        reconstruct(tmp_path / "c.mkv", tmp_path / "e", model, changed(tile=9))


@torch.no_grad()
@pytest.mark.parametrize("cuts", ["builtin", "scenedetect"])
def test_a_clip_with_cuts_is_reconstructed_scene_by_scene(tmp_path: Path, cuts: str) -> None:
    if cuts == "scenedetect":
        pytest.importorskip("scenedetect")
    model, clip = dpvae(key_frames={"rule": "scene", "cuts": cuts}), write_scenes(tmp_path / "c.mkv", (6, 13, 7))
    report = reconstruct(tmp_path / "c.mkv", tmp_path / "scene", model, changed())
    assert report.mode == "groups" and report.groups == (0, 6, 15, 19) == report.key_frames
    lengths = [6, 9, 4, 7]
    assert report.frames == 26 and report.latent_shape == (4, 3 + 3 + 2 + 3, 3, 4)
    assert report.ratio == pytest.approx(float(model.compression(26, 24, 32, lengths)))
    groups = model.encode_groups(video.to_tensor(clip)[None], cuts=(6, 19))
    expected = video.to_uint8(model.decode_groups(groups)[0])
    _, rebuilt, _ = panels(tmp_path / "scene")
    assert np.abs(rebuilt.astype(int) - expected).max() <= 1
    assert "groups     4; key frames 0, 6, 15, 19" in report.lines()
    assert report.notes == ("3 of 4 groups are not 1 + 4*k frames long: their last frame is repeated",)


def test_every_rule_can_be_asked_for_and_odd_clips_are_explained(tmp_path: Path) -> None:
    model = dpvae()
    write_scenes(tmp_path / "c.mkv", (1,) * 6)
    for rule, keys in (("scene", (0, 1, 2, 3, 4, 5)), ("fixed", (0, 4)), ("best", None)):
        given = {"rule": rule} | ({"period": 4} if rule == "fixed" else {"cuts": "none"} if rule == "best" else {})
        config = CONFIG.model_copy(update={"key_frames": chosen_rule(model, given)})
        report = reconstruct(tmp_path / "c.mkv", tmp_path / rule, model, config)
        assert report.frames == 6 and (keys is None or report.key_frames == keys)
        if rule == "scene":
            assert report.notes == (
                "the clip's 6 frames are fewer than a group of 9",
                "every frame is a group of its own, as a cut stands before each: nothing is saved along time",
            )
            assert report.ratio == pytest.approx(float(model.compression(1, 24, 32)))
    with pytest.raises(InputError, match="rule fixed make groups of any length; leave out mode whole"):
        whole = config.model_copy(
            update={"mode": "whole", "key_frames": chosen_rule(model, {"rule": "fixed", "period": 4})}
        )
        reconstruct(tmp_path / "c.mkv", tmp_path / "x", model, whole)
    assert chosen_rule(autoencoder(), {}) is None
    with pytest.raises(InputError, match="of kind dpvae, got odvae"):
        chosen_rule(autoencoder(), {"rule": "best"})
    with pytest.raises(InputError, match="a period belongs to rule fixed; got rule fixed, no period"):
        chosen_rule(model, {"rule": "fixed"})
    with pytest.raises(InputError, match="got rule best, period 3"):
        chosen_rule(model, {"rule": "best", "period": 3})


def test_an_option_that_the_rule_does_not_use_is_refused() -> None:
    model = dpvae()
    cases: list[tuple[dict[str, object], str]] = [
        ({"rule": "first", "cuts": "builtin"}, "cuts is for rules scene and best, got rule first; leave it out"),
        ({"cut_threshold": 0.1}, "cut_threshold is for rules scene and best, got rule first"),
        ({"rule": "fixed", "period": 4, "cuts": "scenedetect"}, "got rule fixed"),
        ({"rule": "scene", "cuts": "scenedetect", "cut_threshold": 0.1}, "for cuts builtin, got scenedetect"),
        ({"rule": "scene", "cuts": "none"}, "without cuts rule scene is rule first"),
        ({"rule": "fixed"}, "give --period FRAMES"),
        ({"period": 4}, "leave it out, or ask for fixed"),
    ]
    for given, said in cases:
        with pytest.raises(InputError, match=said):
            chosen_rule(model, given)
    chosen = chosen_rule(model, {"rule": "best", "cut_threshold": 0.1})
    assert chosen is not None and chosen.cut_threshold == 0.1
    own = chosen_rule(dpvae(key_frames={"rule": "scene"}), {"cut_threshold": 0.02})
    assert own is not None and (own.rule, own.cut_threshold) == ("scene", 0.02)


def test_short_clips_and_long_periods_are_explained(tmp_path: Path) -> None:
    model = dpvae()
    write_scenes(tmp_path / "one.mkv", (1,))
    write_scenes(tmp_path / "c.mkv", (20,))
    fixed = CONFIG.model_copy(update={"key_frames": chosen_rule(model, {"rule": "fixed", "period": 13})})
    report = reconstruct(tmp_path / "one.mkv", tmp_path / "a", model, fixed)
    assert report.frames == 1 and report.notes[0] == "the clip's 1 frame is fewer than a group of 13"
    report = reconstruct(tmp_path / "c.mkv", tmp_path / "b", model, fixed)
    assert report.key_frames == (0, 13)
    assert report.notes[0] == "a period of 13 makes groups longer than the model's own of 9 frames"


class Stopping(Reporter):
    """A reporter whose person presses Ctrl-C after so many frames."""

    def __init__(self, after: int) -> None:
        super().__init__("reconstructing", "frames", keeps="the frames so far", stream=io.StringIO())
        self.after = after

    def progress(self, done: int, total: int) -> None:
        super().progress(done, total)
        if done >= self.after:
            self.stopping = True

    @property
    def said(self) -> str:
        assert isinstance(self.stream, io.StringIO)
        return self.stream.getvalue()


def test_an_interrupted_folder_leaves_what_was_there(tmp_path: Path) -> None:
    write_clip(tmp_path / "c-partial.mkv", 49, 8, 8)
    whole = reconstruct(tmp_path / "c-partial.mkv", tmp_path / "r", autoencoder(), CONFIG, Stopping(49))
    record = (tmp_path / "r.json").read_text()
    report = reconstruct(tmp_path / "c-partial.mkv", tmp_path / "r", autoencoder(), CONFIG, Stopping(20))
    assert not whole.ended and report.ended and report.out.endswith("r-partial")
    assert len(list((tmp_path / "r").iterdir())) == 49 and len(list((tmp_path / "r-partial").iterdir())) == 33
    assert (tmp_path / "r.json").read_text() == record
    assert json.loads((tmp_path / "r-partial.json").read_text())["ended"] is True
    with pytest.raises(InputError, match=r"c-partial\.mkv: is the clip itself"):
        reconstruct(tmp_path / "c-partial.mkv", tmp_path / "c.mkv", autoencoder(), CONFIG)


def test_an_interrupt_keeps_the_frames_so_far_under_a_partial_name(tmp_path: Path) -> None:
    write_clip(tmp_path / "c.mkv", 49, 8, 8)
    (tmp_path / "r.mkv").write_bytes(b"an older result")
    report = reconstruct(tmp_path / "c.mkv", tmp_path / "r.mkv", autoencoder(), CONFIG, Stopping(20))
    assert report.ended and report.out.endswith("r-partial.mkv") and report.notes == ("ended after 33 of 49 frames",)
    frames = video.read(tmp_path / "r-partial.mkv").frames
    assert frames.shape == (33, 8, 24, 3)
    assert json.loads((tmp_path / "r-partial.json").read_text())["ended"] is True
    assert (tmp_path / "r.mkv").read_bytes() == b"an older result"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"c.mkv", "r.mkv", "r-partial.mkv", "r-partial.json"}, "and nothing else"
    whole = reconstruct(tmp_path / "c.mkv", tmp_path / "r.mkv", autoencoder(), CONFIG, Stopping(49))
    assert not whole.ended and whole.frames == 49
    again = video.read(tmp_path / "r.mkv").frames
    assert len(again) == 49 and np.abs(again[:33].astype(int) - frames).mean() < 2, "the same frames, coded anew"


def test_an_error_leaves_nothing_under_either_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "c.mkv", 33, 8, 8)

    def broken(self: OdVae, chunks: Iterator[Tensor]) -> Iterator[Tensor]:
        next(iter(chunks))
        yield torch.zeros(1, 3, 17, 8, 8)
        raise KeyboardInterrupt

    monkeypatch.setattr(OdVae, "decode_stream", broken)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(tmp_path / "c.mkv", tmp_path / "r.mp4", autoencoder(), CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["c.mkv"]


def test_frames_far_from_the_trained_size_are_said_before_anything_is_done(tmp_path: Path) -> None:
    write_clip(tmp_path / "c.mkv", 5, 32, 32)
    listener = Stopping(99)
    report = reconstruct(tmp_path / "c.mkv", tmp_path / "r.mkv", autoencoder(), CONFIG, listener, trained=(16, 16))
    assert listener.said.startswith("reconstructing: frames of 32x32 have 4 times the area of those")
    assert "(16x16)" in report.notes[0]
    listener = Stopping(99)
    report = reconstruct(
        tmp_path / "c.mkv", tmp_path / "r.mkv", autoencoder(), changed(size=16), listener, trained=(16, 16)
    )
    assert not listener.said and not report.notes


def test_large_frames_go_through_in_strips_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "c.mkv", 13, 40, 24)
    whole = reconstruct(tmp_path / "c.mkv", tmp_path / "w.mkv", autoencoder(), CONFIG)
    monkeypatch.setattr(strips, "LARGE", 0)
    monkeypatch.setattr(strips, "STRIP", 0)
    inside = reconstruct(tmp_path / "c.mkv", tmp_path / "s.mkv", autoencoder(), CONFIG)
    assert_within(inside.psnr.value, whole.psnr.value, 1e-3, "dB")
    assert inside.frames == 13
    rows = [video.read(tmp_path / name).frames.astype(int) for name in ("w.mkv", "s.mkv")]
    assert np.abs(rows[0] - rows[1]).mean() < 0.5


def test_large_frames_tell_how_far_they_are_within_the_first_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "c.mkv", 33, 40, 24)
    for name in ("LARGE", "STRIP"):
        monkeypatch.setattr(strips, name, 0)
    heard: list[tuple[float, int]] = []

    class Hearing(Stopping):
        def within(self, reached: float, total: int) -> None:
            heard.append((reached, total))
            super().within(reached, total)

        def progress(self, done: int, total: int) -> None:
            heard.append((done, total))
            super().progress(done, total)

    reconstruct(tmp_path / "c.mkv", tmp_path / "r.mkv", autoencoder(), CONFIG, Hearing(99))
    numbers = [reached for reached, _ in heard]
    assert numbers == sorted(numbers) and numbers[0] == 0 and numbers[-1] == 33 and {n for _, n in heard} == {33}
    first = numbers[: numbers.index(17)]
    assert len(first) > 50 and 0 < first[1] < 1 and first[-1] == pytest.approx(17, abs=0.02)
    assert first[-2] < 16.98, "the end is not reached before it is there"
    steps = np.diff(first)
    assert steps.max() < 3, "no step takes most of it"
