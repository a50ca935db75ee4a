"""The text encoder inside a whole checkpoint: the states that its own code would read, and a tokenizer beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from kinolab.checkpoints.checkpoint_text import held_text, write_text_encoder
from kinolab.cli import convert, inspect
from kinolab.conditioning.text import ClipText, ClipTextConfig
from kinolab.errors import InputError
from kinolab.models import VideoModel
from tests.checkpoints.whole import HEADS, WIDTH, WORDS, of_1x
from tests.closeness import NETWORK, assert_close, assert_same
from tests.conditioning.text.tiny_text import TOKENS, clip_ids
from tests.random_weights import randomized

app = typer.Typer()
convert.register(app)
inspect.register(app)  # typer calls the command of an app of one without its name


def run(*args: object) -> None:
    result = CliRunner().invoke(app, [str(a) for a in args])
    if result.exception is not None:
        raise result.exception


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


@pytest.mark.slow
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
    assert_same(
        written, {f"text_model.{name.removeprefix('text_model.')}": value for name, value in clip.state_dict().items()}
    )
    a, b = (model.generate(prompt, size=(16, 16), sampler={"steps": 1}) for prompt in ("a cat", "a dog"))
    assert not torch.equal(a, b)


@pytest.mark.slow
def test_what_does_not_belong_together_is_said(checkpoint: Path, tokenizer: Path, tmp_path: Path) -> None:
    asked = ("convert", checkpoint, "-s", "num_heads=2", "-o", tmp_path / "x")
    with pytest.raises(InputError, match="no tokenizer; expected a folder with one of"):
        run(*asked, "--tokenizer", tmp_path)
    with pytest.raises(InputError, match="--tokenizer is for the text encoder in the file"):
        run(*asked, "--tokenizer", tokenizer, "--text-encoder", tokenizer)
    with pytest.raises(InputError, match="--tokenizer is for a whole checkpoint"):
        run(*asked, "--tokenizer", tokenizer, "--prefix", "first_stage_model.")
    assert not (tmp_path / "x").exists()
