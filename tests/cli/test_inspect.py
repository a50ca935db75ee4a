"""`kinolab inspect` and `kinolab convert`: what a person reads, and that weights survive the way there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from kinolab.autoencoders import ImageAutoencoder, ImageConfig
from kinolab.checkpoints import load, save
from kinolab.checkpoints.adapters import LowRank, write_adapter
from kinolab.cli import convert, inspect
from kinolab.denoisers import Latte, LatteConfig
from kinolab.errors import InputError
from kinolab.models import Request, VideoModel, load_autoencoder
from tests.closeness import STORED, assert_close

GOLDEN = Path(__file__).parents[1] / "golden"
LATTE = LatteConfig(
    hidden_size=24, depth=2, num_heads=3, input_size=8, num_frames=4, num_classes=3, learned_variance=True
)

app = typer.Typer()
inspect.register(app)
convert.register(app)


def run(*args: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in args])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    """A diffusers folder of a tiny image autoencoder of spatial ratio 2."""
    config = ImageConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_scale=0.5)
    save(ImageAutoencoder(config), tmp_path / "vae", "autoencoder_kl")
    return tmp_path / "vae"


@pytest.fixture
def latte(tmp_path: Path) -> Path:
    """Public weights of a tiny Latte, as its training code saves them."""
    model = Latte(LATTE)
    torch.nn.init.normal_(model.final_layer.linear.weight)
    torch.save({"ema": model.state_dict(), "opt": {}}, tmp_path / "latte.pt")
    return tmp_path / "latte.pt"


@pytest.mark.wide
def test_an_adapter_says_its_form_its_ranks_and_whether_it_fits(tmp_path: Path, latte: Path) -> None:
    path = tmp_path / "style.safetensors"
    layers = {f"blocks.{k}.attn.qkv": LowRank(torch.ones(2, 24), torch.ones(72, 2), 1.0) for k in range(3)}
    write_adapter(path, layers, "kohya", "transformer")
    save_model(tmp_path / "model", latte)
    said = run("inspect", path)
    for line in (
        "a LoRA adapter in the form of kohya", "changes     3 layers of a denoiser", "rank        2", "alpha       1",
        "inputs      24", "layers      blocks_0_attn_qkv, blocks_1_attn_qkv", "Latte, official layout",
        f"kinolab generate --lora {path}:1",
    ):  # fmt: skip
        assert line in said
    said = run("inspect", path, "--model", tmp_path / "model")
    assert "does not fit: 1 of its 3 layers are not in this model: blocks_2_attn_qkv" in said
    found = json.loads(run("inspect", path, "--model", tmp_path / "model", "--json"))[0]
    assert found["adapter"]["fits"] is False and found["adapter"]["ranks"] == {"2": 3}
    write_adapter(path, {name: layers[name] for name in list(layers)[:2]}, "kohya", "transformer")
    assert "fits        the model of --model" in run("inspect", path, "--model", tmp_path / "model")
    save_file({"lora_unet_a.hada_w1_a": torch.ones(2, 2)}, path)
    assert "does not load: an adapter of another kind, LoHa" in run("inspect", path)


def save_model(folder: Path, weights: Path) -> None:
    """A model folder of public weights and a tiny autoencoder."""
    pixels = ImageAutoencoder(ImageConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4))
    denoiser = load(weights, num_heads=3)
    VideoModel(convert.model_config(denoiser.config, pixels, ""), pixels, denoiser).save(folder)


def same(a: Any, b: Any) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return a.config == b.config and x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def test_inspect_says_what_is_known_assumed_and_missing(latte: Path) -> None:
    text = run("inspect", latte)
    assert "Latte, official layout; torch.save" in text and "wrapped in  ema." in text
    assert "depth=2" in text and "to be given num_heads" in text and "num_heads=...)" in text
    assert f"{sum(v.numel() for v in Latte(LATTE).state_dict().values()):,} parameters" in text


def test_inspect_finds_the_prefix() -> None:
    text = run("inspect", GOLDEN / "odvae_v12.safetensors")
    assert "causal_vae under 'weights.'" in text and "--prefix weights." in text
    text = run("inspect", GOLDEN / "odvae_v12.safetensors", "--prefix", "weights.")
    assert "variant=encoder_outer2d" in text and "assumed     mid_attention" in text and 'prefix="weights."' in text


def test_inspect_names_the_groups_of_an_unknown_file_and_what_does_not_fit(tmp_path: Path) -> None:
    save_file({"a.b": torch.ones(2), "a.c": torch.ones(1)}, tmp_path / "x.safetensors")
    assert "names       a (2)" in run("inspect", tmp_path / "x.safetensors")
    found = json.loads(run("inspect", tmp_path / "x.safetensors", "--json"))
    assert found[0]["groups"] == {"a": 2} and found[0]["format"] is None and found[0]["dtypes"] == {"float32": 2}


@pytest.mark.slow
def test_a_denoiser_becomes_a_whole_model_and_comes_back(tmp_path: Path, vae: Path, latte: Path) -> None:
    run("convert", vae, "--out", tmp_path / "pixels")
    run("convert", latte, "--out", tmp_path / "model", "-a", tmp_path / "pixels", "-s", "num_heads=3")
    model = VideoModel.load(tmp_path / "model")
    assert model.config.trained == "converted from latte.pt" and (model.config.frames, model.config.size) == (
        4,
        (16, 16),
    )
    diffusion = model.config.diffusion
    assert (diffusion.schedule, diffusion.prediction, diffusion.loss) == ("linear", "noise", "mse_vb")
    assert torch.equal(model.autoencoder.state_dict()["latent_scale"], torch.full((4,), 0.5))
    text = run("inspect", tmp_path / "model")
    assert "model folder of Kinolab" in text and "denoiser    latte" in text and "size=[16, 16]" in text
    back = tmp_path / "back.safetensors"
    run("convert", tmp_path / "model", "--part", "denoiser", "--to", "public", "--out", back)
    assert same(load(back), load(latte, num_heads=3))
    run("convert", tmp_path / "model", "--part", "autoencoder", "--to", "diffusers", "--out", tmp_path / "vae2")
    assert same(load(tmp_path / "vae2"), load(vae))


@pytest.mark.slow
def test_a_latte_with_text_is_written_as_the_class_of_diffusers(tmp_path: Path, vae: Path) -> None:
    config = LatteConfig(hidden_size=24, depth=2, num_heads=3, input_size=8, num_frames=4, adaln="single", text_dim=12)
    torch.manual_seed(0)
    save(Latte(config), tmp_path / "public", "latte_diffusers")
    run("convert", vae, "--out", tmp_path / "pixels")
    run("convert", tmp_path / "public", "--out", tmp_path / "model", "-a", tmp_path / "pixels")
    run("convert", tmp_path / "model", "--part", "denoiser", "--to", "diffusers", "--out", tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["_class_name"] == "LatteTransformer3DModel"
    assert same(load(tmp_path / "back"), load(tmp_path / "public"))


@pytest.mark.slow
def test_a_converted_vdt_is_told_of_its_only_class(tmp_path: Path, vae: Path) -> None:
    run("convert", vae, "--out", tmp_path / "pixels")
    file, out = GOLDEN / "vdt.safetensors", tmp_path / "model"
    run("convert", file, "--prefix", "weights.", "-s", "num_heads=3", "-a", tmp_path / "pixels", "--out", out)
    told = VideoModel.load(out).conditions([Request(seed=0), Request(seed=1)])
    assert told.label is not None and told.label.tolist() == [0, 0] and told.null is None


@pytest.mark.slow
def test_overwriting_with_what_cannot_be_written_keeps_what_is_there(tmp_path: Path, vae: Path, latte: Path) -> None:
    run("convert", vae, "--out", tmp_path / "pixels")
    run("convert", latte, "--out", tmp_path / "model", "-a", tmp_path / "pixels", "-s", "num_heads=3")
    before = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}
    to = ("--part", "denoiser", "--to", "diffusers", "--overwrite", "--out", tmp_path / "model")
    with pytest.raises(InputError, match="diffusers' class of Latte has no"):
        run("convert", tmp_path / "model", *to)
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == before


@pytest.mark.slow
def test_golden_weights_become_a_model_folder(tmp_path: Path) -> None:
    """The converted autoencoder still gives the reference's latents."""
    file = GOLDEN / "odvae_v12.safetensors"
    run("convert", file, "--prefix", "weights.", "--out", tmp_path / "odvae")
    stored = load_file(file)
    with torch.no_grad():
        image = load_autoencoder(tmp_path / "odvae").encode(stored["video"][:, :, :1]).mean
    assert_close(image, stored["image_latent_mean"], within=STORED)


@pytest.mark.slow
def test_what_convert_cannot_do_it_says(tmp_path: Path, vae: Path, latte: Path) -> None:
    heads, out = ("-s", "num_heads=3"), ("--out", tmp_path / "out")
    cases: list[tuple[tuple[object, ...], str]] = [
        ((latte, *out, *heads), "--autoencoder FOLDER"),
        ((latte, *out, *heads, "--to", "diffusers"), "diffusers' class of Latte has no adaln=block, num_classes=3"),
        (
            (GOLDEN / "odvae_v12.safetensors", *out, "--prefix", "weights.", "--to", "diffusers"),
            "no class for kind odvae",
        ),
        ((latte, "--out", latte, *heads), "exists; choose another name, or --overwrite"),
        ((vae, *out, "-a", "x"), "this is an autoencoder itself"),
        ((vae, *out, "--part", "denoiser"), "--part is for model folders"),
        ((vae, *out, "-s", "format=latte"), "use the option --format"),
        ((vae, *out, "-s", "latentscale=1"), "did you mean 'latent_scale'"),
    ]
    for arguments, said in cases:
        with pytest.raises(InputError, match=said):
            run("convert", *arguments)
    assert not (tmp_path / "out").exists()
    wide = ImageConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=6)
    save(ImageAutoencoder(wide), tmp_path / "wide", "autoencoder_kl")
    run("convert", tmp_path / "wide", *out)
    with pytest.raises(InputError, match="takes 4 latent channels and the autoencoder makes 6"):
        run("convert", latte, "--out", tmp_path / "model", "-a", tmp_path / "out", *heads)
    with pytest.raises(InputError, match="are for public weights"):
        run("convert", tmp_path / "out", "--to", "diffusers", "--out", tmp_path / "x", "--prefix", "a.")
