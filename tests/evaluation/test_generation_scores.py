"""Scores of generated clips: of folders, and of a tiny random model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kinolab import video
from kinolab.data import FolderConfig
from kinolab.diffusion import SamplerConfig
from kinolab.errors import InputError
from kinolab.evaluation import generation as module
from kinolab.evaluation.clips import Batch, GeneratedClips, ProtocolClips
from kinolab.evaluation.generation import ModelClips, evaluate_generated, fitted
from kinolab.evaluation.protocol import Protocol
from kinolab.evaluation.scores import ScoreReport
from kinolab.generation.request import SamplingConfig
from kinolab.methods import GuidanceConfig
from kinolab.models import VideoModel
from kinolab.toyworld.clips import CLASSES
from tests.closeness import assert_close, difference
from tests.engines.inside import Inside, Sent
from tests.evaluation.tiny import EVERY_GENERATION, generation, moving_frames, tiny_encoder, write_videos
from tests.tiny_model import tiny_model, tiny_vdt

pytestmark = pytest.mark.slow  # many short ones, which take long together


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("real"), 12)


@pytest.fixture(scope="module")
def conditional() -> VideoModel:
    """32 px, 5 frames, prompts and labels: fall, throw, float."""
    return tiny_model()


@pytest.fixture(scope="module")
def labelled() -> VideoModel:
    return tiny_model(text=False)


def folders(made: Path, real: Path, protocol: Protocol, **settings: Any) -> ScoreReport:
    given: dict[str, Any] = {"subject": {"name": "x"}, "batch": 5} | settings
    return evaluate_generated(GeneratedClips(made, protocol), ProtocolClips(real, protocol), protocol, **given)


def asked(model: VideoModel, real: Path | str | FolderConfig, protocol: Protocol, **settings: Any) -> ModelClips:
    return ModelClips(model, "tiny", ProtocolClips(real, protocol), protocol, **settings)


def captioned(folder: Path, captions: Sequence[str | None], *, labels: list[str] | None = None) -> Path:
    """Videos with captions beside them, in folders named after their labels."""
    for k, caption in enumerate(captions):
        path = folder / ("" if labels is None else labels[k]) / f"{k}.mkv"
        video.write(path, moving_frames(5, k), 8, lossless=True)
        if caption is not None:
            path.with_suffix(".txt").write_text(caption)
    return folder


def test_clips_of_another_rate_or_aspect_are_told_before_a_number(encoder: Path, real: Path, tmp_path: Path) -> None:
    for k in range(12):
        video.write(tmp_path / f"{k}.mkv", moving_frames(6, k)[:, :16], 25, lossless=True)
    protocol = generation(encoder)
    with pytest.warns(UserWarning) as said:
        report = folders(tmp_path, real, protocol)
    notes = [str(w.message) for w in said]
    assert "25 frames a second and the real ones 8" in notes[0] and "-s fps=25" in notes[0]
    assert "12 generated videos have another aspect than the protocol's 32x32 (12 of 32x16)" in notes[1]
    assert set(notes) <= set(report.notes)
    assert not [n for n in folders(real, real, protocol).notes if "frames a second" in n]


def test_a_folder_with_itself_is_as_good_as_can_be(encoder: Path, real: Path) -> None:
    protocol = generation(encoder, metrics=EVERY_GENERATION)
    report = folders(real, real, protocol)
    values = {name: value.value for name, value in report.metrics.items()}
    assert tuple(values) == EVERY_GENERATION, "in the protocol's order"
    assert abs(values["fvd"]) < 1e-6 and abs(values["fid"]) < 1e-6
    assert values["kvd"] < 1e-3 and values["kid"] < 1e-3, "unbiased: about 0, also below it"
    assert values["precision"] == values["recall"] == values["coverage"] == 1 and values["density"] >= 1
    assert all(0 <= values[m] <= 1 for m in EVERY_GENERATION[9:])
    assert report.facts == {"real_clips": 12, "generated_clips": 12} and len(report.clips) == 12
    assert report.clips[3].name == "03.mkv" and set(report.clips[3].scores) == set(EVERY_GENERATION[9:])
    assert report.metrics["fvd"].count == 12 and report.metrics["fid"].count == 60
    assert report.metrics["fvd"].protocol["extractor"] == "encoder" and report.protocol_hash == protocol.hash()


@pytest.mark.slow
def test_noise_is_further_away_than_clips_of_the_same_kind(encoder: Path, real: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(12):
        video.write(tmp_path / "noise" / f"{k}.mkv", rng.integers(0, 256, (5, 32, 32, 3), np.uint8), 8, lossless=True)
    write_videos(tmp_path / "same", 12, first=100)
    protocol = generation(encoder, metrics=EVERY_GENERATION)
    same, noise = (folders(tmp_path / f, real, protocol).metrics for f in ("same", "noise"))
    assert all(noise[m].value > 2 * max(same[m].value, 0) for m in ("fvd", "fid", "kvd", "kid"))
    assert noise["precision"].value == 0 and noise["temporal_flickering"].value < same["temporal_flickering"].value


@pytest.mark.slow
def test_the_batch_does_not_matter(encoder: Path, real: Path, tmp_path: Path) -> None:
    write_videos(tmp_path, 11, first=50)
    protocol = generation(encoder, metrics=EVERY_GENERATION)
    one, all_at_once = (folders(tmp_path, real, protocol, batch=b).metrics for b in (1, 32))
    for name, value in one.items():
        assert all_at_once[name].value == pytest.approx(value.value, rel=1e-4, abs=1e-7), name


def test_a_model_that_repeats_itself_shows_it(encoder: Path, real: Path, tmp_path: Path) -> None:
    for k in range(12):
        video.write(tmp_path / f"{k}.mkv", moving_frames(5, 0), 8, lossless=True)
    values = folders(tmp_path, real, generation(encoder, metrics=("precision", "recall", "coverage"))).metrics
    assert values["precision"].value == 1, "each of them is a real clip"
    assert values["recall"].value == pytest.approx(1 / 12) and values["coverage"].value < 1


def test_too_few_clips_are_refused_before_anything_is_made(
    encoder: Path, real: Path, tmp_path: Path, conditional: VideoModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = generation(encoder, minimum=12)
    write_videos(tmp_path / "two", 2)
    monkeypatch.setattr(module, "Extractors", lambda *_: pytest.fail("a network was loaded"))
    monkeypatch.setattr(VideoModel, "sample_latents", lambda *_, **__: pytest.fail("something was generated"))
    with pytest.raises(InputError, match="tiny asks for at least 12 generated clips, got 2: give it more, or lower"):
        folders(tmp_path / "two", real, protocol)
    with pytest.raises(InputError, match="tiny asks for at least 12 real clips, got 2"):
        folders(real, tmp_path / "two", protocol)
    made = asked(conditional, tmp_path / "two", protocol)
    with pytest.raises(InputError, match="at least 12 real clips, got 2"):
        evaluate_generated(made, made.clips, protocol, subject={"name": "x"}, videos=tmp_path / "videos")
    assert not (tmp_path / "videos").exists()


def test_two_clips_give_what_two_clips_can_give(encoder: Path, tmp_path: Path) -> None:
    """A lowered minimum is another protocol, and what still can't be given is said."""
    write_videos(tmp_path / "a", 2)
    write_videos(tmp_path / "b", 2, first=5)
    protocol = generation(encoder, metrics=("fvd", "fvd_infinite", "kvd", "precision", "motion_smoothness"), minimum=2)
    report = folders(tmp_path / "a", tmp_path / "b", protocol)
    assert set(report.metrics) == {"fvd", "kvd", "motion_smoothness"} and report.metrics["fvd"].interval is None
    assert [n for n in report.notes if n.startswith("left out")] == [
        "left out: fvd: the extrapolation needs at least 10 samples, one per group",
        "left out: precision and recall needs at least 10 real samples, got 2: give it more samples, or name a "
        "protocol that asks for fewer",
    ]


def test_short_videos_are_left_out_and_said(encoder: Path, real: Path, tmp_path: Path) -> None:
    write_videos(tmp_path, 11, first=20)
    video.write(tmp_path / "short.mkv", moving_frames(3, 0), 8, lossless=True)
    report = folders(tmp_path, real, generation(encoder))
    assert report.facts["generated_clips"] == 11
    assert (
        f"{tmp_path}: 1 of 12 files are no clips, the first is short.mkv: too short: 3 frames, a window has 5"
        in report.notes
    )


def test_frames_in_folders_are_videos(encoder: Path, real: Path, tmp_path: Path) -> None:
    for k in range(12):
        video.write(tmp_path / f"{k:02d}", moving_frames(5, k), 8)
    report = folders(tmp_path, real, generation(encoder, metrics=("fvd", "precision")))
    assert abs(report.metrics["fvd"].value) < 1e-6 and report.clips[0].name == "00"


def test_networks_are_not_needed_where_no_metric_reads_them(real: Path, tmp_path: Path) -> None:
    report = folders(
        real, real, generation(tmp_path / "none", metrics=("temporal_flickering",), video=None, image=None)
    )
    assert set(report.metrics) == {"temporal_flickering"}


def test_the_cache_is_used_and_said(encoder: Path, real: Path, tmp_path: Path) -> None:
    first, second = (folders(real, real, generation(encoder), cache=tmp_path) for _ in range(2))
    assert "features of the real clips were read from the cache" in second.notes and not first.notes
    assert first.metrics == second.metrics


def test_some_videos_are_written(encoder: Path, real: Path, tmp_path: Path) -> None:
    report = folders(real, real, generation(encoder), videos=tmp_path / "v", keep=3, batch=2)
    assert sorted(p.name for p in (tmp_path / "v").iterdir()) == ["000.mp4", "001.mp4", "002.mp4"]
    assert [c.video for c in report.clips][:4] == [*(str(tmp_path / "v" / f"00{k}.mp4") for k in range(3)), None]
    assert video.probe(tmp_path / "v" / "000.mp4").fps == 8


def test_the_inception_score_is_of_the_generated_alone(
    encoder: Path, real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kinolab.metrics.extractors import EXTRACTORS
    from kinolab.metrics.extractors.encoder import load_encoder

    class Classes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = load_encoder(encoder, per_frame=True)
            self.spec = self.inner.spec

        def probabilities(self, clips: Tensor) -> Tensor:
            return (50 * self.inner(clips)).softmax(1)

    monkeypatch.setitem(EXTRACTORS, "c3d", lambda config, unit: Classes())
    protocol = generation(
        encoder, metrics=("inception_score",), classifier={"name": "c3d", "path": encoder / "encoder.safetensors"}
    )
    monkeypatch.setattr(ProtocolClips, "batches", _only_generated(ProtocolClips.batches))
    report = folders(real, real, protocol)
    value = report.metrics["inception_score"]
    assert 1 < value.value <= 4 and value.count == 60


def _only_generated(batches: Any) -> Any:
    def watched(self: ProtocolClips, size: int) -> Iterator[Batch]:
        assert isinstance(self, GeneratedClips), "a real clip was read"
        found: Iterator[Batch] = batches(self, size)
        return found

    return watched


def test_a_model_is_measured_with_its_costs(conditional: VideoModel, encoder: Path, tmp_path: Path) -> None:
    real = captioned(tmp_path / "real", [f"clip {k}" for k in range(10)])
    protocol = generation(encoder, metrics=EVERY_GENERATION, seed=3)
    made = asked(conditional, real, protocol, sampling=SamplingConfig(sampler=SamplerConfig(name="euler", steps=2)))
    report = evaluate_generated(made, made.clips, protocol, subject={"name": "m"}, batch=4)
    assert set(report.metrics) == set(EVERY_GENERATION) and len(report.clips) == 10
    assert report.clips[7].name == "00007" and report.facts["seconds_per_clip"] > 0
    assert report.facts["asked_with"] == "prompt" and report.facts["sampler"]["steps"] == 2
    assert report.facts["first_seed"] == 3 and report.facts["guidance"]["scale"] == 2.0
    json.loads(report.to_json())


def test_workers_give_the_report_of_one_process(conditional: VideoModel, encoder: Path, tmp_path: Path) -> None:
    real = captioned(tmp_path / "real", [f"clip {k}" for k in range(10)])
    protocol = generation(encoder, metrics=("fvd", "motion_smoothness"), seed=3)
    reports = []
    for by in (None, Sent()):
        made = asked(conditional, real, protocol, sampling=SamplingConfig(sampler=SamplerConfig(name="euler", steps=2)))
        reports.append(evaluate_generated(made, made.clips, protocol, subject={"name": "m"}, batch=4, engine=by))
    alone, together = (json.loads(report.to_json()) for report in reports)
    for report in (alone, together):
        assert report["facts"].pop("seconds_per_clip") > 0 and report.pop("kinolab.crc32")
    assert alone == together and len(alone["clips"]) == 10
    with pytest.raises(InputError, match=r"^clip 5: ended every worker that tried it \(killed by SIGSEGV\)$"):
        poison = Inside(lambda part: part == 5)
        evaluate_generated(made, made.clips, protocol, subject={"name": "m"}, batch=4, engine=poison)


def test_a_prompt_and_a_seed_for_each_real_clip(conditional: VideoModel, encoder: Path, tmp_path: Path) -> None:
    captions = [f"clip {k}" for k in range(3)]
    made = asked(conditional, captioned(tmp_path, captions), generation(encoder, seed=7))
    assert [(r.prompt, r.label, r.seed) for r in made.requests(range(3))] == [
        (c, None, 7 + k) for k, c in enumerate(captions)
    ]
    batches = list(made.batches(2))
    assert [b.captions for b in batches] == [("clip 0", "clip 1"), ("clip 2",)]
    alone = conditional.generate("clip 2", seed=9)
    assert_close(batches[1].video, alone)


def test_prompts_of_the_toy_world(conditional: VideoModel, encoder: Path) -> None:
    made = asked(conditional, "world", generation(encoder, samples=3))
    [batch] = made.clips.batches(3)
    assert [r.prompt for r in made.requests(range(3))] == list(batch.captions)


def test_labels_are_asked_for_by_name(labelled: VideoModel, encoder: Path, tmp_path: Path) -> None:
    names = ["throw", "float", "throw"]
    made = asked(labelled, captioned(tmp_path, [None] * 3, labels=names), generation(encoder))
    assert made.asked == "label" and sorted(str(r.label) for r in made.requests(range(3))) == sorted(names)
    assert labelled.label_index("float") == 2 != made.clips.record(0).label, "the folder counts its own classes"
    assert not made.notes and len(list(made.batches(3))) == 1


def test_labels_of_other_classes_are_not_asked_for(labelled: VideoModel, encoder: Path, tmp_path: Path) -> None:
    made = asked(labelled, captioned(tmp_path, [None] * 3, labels=["cat", "dog", "cat"]), generation(encoder))
    assert made.asked == "nothing" and made.sampling.guidance == GuidanceConfig()
    assert made.notes == ["the model takes labels, but of other classes than the real clips'"]
    world = asked(labelled, "world", generation(encoder, samples=2))
    assert world.asked == "nothing", "its classes are not the world's"
    unnamed = VideoModel(
        labelled.config.model_copy(update={"class_names": ()}), labelled.autoencoder, labelled.denoiser
    )
    assert asked(unnamed, tmp_path, generation(encoder)).asked == "label", "without names by number"
    assert [r.label for r in asked(unnamed, tmp_path, generation(encoder)).requests(range(3))] == [0, 0, 1]
    assert len(CLASSES) > 3 and asked(unnamed, "world", generation(encoder, samples=8)).asked == "nothing"


def test_missing_captions_and_labels_are_said(
    conditional: VideoModel, labelled: VideoModel, encoder: Path, tmp_path: Path
) -> None:
    captioned(tmp_path / "a", ["one", None, "three"])
    made = asked(conditional, tmp_path / "a", generation(encoder))
    assert made.asked == "nothing" and made.notes[0] == "the model takes prompts, but not every real clip has a caption"
    assert asked(labelled, tmp_path / "a", generation(encoder)).notes == [
        "the model takes labels, but not every real clip has one"
    ]
    own = evaluate_generated(made, made.clips, generation(encoder, minimum=2, metrics=("kvd",)), subject={"name": "x"})
    assert own.facts["asked_with"] == "nothing" and made.notes[0] in own.notes


def test_a_model_that_makes_too_few_frames_says_how_many(conditional: VideoModel, encoder: Path, real: Path) -> None:
    with pytest.raises(InputError, match=r"tiny makes 5 frames and the protocol tiny looks at 6; .*-s frames=5"):
        asked(conditional, "world", generation(encoder, frames=6))


def test_the_first_frames_at_the_protocols_size_are_looked_at(
    conditional: VideoModel, encoder: Path, real: Path
) -> None:
    made = asked(conditional, real, generation(encoder, frames=4, size=(16, 32), samples=2))
    [batch] = made.batches(2)
    assert batch.video.shape == (2, 3, 4, 16, 32)
    whole = conditional.generate(["a", "b"], seed=0)[:, :, :4]
    nothing = asked(conditional, real, generation(encoder, frames=4, samples=2))
    assert next(nothing.batches(2)).video.shape == whole.shape


@pytest.mark.parametrize("frames", [3, 5])
def test_given_frames_come_back_as_they_were(frames: int, encoder: Path, real: Path) -> None:
    """Also where the protocol looks at fewer frames than the model makes."""
    model = tiny_vdt()
    made = asked(model, real, generation(encoder, frames=frames, samples=4), given_frames=2)
    clips = torch.cat([b.video for b in made.clips.batches(4)])
    [generated] = made.batches(4)
    assert generated.video.shape == clips.shape
    assert_close(generated.video[:, :, :2], clips[:, :, :2])
    assert difference(generated.video[:, :, 2:], clips[:, :, 2:]) > 0.1
    assert made.describe()["given_frames"] == 2


def test_given_frames_that_do_not_fit_are_refused(encoder: Path, real: Path) -> None:
    model = tiny_vdt()
    for count in (5, 9):
        with pytest.raises(InputError, match=f"{count} frames are given of the 5 that tiny looks at"):
            asked(model, real, generation(encoder), given_frames=count)
    with pytest.raises(
        InputError, match=r"makes frames of 32x32 and would be given some of 16x16; .*-s size=\[32,32\]"
    ):
        asked(model, real, generation(encoder, size=16), given_frames=1)


def test_guidance_needs_something_to_guide_towards(encoder: Path, real: Path) -> None:
    made = asked(tiny_vdt(), real, generation(encoder), sampling=SamplingConfig(guidance=GuidanceConfig(scale=4.0)))
    assert made.asked == "nothing" and made.sampling.guidance == GuidanceConfig() and made.notes == []


def test_agreement_needs_a_prompt_for_every_clip(encoder: Path, real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kinolab.metrics.text import PromptAgreement

    unread = PromptAgreement.__new__(PromptAgreement)  # what it reads of the folder comes after the question
    monkeypatch.setattr(PromptAgreement, "build", lambda setup: unread)
    protocol = generation(encoder, metrics=("prompt_agreement",), text=encoder)
    with pytest.raises(InputError, match="prompt_agreement needs a prompt for every clip"):
        folders(real, real, protocol)


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(16, 16), (24, 16), (40, 64)])
def test_generated_frames_are_fitted_as_read_ones_are(
    resize: Any, size: tuple[int, int], encoder: Path, tmp_path: Path
) -> None:
    """A smooth picture of 20 x 32 pixels: the filters differ a little, the place of everything doesn't."""
    y, x = np.mgrid[0:20, 0:32]
    frame = np.stack([40 + 5 * x, 200 - 6 * y, 100 + 2 * x + 2 * y], -1).astype(np.uint8)
    video.write(tmp_path / "a.mkv", np.repeat(frame[None], 2, 0), 8, lossless=True)
    protocol = generation(encoder, frames=2, size=size, resize=resize)
    read = next(GeneratedClips(tmp_path, protocol).batches(1)).video
    whole = video.to_tensor(video.read(tmp_path / "a.mkv").frames)[None]
    assert float((fitted(whole, size, resize) - read).abs().mean()) < 0.02


def test_broken_captions_stop_the_measures_that_need_them(
    encoder: Path, conditional: VideoModel, labelled: VideoModel, tmp_path: Path
) -> None:
    write_videos(tmp_path, 12)
    (tmp_path / "captions.csv").write_bytes(b"file,caption\n0.mkv,caf\xe9\n")
    protocol = generation(encoder)
    assert asked(tiny_vdt(), tmp_path, protocol).asked == "nothing"
    for model in (conditional, labelled):
        with pytest.raises(InputError, match=r"captions\.csv"):
            asked(model, tmp_path, protocol)
    with pytest.raises(InputError, match=r"captions\.csv"):
        folders(tmp_path, tmp_path, generation(encoder, metrics=("prompt_agreement",), text=encoder))
