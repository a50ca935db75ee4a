"""A model with a part given: one function for training and sampling, warnings, steering, canvases, exact pixels."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kinolab.conditioning.given
import kinolab.models.cascade
from kinolab import tasks, video
from kinolab.conditioning import of_examples
from kinolab.contracts.examples import Example
from kinolab.denoisers import Conditions
from kinolab.errors import InputError
from kinolab.generation.generate import generate, rerun
from kinolab.generation.provenance import read_provenance
from kinolab.generation.request import GenerateConfig, request_of
from kinolab.generation.windows import fill_canvas
from kinolab.layers.masking import fully_given
from kinolab.methods import SteeringConfig
from kinolab.models import Request, VideoModel
from kinolab.models.stage_config import StageConfig
from kinolab.tasks import TasksConfig, box_mask, keyframe_mask, past_mask, predict_mask
from kinolab.tasks.extend import Canvas, looped, sliding
from kinolab.tasks.request import GivenConfig
from tests.closeness import assert_close, assert_same
from tests.listening import Listening
from tests.tiny_model import tiny_model, tiny_vdt

pytestmark = pytest.mark.slow  # many short ones, which take long together

PREDICT = predict_mask(5, 32, 32, 1).expand(1, 1, -1, -1, -1)


def clip(seed: int = 0, frames: int = 5) -> torch.Tensor:
    return torch.rand(1, 3, frames, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def vdt_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vdt")
    tiny_vdt().save(folder)
    return folder


@pytest.fixture
def clip_file(tmp_path: Path) -> Path:
    frames = np.random.default_rng(0).integers(0, 255, (9, 40, 48, 3), dtype=np.uint8)
    video.write(tmp_path / "clip.mkv", frames, fps=8, lossless=True)
    return tmp_path / "clip.mkv"


def told(model: VideoModel) -> list[Conditions]:
    """Collects the conditions that the denoiser is called with."""
    seen: list[Conditions] = []
    model.denoiser.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    return seen


def test_training_and_sampling_tell_a_model_the_same_by_the_same_function() -> None:
    assert kinolab.models.cascade.encode_given is kinolab.conditioning.given.encode_given is tasks.encode_given
    model, video_ = tiny_vdt(), clip()
    seen = told(model)
    example = Example(video_[0], 8.0, None, None, "x", (0.0, 1.0))
    [mask] = [tasks.draw_mask(TasksConfig(predict=1, complete=1, predict_frames=(1, 3)), 5, 32, 32, _generator())[1]]
    trained = of_examples([example], model.setting, lambda purpose: [_generator()], model.config.tasks)
    model.complete(video_, mask.expand(1, 1, -1, -1, -1))
    assert trained.given is not None and trained.mask is not None
    assert len(seen) == model.config.sampler.steps
    for conditions in seen:
        assert (
            conditions.given is not None and conditions.mask is not None and torch.equal(conditions.mask, trained.mask)
        )
        assert_close(conditions.given, trained.given)
    # The denoiser itself puts it in: no other place of sampling or training touches a model's input.
    for function in (kinolab.models.VideoModel.sample_latents, kinolab.conditioning.of_examples):
        assert "torch.where" not in inspect.getsource(function)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_pixels_under_the_mask_have_no_influence_and_given_ones_have() -> None:
    model = tiny_vdt()
    one, other = clip(0), clip(1)
    hidden = torch.where(PREDICT == 0, one, other)
    assert torch.equal(model.complete(one, PREDICT), model.complete(hidden, PREDICT))
    assert not torch.equal(model.complete(one, PREDICT), model.complete(other, PREDICT))


@pytest.mark.parametrize("given", ["adaln", "cross_attention", "tokens", "mask"])
def test_given_latents_are_kept_by_models_that_do_not_make_them(given: str) -> None:
    model = tiny_vdt(given)
    latents, folded = tasks.encode_given(model.autoencoder, clip(), PREDICT)
    part = kinolab.models.GivenPart(latents, folded, clip(), PREDICT)
    made = model.sample_latents([Request(seed=0)], given=part)
    known = fully_given(folded).expand_as(made)
    assert torch.equal(made[known], latents[known]) and not torch.equal(made[~known], latents[~known])


def test_exact_pixels_come_out_as_they_were() -> None:
    model, video_ = tiny_vdt(), clip()
    mask = box_mask(5, 32, 32, [(8, 8, 24, 24)]).expand(1, 1, -1, -1, -1)
    made = model.complete(video_, mask, exact=True)
    given = (mask == 0).expand_as(made)
    assert torch.equal(made[given], video_[given])
    assert not torch.equal(made, model.complete(video_, mask))


def test_a_request_outside_the_training_warns_and_one_inside_does_not() -> None:
    model, video_ = tiny_vdt(), clip()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.complete(video_, PREDICT)
    with pytest.warns(UserWarning, match="from 1 to 3 given frames, got 4"):
        model.complete(video_, predict_mask(5, 32, 32, 4).expand(1, 1, -1, -1, -1))
    with pytest.warns(UserWarning, match="not trained on the task past"):
        model.complete(video_, past_mask(5, 32, 32, 2).expand(1, 1, -1, -1, -1))


@pytest.mark.parametrize("mask", [torch.zeros(1, 1, 5, 32, 32), torch.ones(1, 1, 5, 32, 32)])
def test_empty_and_full_masks_are_errors(mask: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"the mask is (empty|full)"):
        tiny_vdt().complete(clip(), mask)


@pytest.mark.parametrize("error", ["latents", "pixels"])
@pytest.mark.parametrize("steered", ["latte", "vdt"])
def test_any_model_can_be_steered(steered: str, error: Any) -> None:
    """Reconstruction guidance brings the decoded given frames nearer to what was given than nothing at all does."""
    model = tiny_model(text=False) if steered == "latte" else tiny_vdt()
    video_ = torch.zeros(1, 3, 5, 32, 32)
    with torch.no_grad():
        video_ = model.decode(model.autoencoder.encode(clip()).mean)
    requests = [Request(label=1, seed=2)] if steered == "latte" else [Request(seed=2)]
    made = [
        model.complete(video_, PREDICT, requests, steering=SteeringConfig(weight=weight, error=error))
        for weight in (0.0, 2.0)
    ]
    assert not torch.equal(made[0], made[1])
    known = model.sample_latents(
        [Request(seed=2, frames=5, size=(32, 32))],
        given=kinolab.models.GivenPart(*tasks.encode_given(model.autoencoder, video_, PREDICT), video_, PREDICT),
        steering=SteeringConfig(weight=2.0, error=error),
    ) if steered == "vdt" else None  # fmt: skip
    if known is not None:
        latents, folded = tasks.encode_given(model.autoencoder, video_, PREDICT)
        where = fully_given(folded).expand_as(known)
        assert_close(known[where], latents[where])


def test_steering_in_latents_needs_a_whole_latent() -> None:
    lone = keyframe_mask(5, 32, 32, [2]).expand(1, 1, -1, -1, -1)
    model = tiny_model(text=False)
    with pytest.raises(InputError, match="--error pixels"):
        model.complete(clip(), lone)
    assert model.complete(clip(), lone, steering=SteeringConfig(error="pixels")).shape == (1, 3, 5, 32, 32)


def test_a_task_is_guided_towards_what_is_given_by_the_models_own_scale(vdt_folder: Path, clip_file: Path) -> None:
    model = tiny_vdt()
    plain = model.complete(clip(), PREDICT)
    model.config = model.config.model_copy(update={"given_guidance": 3.0})
    guided = model.complete(clip(), PREDICT)
    assert_same(model.complete(clip(), PREDICT, guidance={"scales": {"given": 3.0}}), guided)
    assert_same(model.complete(clip(), PREDICT, guidance=1.0), plain)
    assert not torch.equal(guided, plain)
    seen = told(model)
    model.complete(clip(), PREDICT)
    nothing = [c.mask is not None and bool((c.mask == 1).flatten(1).all(1).any()) for c in seen]
    assert nothing and all(nothing), "the branch that is moved away from is told nothing"
    held = model.complete(clip(), PREDICT, steering=SteeringConfig())
    assert_same(model.complete(clip(), PREDICT, steering=SteeringConfig(), guidance=1.0), held)
    with pytest.raises(ValueError, match="given_guidance 2: this denoiser is told of no given part"):
        StageConfig(denoiser=tiny_model(text=False).config.denoiser, given_guidance=2.0)


def test_the_models_own_scale_is_written_down_and_made_again(tmp_path: Path, clip_file: Path) -> None:
    model = tiny_vdt()
    model.config = model.config.model_copy(update={"given_guidance": 3.0})
    model.save(tmp_path / "model")
    given = {"task": "predict", "video": clip_file}
    asked: dict[str, Any] = {"model": str(tmp_path / "model"), "given": given, "sampler": {"steps": 2}}
    [made] = generate(request_of(asked), tmp_path / "made.mkv")
    assert read_provenance(made)["request"]["guidance"]["scales"] == [["given", 3.0]]
    again, changed = rerun(made, tmp_path / "again.mkv")
    assert changed == [] and (video.read(again).frames == video.read(made).frames).all()
    steered = request_of({**asked, "given": {**given, "method": "reconstruction"}})
    assert steered.guidance is not None and not steered.guidance.active


def test_what_a_model_can_not_be_told_of_is_refused() -> None:
    lone = keyframe_mask(5, 32, 32, [2]).expand(1, 1, -1, -1, -1)
    with pytest.raises(InputError, match="given: mask knows nothing else"):
        tiny_vdt("mask", TasksConfig(interpolate=1)).complete(clip(), lone)
    with pytest.raises(InputError, match="nothing to steer by"):
        tiny_vdt().complete(clip(), lone, steering=SteeringConfig(method="replacement", error="pixels"))
    untrained = tiny_vdt()
    untrained.config = untrained.config.model_copy(update={"tasks": None})
    with pytest.warns(UserWarning, match="means nothing to it"):
        untrained.complete(clip(), PREDICT)


def test_a_canvas_is_filled_window_by_window_and_keeps_what_was_known() -> None:
    model = tiny_vdt(tasks=TasksConfig(predict=1, interpolate=1))
    canvas = torch.zeros(2, 3, 14, 32, 32)
    canvas[:, :, :3] = clip(4, 3)
    mask = torch.ones(2, 1, 14, 32, 32)
    mask[:, :, :3] = 0
    requests = [Request(seed=0), Request(seed=5)]
    for exact in (True, False):
        made = fill_canvas(model, Canvas(canvas, mask), sliding(14, 5, 2), requests, exact=exact)
        assert made.shape == canvas.shape and bool((made[:, :, 3:].abs().flatten(3).sum(3) > 0).all())
        assert torch.equal(made[:, :, :3], canvas[:, :, :3]) == exact
    assert not torch.equal(made[0, :, 3:], made[1, :, 3:]), "each clip has its own noise"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = fill_canvas(model, Canvas(canvas[:1], mask[:1]), looped(14, 5, 2), requests[:1])
    assert again.shape == (1, 3, 14, 32, 32)


def test_every_window_of_a_canvas_is_given_what_the_ones_before_made() -> None:
    model = tiny_vdt(tasks=TasksConfig(predict=1))
    seen: list[torch.Tensor] = []
    complete = model.complete

    def spy(video_: torch.Tensor, mask: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(video_)
        return complete(video_, mask, *args, **kwargs)

    model.complete = spy  # type: ignore[method-assign, assignment]
    canvas, mask = torch.zeros(1, 3, 8, 32, 32), torch.ones(1, 1, 8, 32, 32)
    canvas[:, :, :2], mask[:, :, :2] = clip(4, 2), 0
    made = fill_canvas(model, Canvas(canvas, mask), sliding(8, 5, 2), [Request(seed=0)], exact=True)
    assert len(seen) == 2 and torch.equal(seen[1][:, :, :2], made[:, :, 3:5])


REQUESTS: dict[str, dict[str, Any]] = {
    "predict": {"given": 3},
    "predict past": {"task": "predict", "given": 2, "past": True},
    "interpolate": {"every": 2},
    "interpolate insert": {"task": "interpolate", "insert": 3},
    "interpolate keyframes": {"task": "interpolate", "keyframes": [0, -1]},
    "complete": {"boxes": [[4, 4, 20, 20]]},
    "extend": {"overlap": 2},
    "extend loop": {"task": "extend", "overlap": 2, "loop": True},
    "extend past": {"task": "extend", "overlap": 2, "past": True},
}


@pytest.mark.filterwarnings("ignore:the model was not trained")
@pytest.mark.filterwarnings("ignore:trained to predict")
@pytest.mark.parametrize("name", REQUESTS)
def test_every_task_writes_a_video_that_can_be_made_again(
    name: str, vdt_folder: Path, clip_file: Path, tmp_path: Path
) -> None:
    given = {"task": name.split()[0], "video": clip_file, **REQUESTS[name]}
    config = GenerateConfig.model_validate({"model": str(vdt_folder), "precision": "float32", "given": given})
    [path] = generate(config, tmp_path / "made.mkv")
    frames = video.read(path).frames
    expected = {"predict": 5, "interpolate": 9, "complete": 9, "extend": 12}[name.split()[0]]
    assert len(frames) == {"interpolate insert": 33}.get(name, expected)
    again, changed = rerun(path, tmp_path / "again.mkv")
    assert changed == [] and (video.read(again).frames == frames).all()
    video.write(clip_file, frames, fps=8, lossless=True)
    with pytest.raises(InputError, match="has changed since"):
        rerun(path, tmp_path / "third.mkv")


def test_exact_frames_are_in_the_file_bit_for_bit(vdt_folder: Path, clip_file: Path, tmp_path: Path) -> None:
    given = {"task": "predict", "video": clip_file, "given": 3, "keep": "exact"}
    config = GenerateConfig.model_validate({"model": str(vdt_folder), "precision": "float32", "given": given})
    heard = Listening()
    for ending in (".mkv", "", ".mp4"):
        [path] = generate(config, tmp_path / f"made{ending}", events=heard)
        source = video.read(clip_file, size=(32, 32)).frames[:3]
        same = (video.read(path).frames[:3] == source).all()
        assert same == (ending != ".mp4")
    assert len(heard.notes) == 1 and "bit for bit" in heard.notes[0]


def test_images_of_any_origin_are_animated(vdt_folder: Path, clip_file: Path, tmp_path: Path) -> None:
    for k, size in enumerate(((50, 40), (32, 32))):
        folder = tmp_path / f"frames{k}"
        video.write(folder, np.full((1, *size, 3), 80 + 90 * k, np.uint8), fps=8)
    images = sorted(tmp_path.glob("frames*/*.png"))
    given = {"task": "animate", "images": images, "keep": "exact"}
    config = GenerateConfig.model_validate({"model": str(vdt_folder), "precision": "float32", "given": given})
    with pytest.warns(UserWarning, match="not trained"):
        [path] = generate(config, tmp_path / "made.mkv")
    frames = video.read(path).frames
    assert (frames[0] == 80).all() and (frames[-1] == 170).all() and len(frames) == 5


def test_masks_from_files_rest_or_move(vdt_folder: Path, clip_file: Path, tmp_path: Path) -> None:
    moving = np.zeros((9, 40, 48, 3), np.uint8)
    for t in range(9):
        moving[t, 8:24, 2 * t : 2 * t + 16] = 255
    video.write(tmp_path / "moving.mkv", moving, fps=8, lossless=True)
    video.write(tmp_path / "still", moving[:1], fps=8)
    source = video.read(clip_file, size=(32, 32)).frames
    for mask in (tmp_path / "moving.mkv", next((tmp_path / "still").glob("*.png"))):
        given = {"task": "complete", "video": clip_file, "mask": mask, "keep": "exact"}
        config = GenerateConfig.model_validate({"model": str(vdt_folder), "precision": "float32", "given": given})
        [path] = generate(config, tmp_path / "made.mkv")
        shown = video.read(mask, size=(32, 32)).frames.mean(-1) > 127.5
        changed = (video.read(path).frames != source).any(-1)
        shown = np.broadcast_to(shown, changed.shape)
        assert not changed[~shown].any() and changed[shown].mean() > 0.9


@pytest.mark.filterwarnings("ignore:the model was not trained")
@pytest.mark.filterwarnings("ignore:trained to predict")
@pytest.mark.parametrize(
    ("given", "frames", "expected"),
    [
        ({"task": "predict", "given": 2}, 4, 4),
        ({"task": "predict", "given": 2, "past": True}, 3, 3),
        ({"task": "interpolate", "insert": 1}, 3, 3),
        ({"task": "interpolate", "insert": 1}, 7, 7),
        ({"task": "extend", "overlap": 2, "loop": True}, None, 12),
        ({"task": "extend", "overlap": 2, "stride": 3}, None, 13),
    ],
)
def test_videos_have_as_many_frames_as_asked(
    given: dict[str, Any], frames: int | None, expected: int, vdt_folder: Path, clip_file: Path, tmp_path: Path
) -> None:
    given = {"video": clip_file, "keep": "exact", **given}
    config = GenerateConfig.model_validate(
        {"model": str(vdt_folder), "precision": "float32", "given": given, "frames": frames}
    )
    [path] = generate(config, tmp_path / "made.mkv")
    shown, source = video.read(path).frames, video.read(clip_file, size=(32, 32)).frames
    assert len(shown) == expected
    first = {"predict": source[0], "interpolate": source[0], "extend": source[0]}[given["task"]]
    assert (shown[-2 if given.get("past") else 0] == first).all()


@pytest.mark.filterwarnings("ignore:the model was not trained")
def test_an_image_at_the_end_of_a_long_video_is_led_up_to(vdt_folder: Path, clip_file: Path) -> None:
    from kinolab.tasks.request import GivenConfig, Shape, prepare

    request = GivenConfig(task="animate", images=(clip_file,), at=(-1,), overlap=2)
    prepared = prepare(request, Shape(5, (32, 32), 8.0, 4), 14)
    assert prepared.windows[0][-1] == 13 and prepared.windows[-1][0] == 0
    known = {13}
    for frames in prepared.windows:
        assert known & set(frames), "every window has something to go on from"
        known |= set(frames)
    assert known == set(range(14))


def test_a_mask_follows_the_clips_time_and_a_folder_its_frames(clip_file: Path, tmp_path: Path) -> None:
    from kinolab.tasks.request import GivenConfig, Shape, prepare

    pictures = np.zeros((9, 40, 48, 3), np.uint8)
    for t in range(9):
        pictures[t, : 4 * t + 4] = 255
    video.write(tmp_path / "mask.mkv", pictures.repeat(2, axis=0), fps=16, lossless=True)
    video.write(tmp_path / "masks", pictures, fps=8)
    shape = Shape(5, (40, 48), 8.0, 4)
    rows = {}
    for name, start in (("mask.mkv", 0.0), ("masks", 0.0), ("mask.mkv", 0.5)):
        request = GivenConfig(task="complete", video=clip_file, mask=tmp_path / name, start=start)
        rows[name, start] = prepare(request, shape, None).canvas.mask[0, 0, :, :, 0].sum(1).tolist()
    assert rows["mask.mkv", 0.0] == rows["masks", 0.0] == [4.0 * t + 4 for t in range(9)]
    assert rows["mask.mkv", 0.5] == [4.0 * t + 4 for t in range(4, 9)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "predict", "given": 5}, "1 to 4 given frames of 5"),
        ({"task": "complete", "boxes": [[0, 0, 40, 10]]}, "box 0,0,40,10"),
        ({"task": "complete", "boxes": [[0, 0, 32, 32]]}, "full"),
        ({"task": "interpolate", "keyframes": [40]}, "keyframe 40 is outside"),
        ({"task": "extend", "overlap": 5}, "overlap of 1 to 4"),
        ({"task": "interpolate", "every": 2, "start": 60.0}, "clip.mkv"),
    ],
)
def test_bad_requests_are_one_clear_error_and_write_nothing(
    given: dict[str, Any], message: str, vdt_folder: Path, clip_file: Path, tmp_path: Path
) -> None:
    given = {"video": clip_file, **given}
    config = GenerateConfig.model_validate({"model": str(vdt_folder), "precision": "float32", "given": given})
    with pytest.raises(InputError, match=message):
        generate(config, tmp_path / "made.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mkv"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "predict"}, "expected a clip"),
        ({"task": "animate"}, "one image or more"),
        ({"task": "animate", "images": ["x.png"], "start": 1.0}, "start: not for the task animate"),
        ({"task": "predict", "video": "x.mp4", "weight": 2.0}, "use method reconstruction"),
        ({"task": "predict", "video": "x.mp4", "every": 2}, "every: not for the task predict"),
        ({"task": "interpolate", "video": "x.mp4"}, "one of every, insert and keyframes"),
        ({"task": "complete", "video": "x.mp4"}, "a mask or boxes"),
        ({"task": "extend", "video": "x.mp4", "past": True, "loop": True}, "exclude each other"),
    ],
)
def test_contradicting_fields_are_refused(given: dict[str, Any], message: str) -> None:
    from kinolab.config import load_config

    with pytest.raises(InputError, match=message):
        load_config(GenerateConfig, {"model": "x", "given": given})


def test_a_file_that_is_read_is_not_written_over(vdt_folder: Path, clip_file: Path) -> None:
    before = clip_file.read_bytes()
    given = {"task": "predict", "video": clip_file, "given": 3}
    config = GenerateConfig.model_validate({"model": str(vdt_folder), "precision": "float32", "given": given})
    with pytest.raises(InputError, match="choose another --out"):
        generate(config, clip_file)
    numbered = clip_file.with_name("z-1.mkv")
    numbered.write_bytes(before)
    assert config.given is not None
    several = config.model_copy(update={"count": 2, "given": config.given.model_copy(update={"video": numbered})})
    with pytest.raises(InputError, match="choose another --out"):
        generate(several, clip_file.with_name("z.mkv"))
    [made] = generate(config, clip_file.with_name("made.mkv"))
    with pytest.raises(InputError, match="choose another --out"):
        rerun(made, clip_file)
    assert clip_file.read_bytes() == numbered.read_bytes() == before


def test_a_missing_clip_is_said_before_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VideoModel, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    given = GivenConfig.model_validate({"task": "predict", "video": tmp_path / "nowhere.mp4", "given": 3})
    with pytest.raises(InputError, match=r"nowhere\.mp4: no such file"):
        generate(GenerateConfig(model="world", given=given), tmp_path / "x.mp4")
