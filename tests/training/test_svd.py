"""Stable Video Diffusion's recipes, made small: its stages one after the other, and the decoder over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kinolab.autoencoders import TemporalDecoderAutoencoder
from kinolab.conditioning import Rates, Setting, drop, of_examples, request_draws
from kinolab.conditioning.motion_bucket import bucket_of
from kinolab.conditioning.vision import Thumbnail, ThumbnailConfig
from kinolab.contracts.conditions import Conditions, Value
from kinolab.contracts.examples import Example
from kinolab.denoisers import Svd, SvdConfig, build
from kinolab.denoisers.svd import IMAGE, IMAGE_TOKENS, init_svd
from kinolab.errors import InputError
from kinolab.models import Request, VideoModel, load_autoencoder
from kinolab.training.recipe import DenoiserRecipe, load_recipe
from kinolab.training.run import train
from tests.closeness import NETWORK, assert_close, assert_same
from tests.training.tiny import autoencoder_recipe

SMALL = [
    "data.world={size: 32, frames: 5}", "data.count=16", "data.heldout_count=4", "heldout_clips=2",
    "denoiser.block_out_channels=[8, 16]", "denoiser.norm_groups=4", "denoiser.head_size=4",
    "training.steps=2", "training.batch_size=4", "training.warmup=0", "training.device=cpu",
    "training.precision=float32", "training.log_every=1", "training.sample_every=2", "training.evaluate_every=2",
    "samples.sampler.steps=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image autoencoder."""
    folder = tmp_path_factory.mktemp("image")
    train_values(autoencoder_recipe(steps=2), folder)
    return folder


def train_values(values: dict[str, Any], folder: Path) -> None:
    import yaml

    (folder.parent / f"{folder.name}.yaml").write_text(yaml.safe_dump(values))
    train(folder.parent / f"{folder.name}.yaml", folder)


def stage(name: str, folder: Path, image: Path, more: Sequence[str] = ()) -> VideoModel:
    train(name, folder / name, [*SMALL, f"autoencoder={image}", *more])
    return VideoModel.load(folder / name, device="cpu", precision="float32")


@pytest.mark.wide
def test_images_then_text_to_video_then_image_to_video(image: Path, tmp_path: Path) -> None:
    small = ["samples.prompts=[a red ball]", "denoiser.number_features=4"]
    picture = stage("svd-image", tmp_path, image, small[:1])
    assert picture.config.frames == 1 and picture.config.diffusion.edm is not None
    assert picture.config.diffusion.edm.p_mean == -1.2
    first = stage("svd-video", tmp_path, image, [*small, f"initial.path={tmp_path / 'svd-image'}"])
    assert first.config.diffusion.schedule == "edm" and first.spec.text_dim == 384
    second = stage("svd-finetune", tmp_path, image, [*small, f"initial.path={tmp_path / 'svd-video'}"])
    start = [f"initial.path={tmp_path / 'svd-finetune'}", "image_encoder.side=2", "denoiser.text_dim=12"]
    last = stage("svd-image-to-video", tmp_path, image, [small[1], *start, "samples.count=1"])
    assert second.config.trained == "svd-finetune, 2 steps" and len(list((tmp_path / "svd-finetune").rglob("*.mp4")))
    assert len(list((tmp_path / "svd-image-to-video").rglob("*.mp4"))) == 1
    config = last.config
    assert set(last.spec.ports) == {"fps", "motion_bucket", "noise_augmentation", IMAGE, IMAGE_TOKENS}
    assert config.guidance.of == (IMAGE, IMAGE_TOKENS) and config.image_encoder is not None
    one, other = (torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(k)) * 2 - 1 for k in (0, 1))
    made = [last.sample_latents([Request(seed=1, conditions={IMAGE: picture})]) for picture in (one, other)]
    assert made[0].shape == (1, 4, 5, 16, 16) and float((made[0] - made[1]).abs().max()) > 1e-3


@pytest.mark.slow
def test_the_decoder_is_trained_against_a_critic_and_latents_stay(image: Path, tmp_path: Path) -> None:
    fields = {"use_quant_conv": "true", "use_post_quant_conv": "true", "block_out_channels": "[8, 8]"}
    more = [f"autoencoder.{name}={value}" for name, value in {**fields, "norm_num_groups": "4"}.items()]
    small = [entry for entry in SMALL if not entry.startswith(("denoiser", "samples"))]
    start = ["loss.adversarial.start_step=1", "loss.adversarial.discriminator.width=8", "window_frames=3"]
    train("svd-decoder", tmp_path / "run", [*small, *more, *start, f"initial.path={image}", "sample_clips=1"])
    ours, before = load_autoencoder(tmp_path / "run", device="cpu"), load_autoencoder(image, device="cpu")
    assert isinstance(ours, TemporalDecoderAutoencoder)
    clip = torch.rand(1, 3, 4, 32, 32) * 2 - 1
    assert_same(ours.encode(clip).mean, before.encode(clip).mean)
    moved = [
        n for n, v in ours.decoder.state_dict().items() if ".temporal_res_block.conv2." in n and float(v.abs().sum())
    ]
    assert moved  # the layers over time, which begin as nothing
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert "logits_fake" in log


def tiny(**fields: Any) -> Svd:
    base = {
        "block_out_channels": (8, 16), "layers_per_block": 1, "attention_levels": (0,), "head_size": 4,
        "norm_groups": 4, "input_size": 4, "text_dim": 8, "number_features": 6,
    }  # fmt: skip
    made = build(SvdConfig.model_validate({**base, **fields}))
    assert isinstance(made, Svd)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


@torch.no_grad()
def test_a_later_stage_begins_as_the_one_before() -> None:
    """New inputs begin at zero: with nothing told that the earlier stage doesn't know, both say the same."""
    earlier, later = tiny(concatenated={}, context="text"), tiny(concatenated={IMAGE: 4}, context="text")
    report = init_svd(later, earlier)
    assert not report.fresh and not report.dropped
    z, t = torch.randn(2, 4, 3, 4, 4), torch.tensor([0.5, -0.5])
    told = {"text": Value("tokens", torch.randn(2, 2, 8)), "fps": Value("vector", torch.tensor([7.0, 8.0]))}
    beside = {IMAGE: Value("field", torch.randn(2, 4, 3, 4, 4))}
    expected = earlier(z, t, Conditions.of(told))
    assert_close(later(z, t, Conditions.of({**told, **beside})), expected, within=NETWORK)
    other = tiny(concatenated={IMAGE: 4}, text_dim=6, context="text")
    report = init_svd(other, earlier)
    assert report.fresh and all(".attn2.to_" in name or "null_prompt" in name for name in report.fresh)
    with pytest.raises(InputError, match=r"concatenated: the earlier stage reads \{'image': 4\}"):
        init_svd(earlier, later)
    with pytest.raises(InputError, match=r"block_out_channels: expected \(8, 16\)"):
        init_svd(tiny(block_out_channels=(8, 8)), earlier)


def setting_of(image: Path, *overrides: str) -> Setting:
    """What conditions are made with: those of a tiny image-to-video job."""
    recipe = load_recipe("svd-image-to-video", overrides)
    assert isinstance(recipe, DenoiserRecipe)
    spec, look = tiny(text_dim=12).spec, Thumbnail(ThumbnailConfig(side=2)).encode
    autoencoder = load_autoencoder(image, device="cpu")
    return Setting(spec, autoencoder, torch.device("cpu"), look=look, settings=recipe.conditions)


def clips(count: int = 4) -> list[Example]:
    generator = torch.Generator().manual_seed(0)
    return [
        Example(torch.rand(3, 3, 8, 8, generator=generator) * 2 - 1, 8.0, None, None, "x", (0.0, 1.0))
        for _ in range(count)
    ]


@pytest.mark.slow
def test_what_is_told_of_training_clips(image: Path) -> None:
    """The first frame with noise of the told strength, as the encoder gives it or scaled; its tokens without noise."""
    examples, draws = clips(), request_draws([Request(seed=k) for k in range(4)])
    scaled, raw = setting_of(image), setting_of(image, "conditions.image.scaled=false")
    told = of_examples(examples, scaled, draws)
    strength = told["noise_augmentation"].value
    assert strength.std() > 0 and ((strength > 0.005) & (strength < 0.5)).all()  # log-normal around 0.05
    pixels = torch.stack([e.video[:, 0] for e in examples])
    noise = torch.stack([torch.randn(3, 8, 8, generator=g) for g in draws("image noise")])
    autoencoder = scaled.autoencoder
    latents = autoencoder.encode((pixels + strength.view(-1, 1, 1, 1) * noise)[:, :, None]).mean
    assert_close(told[IMAGE].value, latents.expand(-1, -1, 3, -1, -1).detach(), within=NETWORK)
    scale, shift = (v.view(-1, 1, 1, 1) for v in (autoencoder.latent_scale, autoencoder.latent_shift))
    plain = of_examples(examples, raw, draws)[IMAGE].value
    assert_close(plain, told[IMAGE].value / scale + shift, within=NETWORK)
    averages = pixels.unfold(2, 4, 4).unfold(3, 4, 4).mean((-1, -2)).flatten(1)
    assert_close(told[IMAGE_TOKENS].value[:, 0], averages)


@pytest.mark.slow
def test_image_and_tokens_fall_alone_and_together(image: Path) -> None:
    setting, count = setting_of(image), 400
    rows = torch.zeros(count, dtype=torch.bool)
    told = Conditions.of({
        IMAGE: Value("field", torch.zeros(count, 4, 1, 1, 1)), IMAGE_TOKENS: Value("tokens", torch.zeros(count, 1, 12)),
        "motion_bucket": Value("vector", torch.zeros(count)),
    })  # fmt: skip
    draws = request_draws([Request(seed=k) for k in range(count)])
    fallen = drop(told, setting, draws, Rates())
    one, other = (fallen.null_of(name) for name in (IMAGE, IMAGE_TOKENS))
    assert one is not None and other is not None and fallen.null_of("motion_bucket") is None
    shares = [float(r.float().mean()) for r in (one, other, one & other, rows | ~one & ~other)]
    assert shares == pytest.approx([0.2, 0.2, 0.1, 0.7], abs=0.06)


def test_motion_buckets() -> None:
    still = torch.zeros(3, 4, 8, 8)
    assert bucket_of(still, 0.1) == 0 and bucket_of(still[:, :1], 0.1) == 0
    moving = torch.stack([still[:, 0] + 0.04 * t for t in range(4)], 1)
    assert bucket_of(moving, 0.1) == round(255 * 0.4) and bucket_of(moving * 9, 0.1) == 255


@pytest.mark.slow
def test_what_needs_pixels_says_so(image: Path) -> None:
    setting = setting_of(image)
    latents = [Example(torch.zeros(4, 3, 4, 4), 8.0, None, None, "x", (0.0, 1.0), encoded=True)]
    with pytest.raises(InputError, match="a latent cache holds none: train on the clips"):
        of_examples(latents, setting, request_draws([Request()]))
