"""The image encoder inside Stable Video Diffusion's single file: its own code's answer, and one file that is enough."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kinolab import video
from kinolab.autoencoders import TemporalDecoderAutoencoder, TemporalDecoderConfig
from kinolab.checkpoints import load, save
from kinolab.checkpoints.checkpoint_image import OPEN_CLIP, held_image, write_image_encoder
from kinolab.cli import main
from kinolab.conditioning.vision import ClipImage, ClipImageConfig
from kinolab.conditioning.vision.clip import DEVIATION, MEAN, shrunk_smoothly
from kinolab.denoisers import Svd, SvdConfig
from kinolab.errors import InputError
from kinolab.models import VideoModel
from tests.closeness import NETWORK, assert_close, assert_same
from tests.random_weights import randomized

pytestmark = pytest.mark.slow  # transformers takes seconds to import

WIDTH, HEADS, SIDE, PATCH, TOKEN, FRAMES = 128, 2, 32, 8, 16, 3
"""Of the tower, whose heads are 64 wide; width of its answer; frames of a clip."""
FIELDS = ("-s", f"num_frames={FRAMES}", "-s", "input_size=[12, 16]", "-s", "head_size=8")
"""What no tensor of the small file tells."""


class Tower(nn.Module):
    """OpenCLIP's picture tower: patches and a class token, pre-norm layers, the class token normed and projected."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(WIDTH))
        self.positional_embedding = nn.Parameter(torch.zeros((SIDE // PATCH) ** 2 + 1, WIDTH))
        self.proj = nn.Parameter(torch.zeros(WIDTH, TOKEN))
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(self._block() for _ in range(layers))

    def _block(self) -> nn.Module:
        made = nn.Module()
        made.ln_1, made.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        made.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        made.mlp = nn.Sequential()
        made.mlp.add_module("c_fc", nn.Linear(WIDTH, 96))
        made.mlp.add_module("gelu", nn.GELU())
        made.mlp.add_module("c_proj", nn.Linear(96, WIDTH))
        return made

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, side, side) -> (B, P)."""
        x = self.conv1(pictures).flatten(2).transpose(1, 2)  # (B, patches, D)
        x = torch.cat((self.class_embedding.expand(len(x), 1, -1), x), 1) + self.positional_embedding
        x = self.ln_pre(x)
        blocks: Any = self.transformer.resblocks
        for block in blocks:
            h = block.ln_1(x)
            x = x + block.attn(h, h, h, need_weights=False)[0]
            x = x + block.mlp(block.ln_2(x))
        found: Tensor = self.ln_post(x[:, 0]) @ self.proj
        return found


@pytest.fixture(scope="module")
def tower() -> Tower:
    torch.manual_seed(0)
    return randomized(Tower())


def named(tower: Tower) -> dict[str, Tensor]:
    return {f"{OPEN_CLIP}{name}": value.contiguous() for name, value in tower.state_dict().items()}


@pytest.fixture(scope="module")
def single(tower: Tower, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All parts of a Stable Video Diffusion in one file, as its first code saves it."""
    folder = tmp_path_factory.mktemp("single")
    unet = Svd(SvdConfig(block_out_channels=(32, 64), layers_per_block=1, attention_levels=(0,), head_size=8,
                         text_dim=TOKEN, number_features=6))  # fmt: skip
    vae = TemporalDecoderAutoencoder(TemporalDecoderConfig(block_out_channels=(32, 32), layers_per_block=1))
    whole = named(tower)
    parts = (("model.diffusion_model", unet, "svd_sgm"), ("first_stage_model", vae, "svd_autoencoder_sgm"))
    for prefix, module, layout in parts:
        save(randomized(module, 0.05), folder / "part.safetensors", layout)
        whole |= {f"{prefix}.{name}": value for name, value in load_file(folder / "part.safetensors").items()}
    # the copy of the autoencoder's encoder that encodes the given picture
    whole |= {
        name.replace("first_stage_model.", "conditioner.embedders.3.encoder."): value.clone()
        for name, value in whole.items()
        if name.startswith("first_stage_model.encoder.")
    }
    save_file({name: value.contiguous() for name, value in whole.items()}, folder / "svd.safetensors")
    return folder / "svd.safetensors"


def run(*words: object) -> None:
    said = io.StringIO()
    with pytest.raises(SystemExit) as stop, redirect_stdout(said), redirect_stderr(said):
        main([str(word) for word in words])
    assert not stop.value.code, said.getvalue()


@torch.no_grad()
def test_it_gives_what_openclip_gives(tower: Tower, tmp_path: Path) -> None:
    held = held_image({f"module.{name}": value for name, value in named(tower).items()})
    assert held is not None
    encoder = ClipImage(ClipImageConfig(folder=write_image_encoder(held, tmp_path)))
    assert (encoder.dim, encoder.side) == (TOKEN, SIDE)
    pictures = torch.rand(2, 3, 48, 40) * 2 - 1
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    expected = tower(((shrunk_smoothly(pictures, SIDE) + 1) / 2 - mean) / deviation)
    assert_close(encoder.encode(pictures)[:, 0], expected, NETWORK)


@pytest.mark.parametrize(("width", "heads"), [(1280, 16), (1664, 16), (1024, 16), (768, 12)])
def test_heads_are_those_of_the_published_towers(width: int, heads: int, tower: Tower, tmp_path: Path) -> None:
    """ViT-H, bigG, L and B; only shapes count."""
    from kinolab.checkpoints.checkpoint_image import _settings

    held = {name.removeprefix(OPEN_CLIP): value for name, value in named(tower).items()}
    held["conv1.weight"] = torch.empty(width, 3, 14, 14, device="meta")
    assert _settings(held)["num_attention_heads"] == heads


def test_one_file_is_enough(single: Path, tmp_path: Path) -> None:
    run("convert", single, "--out", tmp_path / "m", *FIELDS)
    model = VideoModel.load(tmp_path / "m", device="cpu", precision="float32")
    assert model.config.image_encoder == ClipImageConfig(folder=(tmp_path / "m" / "image_encoder").absolute())
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(tmp_path / "p.png")
    run(
        "animate",
        tmp_path / "p.png",
        "--model",
        tmp_path / "m",
        "--steps",
        1,
        "--size",
        "24x32",
        "-o",
        tmp_path / "v.mkv",
    )
    assert video.read(tmp_path / "v.mkv").frames.shape == (FRAMES, 24, 32, 3)


def test_a_folder_that_is_given_is_taken_instead(single: Path, tower: Tower, tmp_path: Path) -> None:
    held = held_image(named(tower))
    assert held is not None
    own = write_image_encoder(held, tmp_path / "own")
    run("convert", single, "--out", tmp_path / "m", "--image-encoder", own, *FIELDS)
    assert not (tmp_path / "m" / "image_encoder").exists()
    assert VideoModel.load(tmp_path / "m").config.image_encoder == ClipImageConfig(folder=own.absolute())


def test_what_is_missing_is_named(single: Path, tower: Tower) -> None:
    whole = named(tower)
    whole.pop(f"{OPEN_CLIP}proj")
    with pytest.raises(InputError, match=r"lacks proj"):
        held_image(whole)
    assert held_image({"conditioner.embedders.0.x": torch.zeros(2)}) is None
    with pytest.raises(InputError, match=r"takes that of a whole svd\.safetensors from the file itself"):
        load(single, head_size=8)  # without a folder to write there is no place for an encoder


def test_tensors_are_the_files_own(tower: Tower, tmp_path: Path) -> None:
    held = held_image(named(tower))
    assert held is not None
    written = load_file(write_image_encoder(held, tmp_path) / "model.safetensors")
    rows = torch.cat([written[f"vision_model.encoder.layers.1.self_attn.{k}_proj.weight"] for k in "qkv"])
    assert_same(rows, tower.state_dict()["transformer.resblocks.1.attn.in_proj_weight"])
    assert_same(written["visual_projection.weight"], tower.proj.detach().T.contiguous())
