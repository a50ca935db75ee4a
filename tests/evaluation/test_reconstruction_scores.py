"""Scores of autoencoders and of paired folders, against what must come out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kinolab import video
from kinolab.autoencoders import build
from kinolab.autoencoders.base import Autoencoder, AutoencoderSpec, Posterior
from kinolab.autoencoders.odvae import OdVaeConfig
from kinolab.errors import InputError
from kinolab.evaluation import reconstruction as module
from kinolab.evaluation.clips import ProtocolClips
from kinolab.evaluation.protocol import Protocol
from kinolab.evaluation.reconstruction import (
    ReconstructionScores,
    evaluate_autoencoder,
    evaluate_folders,
    median_seconds,
    shape_facts,
    speed_facts,
)
from kinolab.evaluation.scores import ScoreReport
from kinolab.metrics.extractors import EXTRACTORS
from kinolab.metrics.extractors.encoder import load_encoder
from kinolab.metrics.reconstruction import MAX_PSNR
from kinolab.reports import error_heatmap
from tests.closeness import assert_within
from tests.engines.inside import Sent
from tests.evaluation.tiny import moving_frames, reconstruction, tiny_encoder, write_videos

pytestmark = pytest.mark.slow  # many short ones, which take long together

EVERY = ("psnr", "ssim", "ssim3d", "flicker", "warp", "seam", "grid", "rfvd")


class Identity(Autoencoder):
    """Latents are the pixels, folded by space and time; so every shape rule can be tried without any error."""

    def __init__(self, temporal: int = 1, spatial: int = 2, *, first_frame: bool = True, broken: float = 0.0) -> None:
        super().__init__()
        self.spec = AutoencoderSpec(
            3 * spatial**2 * temporal, temporal, spatial, causal=True, first_frame=first_frame
        )  # fmt: skip
        self.broken = torch.nn.Parameter(torch.tensor(broken))
        self.encoded: list[tuple[int, ...]] = []

    def encode(self, video: Tensor) -> Posterior:
        self.check_video(video)
        self.encoded.append(tuple(video.shape))
        s, r = self.spec.spatial_ratio, self.spec.temporal_ratio
        x = video.unflatten(4, (-1, s)).unflatten(3, (-1, s)).permute(0, 1, 4, 6, 2, 3, 5).flatten(1, 3)
        head = [x[:, :, :1].repeat_interleave(r, 1)] if self.spec.first_frame else []
        rest = x[:, :, self.spec.first_frame :].unflatten(2, (-1, r)).transpose(2, 3).flatten(1, 2)
        mean = torch.cat([*head, rest], dim=2)
        return Posterior(mean, torch.full_like(mean, -30.0))

    def decode(self, latents: Tensor) -> Tensor:
        self.check_latents(latents)
        s, r = self.spec.spatial_ratio, self.spec.temporal_ratio
        x = latents.unflatten(1, (-1, r)).transpose(2, 3).flatten(2, 3)
        x = x[:, :, r - 1 :] if self.spec.first_frame else x
        x = x.unflatten(1, (3, s, s)).permute(0, 1, 4, 5, 2, 6, 3).flatten(5, 6).flatten(3, 4)
        return x + self.broken

    def encode_stream(self, chunks: Any) -> Iterator[Posterior]:
        raise InputError("no stream")


class Gridded(Identity):
    """Blurs, and leaves the same pattern in every square."""

    def decode(self, latents: Tensor) -> Tensor:
        clip, s = super().decode(latents), self.spec.spatial_ratio
        smooth = torch.nn.functional.avg_pool3d(clip, (1, 3, 3), 1, (0, 1, 1), count_include_pad=False)
        pattern = torch.zeros(s, s)
        pattern[0, 0] = 0.5
        return smooth + pattern.tile(clip.shape[3] // s, clip.shape[4] // s)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("clips"), 4, frames=17)


def measure(autoencoder: Autoencoder, folder: Path | str, protocol: Protocol, **settings: Any) -> ScoreReport:
    clips = ProtocolClips(folder, protocol, autoencoder.spec)
    given = {"subject": {"name": "x"}, "precision": "float32"} | settings
    return evaluate_autoencoder(autoencoder, clips, protocol, **given)


def test_workers_give_the_report_of_one_process(encoder: Path, folder: Path) -> None:
    protocol = reconstruction(encoder, metrics=("psnr", "ssim", "seam"))
    reports = [measure(Identity(), folder, protocol, batch=3, engine=by) for by in (None, Sent())]
    alone, together = reports
    assert alone.metrics == together.metrics and alone.clips == together.clips and len(alone.clips) == 4
    assert "seam" in alone.metrics
    with pytest.raises(InputError, match="latents=sample draws its noise clip after clip"):
        measure(Identity(), folder, reconstruction(encoder, latents="sample"), engine=Sent())


@pytest.mark.parametrize(
    "autoencoder",
    [Identity(), Identity(4), Identity(2, first_frame=False)],
    ids=["image", "causal video", "video without a first frame"],
)
def test_the_identity_has_the_best_of_every_score(autoencoder: Identity, folder: Path, encoder: Path) -> None:
    report = measure(autoencoder, folder, reconstruction(encoder, metrics=EVERY, frames=17))
    values = {name: value.value for name, value in report.metrics.items()}
    assert values["psnr"] == MAX_PSNR and values["ssim"] == pytest.approx(1) and values["ssim3d"] == pytest.approx(1)
    assert values["flicker"] == 0 and values["seam"] == 1 and values["grid"] == 1 and values["detail"] == 1
    assert abs(values["rfvd"]) < 1e-6 and set(values) == {*EVERY, "detail"}
    floor = next(note for note in report.notes if note.startswith("warp:"))
    assert f"{values['warp']:.5f}" in floor, "of a perfect reconstruction, the originals' own"
    assert report.metrics["psnr"].count == 4 * (17 if autoencoder.spec.first_frame else 16)
    assert report.metrics["rfvd"].count == 4 and len(report.clips) == 4
    assert set(report.clips[0].scores) == {*EVERY, "detail"} - {"rfvd"} and report.clips[0].name == "00.mkv 0.00s"


def test_worse_is_worse_and_a_grid_is_seen(folder: Path, encoder: Path) -> None:
    protocol = reconstruction(encoder, metrics=EVERY)
    values = {k: v.value for k, v in measure(Gridded(spatial=4), folder, protocol).metrics.items()}
    assert values["psnr"] < 30 and values["ssim"] < 0.9 and values["rfvd"] > 1e-4
    assert values["grid"] > 1.5 and values["detail"] < 0.9 and values["flicker"] > 0


def test_psnr_is_its_formula(folder: Path, encoder: Path) -> None:
    report = measure(Identity(broken=0.02), folder, reconstruction(encoder, metrics=("psnr",)))
    assert_within(report.metrics["psnr"].value, 10 * math.log10(4 / 0.02**2), 1e-3, "dB")


def test_an_odd_length_is_snapped_and_said(folder: Path, encoder: Path) -> None:
    report = measure(Identity(4), folder, reconstruction(encoder, frames=16))
    assert report.data["frames"] == 13 and "windows of 13 frames instead of 16" in report.notes[0]


@pytest.mark.slow
@pytest.mark.parametrize("latents", ["mean", "sample"])
def test_results_do_not_depend_on_the_batch(latents: str, folder: Path, encoder: Path) -> None:
    torch.manual_seed(0)
    autoencoder = build(OdVaeConfig(hidden_size=8, hidden_size_mult=(1, 1, 1), num_res_blocks=1, norm_num_groups=4))
    protocol = reconstruction(encoder, metrics=EVERY, latents=latents, seed=1)
    one, three = (measure(autoencoder, folder, protocol, batch=b) for b in (1, 3))
    for name, value in one.metrics.items():
        assert three.metrics[name].value == pytest.approx(value.value, rel=1e-4, abs=1e-9), name
    assert one.notes == three.notes and one.protocol_hash == three.protocol_hash


def test_compression_counts_the_key_frame() -> None:
    autoencoder = build(OdVaeConfig(hidden_size=8, hidden_size_mult=(1, 1, 1, 1), num_res_blocks=1, norm_num_groups=4))
    facts = shape_facts(autoencoder, (17, 64, 96))
    assert facts["latents"] == [4, 5, 8, 12] and facts["latent_channels"] == 4
    assert facts["temporal_compression"] == 17 / 5 and facts["spatial_compression"] == 64
    assert facts["total_compression"] == 3 * 17 * 64 * 96 / (4 * 5 * 8 * 12)
    assert facts["parameters"] == sum(p.numel() for p in autoencoder.parameters())
    assert "bits_per_place" not in facts
    assert shape_facts(autoencoder, (1, 64, 64))["temporal_compression"] == 1
    longer = [shape_facts(autoencoder, (1 + 4 * k, 64, 64))["temporal_compression"] for k in (1, 4, 20, 1000)]
    assert longer == sorted(longer) and 3.99 < longer[-1] < 4, "the nominal ratio is that of an endless video"
    whole = shape_facts(Identity(2, first_frame=False), (16, 32, 32))
    assert whole["temporal_compression"] == 2 and whole["total_compression"] == 1, "no key frame of its own"


def test_codes_are_counted_in_bits() -> None:
    class Codes(Identity):
        @property
        def bits_per_latent(self) -> float | None:
            return 10.0

    facts = shape_facts(Codes(1, 8), (16, 64, 64))
    assert facts["bits_per_place"] == 10 and facts["compression_in_bits"] == 24 * 64 / 10


def test_speed_is_timed_on_the_asked_length(folder: Path, encoder: Path) -> None:
    notes: list[str] = []
    autoencoder, clip = Identity(4), torch.rand(1, 3, 9, 32, 32)
    facts = speed_facts(autoencoder, clip, 24, "float32", notes)
    assert facts["timed_frames"] == 21 and set(autoencoder.encoded) == {(1, 3, 21, 32, 32)}
    assert notes == ["speed: timed on a clip of 9 frames that is repeated to 21"]
    assert facts["encode_frames_per_second"] == pytest.approx(21 / facts["encode_seconds"])
    assert speed_facts(autoencoder, clip, None, "float32", notes)["timed_frames"] == 9 and len(notes) == 1
    assert speed_facts(autoencoder, clip, 5, "float32", notes)["timed_frames"] == 5
    report = measure(Identity(4), folder, reconstruction(encoder, speed_frames=5))
    assert report.facts["timed_frames"] == 5 and report.facts["decode_seconds"] > 0 and report.facts["precision"]


def test_the_first_time_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 100, 100, 101, 101, 103, 103, 104])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    assert median_seconds(lambda: None, torch.device("cpu")) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reconstruction_that_is_not_finite_names_the_clip(bad: float, folder: Path, encoder: Path) -> None:
    class Breaks(Identity):
        def decode(self, latents: Tensor) -> Tensor:
            clip = super().decode(latents)
            clip[-1, 0, 0, 0, 0] = bad
            return clip

    with pytest.raises(InputError, match=r"^01\.mkv 0\.00s: the reconstruction is not finite; try --precision float32"):
        measure(Breaks(), folder, reconstruction(encoder, metrics=("psnr",)), batch=2)


def test_what_cannot_be_given_is_said_and_the_rest_stands(encoder: Path, tmp_path: Path) -> None:
    write_videos(tmp_path, 2, frames=17)
    report = measure(Identity(), tmp_path, reconstruction(encoder, metrics=("psnr", "rfvd"), minimum=16))
    assert set(report.metrics) == {"psnr"}
    assert any(n.startswith("left out: rfvd needs at least 16 real samples, got 2") for n in report.notes)


def test_a_grid_that_no_frame_of_this_size_can_show_is_left_out(folder: Path, encoder: Path) -> None:
    for ratio, kept in ((1, set()), (16, {"detail"})):
        report = measure(Identity(1, ratio), folder, reconstruction(encoder, metrics=("psnr", "grid")))
        assert set(report.metrics) == {"psnr"} | kept
        assert any(f"grid: left out, a decoder of spatial ratio {ratio} leaves none" in n for n in report.notes)


def test_clips_without_motion_that_can_be_followed_do_not_end_it(
    folder: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kinolab.metrics.temporal.warp_error", lambda *_: None)
    report = measure(Identity(), folder, reconstruction(encoder, metrics=("psnr", "warp")))
    assert set(report.metrics) == {"psnr"}
    assert any("in none of 4 clips could any motion be followed" in n for n in report.notes)


def test_short_clips_have_no_seam(encoder: Path, folder: Path) -> None:
    report = measure(Identity(), folder, reconstruction(encoder, metrics=("psnr", "seam"), frames=5))
    assert set(report.metrics) == {"psnr"} and any(
        n.startswith("seam: left out, the clips are too short") for n in report.notes
    )
    chunked = measure(Identity(), folder, reconstruction(encoder, metrics=("psnr", "seam"), frames=5, chunk=2))
    assert chunked.metrics["seam"].value == 1


def test_seams_of_chunks_are_seen(folder: Path, encoder: Path) -> None:
    class Drifts(Identity):
        """Brighter from chunk to chunk."""

        count = 0

        def decode(self, latents: Tensor) -> Tensor:
            self.count += 1
            return super().decode(latents) + 0.05 * (self.count % 3)

    report = measure(Drifts(), folder, reconstruction(encoder, metrics=("seam",), chunk=4))
    assert report.metrics["seam"].value > 10


def test_rfvd_is_of_clips_and_not_of_frames(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_frames = load_encoder(encoder, per_frame=True)
    protocol = reconstruction(encoder, metrics=("rfvd",), video={"name": "inception", "path": encoder})
    monkeypatch.setitem(EXTRACTORS, "inception", lambda config, unit: of_frames)
    with pytest.raises(InputError, match="inception describes a frame, expected one of a clip"):
        ReconstructionScores(protocol, 2)


def test_the_worst_clips_are_shown(encoder: Path, tmp_path: Path) -> None:
    frames = moving_frames(5, 0)
    for k in range(4):
        video.write(tmp_path / "in" / f"{k}.mkv", np.roll(frames, k, axis=1), 8, lossless=True)

    class Worst(Identity):
        """The clips one after the other: errors 1, 3, 2, 0."""

        count = 0

        def decode(self, latents: Tensor) -> Tensor:
            self.count += 1
            return super().decode(latents) + 0.1 * (1, 3, 2, 0)[(self.count - 1) % 4]

    protocol = reconstruction(encoder, metrics=("psnr",), frames=5)
    report = measure(Worst(), tmp_path / "in", protocol, batch=1, videos=tmp_path / "out", keep=2)
    shown = {c.name[0]: Path(c.video).name for c in report.clips if c.video is not None}
    assert shown == {"1": "worst-00.mp4", "2": "worst-01.mp4"}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["worst-00.mp4", "worst-01.mp4"]
    shown_frames = video.read(tmp_path / "out" / "worst-00.mp4").frames
    assert shown_frames.shape == (5, 32, 96, 3)
    # An error of 0.3 of [-1, 1] is 38 of 255 everywhere the sum is not clamped: one colour of the heat map.
    expected = error_heatmap(np.zeros((1, 1, 1, 3), np.uint8), np.full((1, 1, 1, 3), 38, np.uint8))[0, 0, 0]
    assert np.abs(np.median(shown_frames[:, :, 64:], axis=(0, 1, 2)) - expected).max() < 12


def test_folders_are_paired_by_name(encoder: Path, tmp_path: Path) -> None:
    write_videos(tmp_path / "a", 3)
    for k in range(3):  # another format, another order, another folder depth of the whole
        frames = moving_frames(5, k).astype(int) + 2 * k
        video.write(tmp_path / "b" / f"{k:02d}", frames.clip(0, 255).astype(np.uint8), 8)
    report = evaluate_folders(
        tmp_path / "a", tmp_path / "b", reconstruction(encoder, metrics=("psnr", "rfvd"), frames=5)
    )
    scores = [c.scores["psnr"] for c in report.clips]
    assert [c.name for c in report.clips] == ["00.mkv", "01.mkv", "02.mkv"]
    assert_within(scores, [MAX_PSNR, *(20 * math.log10(255 / (2 * k)) for k in (1, 2))], 1e-3, "dB")
    assert report.subject["kind"] == "folder" and report.facts == {} and report.metrics["rfvd"].count == 3


def test_a_folder_with_itself_is_perfect_and_says_what_it_cannot_know(folder: Path, encoder: Path) -> None:
    report = evaluate_folders(folder, folder, reconstruction(encoder, metrics=EVERY))
    assert report.metrics["psnr"].value == MAX_PSNR and abs(report.metrics["rfvd"].value) < 1e-6
    assert not {"grid", "seam", "detail"} & set(report.metrics)
    assert any("of two folders nobody knows the decoder's grid and chunks" in note for note in report.notes)


def test_samples_of_paired_folders_stay_pairs(encoder: Path, tmp_path: Path) -> None:
    """Names that sort in another order with their endings."""
    for k, name in enumerate(("a", "a b", "a-c", "a.d", "b")):
        frames = moving_frames(5, k)
        video.write(tmp_path / "x" / f"{name}.mkv", frames, 8, lossless=True)
        video.write(tmp_path / "y" / name.replace(".", "_"), frames, 8)
        (tmp_path / "y" / name.replace(".", "_")).rename(tmp_path / "y" / name)
    for seed in range(4):
        protocol = reconstruction(encoder, metrics=("psnr",), frames=5, samples=3, seed=seed)
        report = evaluate_folders(tmp_path / "x", tmp_path / "y", protocol)
        assert len(report.clips) == 3 and report.metrics["psnr"].value == MAX_PSNR


def test_equal_videos_are_pairs_too(encoder: Path, tmp_path: Path) -> None:
    for side in ("a", "b"):
        for name in ("1", "2"):
            video.write(tmp_path / side / f"{name}.mkv", moving_frames(5, 0), 8, lossless=True)
    video.write(tmp_path / "b" / "2.mkv", moving_frames(5, 1), 8, lossless=True)
    report = evaluate_folders(tmp_path / "a", tmp_path / "b", reconstruction(encoder, metrics=("psnr",), frames=5))
    first, second = (c.scores["psnr"] for c in report.clips)
    assert first == MAX_PSNR > 40 > second


def test_a_missing_partner_is_named(encoder: Path, tmp_path: Path) -> None:
    protocol = reconstruction(encoder, metrics=("psnr",), frames=5)
    write_videos(tmp_path / "a", 3)
    write_videos(tmp_path / "b", 2)
    with pytest.raises(InputError, match=r"a: 02 has no partner of that name \(1 without one\)"):
        evaluate_folders(tmp_path / "a", tmp_path / "b", protocol)
    with pytest.raises(InputError, match="a: 02 has no partner"):
        evaluate_folders(tmp_path / "b", tmp_path / "a", protocol)
    video.write(tmp_path / "b" / "02.mkv", moving_frames(4, 2), 8, lossless=True)
    with pytest.raises(InputError, match=r"02 has no partner .* and clips of at least 5 frames"):
        evaluate_folders(tmp_path / "a", tmp_path / "b", protocol)
    video.write(tmp_path / "a" / "02.gif", moving_frames(5, 2), 8)
    with pytest.raises(InputError, match="a: two videos are called 02"):
        evaluate_folders(tmp_path / "a", tmp_path / "a", protocol)


def test_pairs_of_another_rate_or_aspect_are_refused(encoder: Path, tmp_path: Path) -> None:
    """Ten frames a second against thirty gave 9.55 dB without a word, though every picture is right."""
    protocol = reconstruction(encoder, metrics=("psnr",), frames=5)
    write_videos(tmp_path / "a", 3, frames=15)
    for k in range(3):
        video.write(tmp_path / "b" / f"{k:02d}.mkv", moving_frames(15, k)[::3], 8 / 3, lossless=True)
    with pytest.raises(InputError, match=r"00\.mkv has 2\.66\d* frames a second and .* 8 \(3 of 3 .*--fps 2\.66"):
        evaluate_folders(tmp_path / "a", tmp_path / "b", protocol)
    for k in range(3):
        video.write(tmp_path / "b" / f"{k:02d}.mkv", moving_frames(15, k)[:, :16], 8, lossless=True)
    with pytest.raises(InputError, match=r"00\.mkv is 32x16 and .*00\.mkv 32x32 \(3 of 3 pairs differ in aspect"):
        evaluate_folders(tmp_path / "a", tmp_path / "b", protocol)


def test_pairs_of_another_size_or_length_are_measured_with_a_note(encoder: Path, tmp_path: Path) -> None:
    write_videos(tmp_path / "a", 3, frames=6)
    for k in range(3):
        frames = moving_frames(5, k).repeat(2, axis=1).repeat(2, axis=2)
        video.write(tmp_path / "b" / f"{k:02d}.mkv", frames, 8.04, lossless=True)
    with pytest.warns(UserWarning, match=r"3 of 3 pairs differ in (size|length)") as said:
        report = evaluate_folders(tmp_path / "a", tmp_path / "b", reconstruction(encoder, metrics=("psnr",), frames=5))
    assert len(said) == 2 and {str(w.message) for w in said} <= set(report.notes)


def test_noise_of_the_posterior_is_no_seam(folder: Path, encoder: Path) -> None:
    """Chunks are of the mean, and so is what they are held against, also where samples are scored."""

    class Noisy(Identity):
        def encode(self, video: Tensor) -> Posterior:
            mean = super().encode(video).mean
            return Posterior(mean, torch.full_like(mean, -4.0))

    report = measure(Noisy(), folder, reconstruction(encoder, metrics=("psnr", "seam"), latents="sample"))
    assert report.metrics["psnr"].value < 40 and report.metrics["seam"].value == 1


def test_the_protocol_in_a_report_is_the_one_of_its_hash(folder: Path, encoder: Path) -> None:
    report = measure(Identity(4), folder, reconstruction(encoder, metrics=("psnr",), frames=16))
    assert isinstance(report.protocol, Protocol)
    assert report.protocol.frames == 13 and report.protocol.hash() == report.protocol_hash
