"""The text encoder inside a whole checkpoint: the states that its own code would read, and a tokenizer beside it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from kinolab.autoencoders import ImageAutoencoder, ImageConfig
from kinolab.checkpoints import save
from kinolab.checkpoints.checkpoint_text import held_text, write_text_encoder
from kinolab.cli import convert
from kinolab.conditioning.text import ClipText, ClipTextConfig
from kinolab.denoisers import Unet, UnetConfig
from kinolab.errors import InputError
from kinolab.models import VideoModel
from tests.closeness import NETWORK, assert_close, assert_same
from tests.conditioning.text.tiny_text import END, TOKENS, clip_ids, write_clip_tokenizer
from tests.random_weights import randomized

WIDTH, HEADS, WORDS = 128, 2, 55
app = typer.Typer()
convert.register(app)


def run(*args: object) -> None:
    result = CliRunner().invoke(app, [str(a) for a in args])
    if result.exception is not None:
        raise result.exception


@pytest.fixture(scope="module")
def clip() -> Any:
    """CLIP's text encoder as Stable Diffusion 1.x has it, small, by transformers."""
    transformers = pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = transformers.CLIPTextConfig(
            vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=HEADS,
            max_position_embeddings=TOKENS, bos_token_id=WORDS - 2, eos_token_id=WORDS - 1,
        )  # fmt: skip
    torch.manual_seed(0)
    return randomized(transformers.CLIPTextModel(config))


def of_1x(clip: Any) -> dict[str, Tensor]:
    """Its tensors as a checkpoint of 1.x names them."""
    named = {f"cond_stage_model.transformer.text_model.{k}": v for k, v in clip.state_dict().items()}
    return named | {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(TOKENS)[None]}


class OpenClip(nn.Module):
    """OpenCLIP's text transformer: x + attention(norm(x)), x + mlp(norm(x)), the last norm behind the last but one."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(WORDS, WIDTH)
        self.positional_embedding = nn.Parameter(torch.zeros(TOKENS, WIDTH))
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(self._block() for _ in range(layers))
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.zeros(WIDTH, 16))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def _block(self) -> nn.Module:
        made = nn.Module()
        made.ln_1, made.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        made.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        made.mlp = nn.Sequential()
        made.mlp.add_module("c_fc", nn.Linear(WIDTH, 32))
        made.mlp.add_module("gelu", nn.GELU())
        made.mlp.add_module("c_proj", nn.Linear(32, WIDTH))
        return made

    def forward(self, ids: Tensor) -> Tensor:
        """(1, L) -> (1, L, D), as Stable Diffusion 2.x reads them."""
        x = self.token_embedding(ids) + self.positional_embedding
        later = torch.full((TOKENS, TOKENS), float("-inf")).triu(1)
        blocks: Any = self.transformer.resblocks
        for block in blocks[:-1]:
            h = block.ln_1(x)
            x = x + block.attn(h, h, h, attn_mask=later, need_weights=False)[0]
            x = x + block.mlp(block.ln_2(x))
        found: Tensor = self.ln_final(x)
        return found


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that fills up with the end mark, as CLIP's does."""
    folder = tmp_path_factory.mktemp("tokenizer")
    assert write_clip_tokenizer(folder, END) == WORDS
    return folder


def states(folder: Path, prompt: str) -> Tensor:
    """What a denoiser of Stable Diffusion is told of a prompt by the encoder in a folder."""
    encoder = ClipText(ClipTextConfig(folder=folder, padded=True, max_tokens=TOKENS))
    return encoder.encode([prompt]).states


@torch.no_grad()
def test_clip_of_1x_gives_what_it_gave(clip: Any, tokenizer: Path, tmp_path: Path) -> None:
    held = held_text({f"state_dict.{k}": v for k, v in of_1x(clip).items()})
    assert held is not None
    folder = write_text_encoder(held, tokenizer, tmp_path)
    ids = clip_ids("a cat")
    padded = torch.tensor([ids + [WORDS - 1] * (TOKENS - len(ids))])
    assert_close(states(folder, "a cat"), clip(padded).last_hidden_state, NETWORK)


@torch.no_grad()
def test_openclip_of_2x_gives_its_last_layer_but_one_and_fills_up_with_zeros(tokenizer: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    reference = randomized(OpenClip())
    held = held_text({f"cond_stage_model.model.{k}": v for k, v in reference.state_dict().items()})
    assert held is not None and held.settings["num_hidden_layers"] == 2
    folder = write_text_encoder(held, tokenizer, tmp_path)
    ids = clip_ids("a cat")
    zeros = torch.tensor([ids + [0] * (TOKENS - len(ids))])
    assert_close(states(folder, "a cat"), reference(zeros), NETWORK)


@pytest.fixture(scope="module")
def checkpoint(clip: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All parts of a Stable Diffusion 1.x in one file."""
    folder = tmp_path_factory.mktemp("whole")
    unet = Unet(UnetConfig(
        block_out_channels=(32, 64), layers_per_block=1, attention_levels=(0,), num_heads=2, text_dim=WIDTH,
        null="prompt", input_size=8,
    ))  # fmt: skip
    vae = ImageAutoencoder(ImageConfig(block_out_channels=(32, 32), layers_per_block=1, latent_scale=0.18215))
    whole = of_1x(clip)
    parts = (("model.diffusion_model", unet, "unet_ldm"), ("first_stage_model", vae, "ldm_autoencoder"))
    for prefix, module, layout in parts:
        save(randomized(module), folder / "part.safetensors", layout)
        whole |= {f"{prefix}.{name}": value for name, value in load_file(folder / "part.safetensors").items()}
    (folder / "part.safetensors").unlink()
    save_file({name: value.contiguous() for name, value in whole.items()}, folder / "v1-5.safetensors")
    return folder / "v1-5.safetensors"


def test_a_checkpoint_becomes_a_model_that_reads_prompts(
    checkpoint: Path, clip: Any, tokenizer: Path, tmp_path: Path
) -> None:
    asked = ("convert", checkpoint, "-s", "num_heads=2")
    with pytest.raises(InputError, match="holds a text encoder, and no tokenizer"):
        run(*asked, "-o", tmp_path / "none")
    run(*asked, "-o", tmp_path / "m", "--tokenizer", tokenizer)
    model = VideoModel.load(tmp_path / "m", device="cpu", precision="float32")
    assert model.config.text_encoder == ClipTextConfig(
        folder=(tmp_path / "m" / "text_encoder").absolute(), padded=True, max_tokens=TOKENS
    )
    assert (model.config.null_prompt, model.config.guidance.scale) == ("empty", 7.5)
    written = load_file(tmp_path / "m" / "text_encoder" / "model.safetensors")
    assert_same(written, {f"text_model.{name}": value for name, value in clip.state_dict().items()})
    a, b = (model.generate(prompt, size=(16, 16), sampler={"steps": 1}) for prompt in ("a cat", "a dog"))
    assert not torch.equal(a, b)


def test_what_does_not_belong_together_is_said(checkpoint: Path, tokenizer: Path, tmp_path: Path) -> None:
    asked = ("convert", checkpoint, "-s", "num_heads=2", "-o", tmp_path / "x")
    with pytest.raises(InputError, match="no tokenizer; expected a folder with one of"):
        run(*asked, "--tokenizer", tmp_path)
    with pytest.raises(InputError, match="--tokenizer is for the text encoder in the file"):
        run(*asked, "--tokenizer", tokenizer, "--text-encoder", tokenizer)
    with pytest.raises(InputError, match="--tokenizer is for a whole checkpoint"):
        run(*asked, "--tokenizer", tokenizer, "--prefix", "first_stage_model.")
    assert not (tmp_path / "x").exists()
