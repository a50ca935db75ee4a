"""`kinolab inflate`: each kind of video model from its image model, by the equation that holds before any training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from kinolab.autoencoders import DpVae, ImageAutoencoder, ImageConfig, OdVae, Taesd, TaesdConfig
from kinolab.checkpoints import load, save
from kinolab.cli import convert, inflate
from kinolab.denoisers import Conditions, DiT, DiTConfig, Mmdit, MmditConfig, Unet, UnetConfig
from kinolab.errors import InputError
from kinolab.models import VideoModel, load_autoencoder
from tests.closeness import assert_close
from tests.random_weights import redrawn

pytestmark = pytest.mark.slow  # many short ones, which take long together

MMDIT = MmditConfig(
    hidden_size=32, depth=2, num_heads=2, input_size=8, num_frames=1, attention="2d", temporal_position="none",
    pos_embed_max_size=6, text_dim=10, pooled_dim=7, qk_norm=True, null="prompt", pooled_norm=False,
)  # fmt: skip
DIT = DiTConfig(hidden_size=32, depth=2, num_heads=2, input_size=8, num_classes=3, learned_variance=True)
TIMES = torch.tensor([10.0, 700.0])
SMALL_UNET = ("--given", "num_heads=2", "--given", "norm_groups=4")
"""What a file of a tiny U-Net does not tell."""

app = typer.Typer()
inflate.register(app)
convert.register(app)


def run(*args: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in args])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    """A diffusers folder of a tiny image autoencoder of spatial ratio 4."""
    config = ImageConfig(block_out_channels=(8, 8, 16), layers_per_block=1, norm_num_groups=4, latent_scale=0.5)
    save(redrawn(ImageAutoencoder(config)), tmp_path / "vae", "autoencoder_kl")
    return tmp_path / "vae"


@pytest.fixture
def pixels(tmp_path: Path, vae: Path) -> Path:
    """A model folder of it."""
    run("convert", vae, "--out", tmp_path / "pixels")
    return tmp_path / "pixels"


@pytest.fixture
def sd3(tmp_path: Path) -> Path:
    """A whole checkpoint of SD3's layout, with other parts beside the transformer."""
    save(redrawn(Mmdit(MMDIT)), tmp_path / "bare.safetensors", "sd3")
    tensors = {f"model.diffusion_model.{k}": v for k, v in load_file(tmp_path / "bare.safetensors").items()}
    save_file(tensors | {"first_stage_model.x": torch.ones(1)}, tmp_path / "sd3.safetensors")
    return tmp_path / "sd3.safetensors"


@pytest.fixture
def dit(tmp_path: Path) -> Path:
    save(redrawn(DiT(DIT)), tmp_path / "dit.safetensors", "dit")
    return tmp_path / "dit.safetensors"


@pytest.mark.parametrize("attention", ["2d", "3d", "2d+3d"])
def test_an_sd3_checkpoint_becomes_a_video_model(tmp_path: Path, sd3: Path, pixels: Path, attention: str) -> None:
    prefix = "model.diffusion_model."
    fields = ("-s", f"attention={attention}", "-s", "num_frames=4", "-s", "input_size=8")
    text = run("inflate", sd3, "--to", "mmdit", "--prefix", prefix, "-a", pixels, "--out", tmp_path / "video", *fields)
    video, image = VideoModel.load(tmp_path / "video", precision="float32"), load(sd3, prefix=prefix)
    given = Conditions(text=torch.randn(2, 5, 10), pooled=torch.randn(2, 7))
    z = torch.randn(2, 4, 1, 8, 8)
    with torch.no_grad():
        assert_close(video.denoiser(z, TIMES, given), image(z, TIMES, given))
    before, after = (sum(p.numel() for p in m.parameters()) for m in (image, video.denoiser))
    added = 2 * (4 * 32 * 32 + 4 * 32 + 2 * 16) if attention == "2d+3d" else 0
    assert after - before == added
    assert f"copied  {before:,} parameters" in text and f"fresh   {added:,} parameters" in text
    assert f"added   {added:,} parameters to the image model's {before:,}" in text
    diffusion = video.config.diffusion
    assert (diffusion.schedule, diffusion.prediction, diffusion.time_sampling) == ("flow", "flow", "logit_normal")
    assert (video.config.frames, video.config.size) == (4, (32, 32))


@pytest.mark.parametrize(("to", "frames"), [("latte", 4), ("vdt", 1)])
def test_a_dit_becomes_a_video_model(tmp_path: Path, dit: Path, pixels: Path, to: str, frames: int) -> None:
    """VDT's fixed table of times tells later frames apart, so that its equation is about one frame."""
    out = tmp_path / "video"
    text = run(
        "inflate", dit, "--to", to, "--given", "num_heads=2", "-a", pixels, "-o", out, "-s", f"num_frames={frames}"
    )
    video, image = VideoModel.load(out, precision="float32"), load(dit, num_heads=2)
    z, label = torch.randn(2, 4, frames, 8, 8), Conditions(label=torch.tensor([0, 2]))
    with torch.no_grad():
        assert_close(video.denoiser(z, TIMES, label), image(z, TIMES, label))
    assert video.denoiser.config.kind == to and video.config.diffusion.loss == "mse_vb" and "fresh   " in text


def test_an_image_autoencoder_becomes_an_odvae(tmp_path: Path, vae: Path) -> None:
    text = run("inflate", vae, "--to", "odvae", "--out", tmp_path / "video", "-s", "temporal_ratio=2")
    video, image = load_autoencoder(tmp_path / "video"), load(vae)
    assert isinstance(video, OdVae) and video.spec.temporal_ratio == 2 and video.config.widths == (8, 8, 16)
    picture = torch.rand(1, 3, 1, 16, 16) * 2 - 1
    with torch.no_grad():
        latents = image.encode(picture).mean
        assert_close(video.encode(picture).mean, latents)
        assert_close(video.decode(latents), image.decode(latents))
    before, after = (sum(p.numel() for p in m.parameters()) for m in (image, video))
    assert f"copied  {before:,} parameters" in text and f"added   {after - before:,} parameters" in text


def test_an_image_autoencoder_becomes_a_dp_vae(tmp_path: Path, vae: Path) -> None:
    text = run("inflate", vae, "--to", "dpvae", "--out", tmp_path / "video", "-s", "temporal_ratio=2")
    video, image = load_autoencoder(tmp_path / "video"), load(vae)
    assert isinstance(video, DpVae) and video.spec.temporal_ratio == 2
    picture = torch.rand(1, 3, 1, 16, 16) * 2 - 1
    with torch.no_grad():
        latents = image.encode(picture).mean
        assert_close(video.encode(picture).mean, latents)
        assert_close(video.decode(latents), image.decode(latents))
    assert text.splitlines()[0].endswith("DpVae, " + f"{sum(p.numel() for p in video.parameters()):,} parameters")


def test_a_model_folder_brings_its_autoencoder_and_diffusion(tmp_path: Path, sd3: Path, pixels: Path) -> None:
    bare = tmp_path / "bare.safetensors"
    run("convert", bare, "--out", tmp_path / "image", "-a", pixels)
    whole = VideoModel.load(tmp_path / "image")
    shifted = whole.config.diffusion.model_copy(update={"time_shift": 1.5})
    whole.config = whole.config.model_copy(update={"diffusion": shifted, "fps": 12.0, "null_prompt": "empty"})
    whole.save(tmp_path / "image")
    run("inflate", tmp_path / "image", "--to", "mmdit", "--out", tmp_path / "video", "-s", "temporal_patch=2")
    video = VideoModel.load(tmp_path / "video")
    assert (video.config.diffusion, video.config.fps, video.config.frames) == (shifted, 12.0, 16)
    assert video.config.null_prompt == "empty"
    assert video.config.trained == "inflated from image" and video.denoiser.config.attention == "2d+3d"
    clip = video.generate(frames=3, size=(32, 32), sampler=video.config.sampler.model_copy(update={"steps": 2}))
    assert clip.shape == (1, 3, 3, 32, 32)


def test_what_inflate_cannot_do_it_says(tmp_path: Path, vae: Path, sd3: Path, dit: Path, pixels: Path) -> None:
    out, bare = ("--out", tmp_path / "out"), tmp_path / "bare.safetensors"
    cases: list[tuple[tuple[object, ...], str]] = [
        ((bare, "--to", "mmdit", *out), "--autoencoder FOLDER"),
        ((bare, "--to", "latte", "-a", pixels, *out), "a Mmdit does not become latte"),
        ((bare, "--to", "odvae", *out), "a Mmdit; odvae is made from an image autoencoder"),
        ((vae, "--to", "vdt", "-a", pixels, *out), "an autoencoder; use --to odvae"),
        ((vae, "--to", "odvae", "-a", pixels, *out), "odvae is an autoencoder itself"),
        ((bare, "--to", "mmdit", "-a", pixels, "--init", "tail", *out), "--init is for odvae, dpvae"),
        ((bare, "--to", "mmdit", "-a", pixels, "-s", "attention=4d", *out), "attention"),
        ((bare, "--to", "mmdit", "-a", pixels, "-s", "kind=vdt", *out), "is --to"),
        ((dit, "--to", "mmdit", "-a", pixels, *out), "a DiT does not become mmdit"),
        ((sd3, "--to", "mmdit", "-a", pixels, *out), "prefix='model.diffusion_model.'"),
        ((vae, "--to", "mmdit", "-a", pixels, *out), "ImageAutoencoder is an autoencoder; use --to odvae or dpvae"),
        ((vae, "--to", "dpvae", "-s", "image.latent_channels=8", *out), "the image autoencoder is SOURCE's own"),
        ((vae, "--to", "odvae", "--out", vae), "exists; choose another name"),
        ((vae, "--to", "odvae", "-s", "temporal_ratio=8", *out), "spatial ratio 4"),
    ]
    for arguments, said in cases:
        with pytest.raises(InputError, match=said):
            run("inflate", *arguments)
    assert not (tmp_path / "out").exists()


def test_taesd_becomes_a_video_autoencoder(tmp_path: Path, vae: Path) -> None:
    """From its two files: a causal TAESD, and a DP-VAE around it."""
    config = TaesdConfig(width=8, encoder_blocks=(1, 1, 1), decoder_widths=(8, 8, 8), decoder_blocks=(1, 1, 1))
    image = redrawn(Taesd(config))
    save(image, tmp_path / "two", "taesd")
    files = [tmp_path / "two" / f"taesd_{part}.safetensors" for part in ("encoder", "decoder")]
    said = run("inflate", *files, "--to", "taesd", "--out", tmp_path / "video", "-s", "variant=all3d")
    assert "kernels over time filled: tail" in said
    run("inflate", *files, "--to", "dpvae", "--out", tmp_path / "dpvae", "-s", "group_frames=5")
    picture = torch.rand(1, 3, 1, 8, 8) * 2 - 1
    for name, cls in (("video", Taesd), ("dpvae", DpVae)):
        model = load_autoencoder(tmp_path / name)
        assert type(model) is cls and model.spec.temporal_ratio == 4
        with torch.no_grad():
            assert_close(model.encode(picture).mean, image.encode(picture).mean)
            assert_close(model.decode(model.encode(picture).mean), image.decode(image.encode(picture).mean))
    other = tmp_path / "other"
    with pytest.raises(InputError, match=r"taesd_encoder.* and .*a Taesd; odvae is made from .*AutoencoderKL"):
        run("inflate", *files, "--to", "odvae", "--out", other)
    with pytest.raises(InputError, match=r"a ImageAutoencoder; taesd is made from an image autoencoder \(TAESD\)"):
        run("inflate", vae, "--to", "taesd", "--out", other)
    with pytest.raises(InputError, match="name one model folder; two files are for public weights"):
        run("convert", tmp_path / "video", tmp_path / "dpvae", "--out", other)
    assert not other.exists()


def save_unet(path: Path, seed: int) -> Path:
    """A tiny Stable Diffusion U-Net in diffusers' layout."""
    torch.manual_seed(seed)
    fields = {"block_out_channels": (8, 16), "layers_per_block": 1, "attention_levels": (0,), "norm_groups": 4}
    save(redrawn(Unet(UnetConfig(**fields, num_heads=2, text_dim=10, null="prompt"))), path, "unet_diffusers")
    return path


@pytest.mark.parametrize("to", ["video_ldm", "svd", "modelscope", "animatediff", "makeavideo", "imagen_video"])
def test_a_unet_becomes_a_video_model(tmp_path: Path, pixels: Path, to: str) -> None:
    source, out = save_unet(tmp_path / "unet", 0), tmp_path / "video"
    fields = ["-s", "num_frames=4", "-s", "input_size=8", *(["-s", "motion_heads=2"] if to == "animatediff" else [])]
    text = run("inflate", source, "--to", to, *SMALL_UNET, "-a", pixels, "-o", out, *fields)
    video, image = VideoModel.load(out, precision="float32"), load(source, num_heads=2, norm_groups=4)
    z, told = torch.randn(2, 4, 3, 8, 8), Conditions(text=torch.randn(2, 5, 10))
    with torch.no_grad():
        assert_close(video.denoiser(z, TIMES, told), image(z, TIMES, told), 1e-5)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (image, video.denoiser))
    assert f"added   {after - before:,} parameters to the image model's {before:,}" in text
    assert (video.config.frames, video.config.size) == (4, (32, 32))


def test_other_image_weights_are_put_under_what_a_unet_has_learned_of_time(tmp_path: Path, pixels: Path) -> None:
    first, personal = save_unet(tmp_path / "first", 0), save_unet(tmp_path / "personal", 1)
    fields = ("-s", "num_frames=4", "-s", "input_size=8")
    run("inflate", first, "--to", "video_ldm", *SMALL_UNET, "-a", pixels, "-o", tmp_path / "video", *fields)
    trained = VideoModel.load(tmp_path / "video", precision="float32")
    redrawn(trained.denoiser)
    trained.config = trained.config.model_copy(update={"trained": "100 steps", "fps": 12.0})
    trained.save(tmp_path / "trained")
    text = run("inflate", personal, "--onto", tmp_path / "trained", *SMALL_UNET, "-o", tmp_path / "swapped")
    swapped = VideoModel.load(tmp_path / "swapped", precision="float32")
    image = load(personal, num_heads=2, norm_groups=4)
    state, learned, source = (m.state_dict() for m in (swapped.denoiser, trained.denoiser, image))
    assert all(torch.equal(state[name], source.get(name, value)) for name, value in learned.items())
    assert not any(torch.equal(source[name], learned[name]) for name, _ in image.named_parameters())
    assert swapped.config.trained == "100 steps; image layers from personal" and swapped.config.fps == 12.0
    assert f"copied  {sum(p.numel() for p in image.parameters()):,} parameters" in text


def test_what_onto_cannot_do_it_says(tmp_path: Path, dit: Path, pixels: Path, sd3: Path) -> None:
    unet, out = save_unet(tmp_path / "unet", 0), ("--out", tmp_path / "out")
    run("convert", tmp_path / "bare.safetensors", "--out", tmp_path / "mmdit", "-a", pixels)
    cases: list[tuple[tuple[object, ...], str]] = [
        ((unet, *SMALL_UNET, *out), "expected one of --to KIND"),
        ((unet, *SMALL_UNET, "--to", "svd", "--onto", tmp_path / "mmdit", *out), "expected one of --to KIND"),
        ((unet, *SMALL_UNET, "--onto", tmp_path / "mmdit", *out), "a Mmdit; --onto puts a U-Net's weights"),
        ((dit, "--onto", tmp_path / "mmdit", "--given", "num_heads=2", *out), "a DiT; --onto puts"),
        ((unet, *SMALL_UNET, "--onto", tmp_path / "mmdit", "-s", "alpha=0.3", *out), "are for --to"),
    ]
    for arguments, said in cases:
        with pytest.raises(InputError, match=said):
            run("inflate", *arguments)
    assert not (tmp_path / "out").exists()
