"""VQGAN against a forward pass written from the names of its public layout, its codes, and its reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from kinolab.autoencoders import Vqgan, VqganConfig, build
from kinolab.autoencoders import vqgan as vqgan_module
from kinolab.checkpoints import inspect, load, save
from kinolab.errors import InputError
from kinolab.layers import codebook as codebook_module
from tests.closeness import NETWORK, assert_close

GROUPS, BLOCKS, CODES = 4, 1, 13
WIDTHS = (8, 16, 16)
ATTENTION = (1, 2)
Z_CHANNELS, EMBED = 6, 5
TINY = VqganConfig(
    ch=8, ch_mult=(1, 2, 2), num_res_blocks=BLOCKS, attn_resolutions=(128, 64), z_channels=Z_CHANNELS,
    embed_dim=EMBED, n_embed=CODES, norm_num_groups=GROUPS,
)  # fmt: skip
State = dict[str, Tensor]


def public_state() -> State:
    """Random weights under the names of taming-transformers."""
    state: State = {}

    def conv(name: str, width_in: int, width: int, kernel: int = 3) -> None:
        state[f"{name}.weight"] = torch.randn(width, width_in, kernel, kernel) / (width_in * kernel**2) ** 0.5
        state[f"{name}.bias"] = 0.1 * torch.randn(width)

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = 1 + 0.2 * torch.randn(width), 0.2 * torch.randn(width)

    def block(name: str, width_in: int, width: int) -> None:
        norm(f"{name}.norm1", width_in)
        conv(f"{name}.conv1", width_in, width)
        norm(f"{name}.norm2", width)
        conv(f"{name}.conv2", width, width)
        if width_in != width:
            conv(f"{name}.nin_shortcut", width_in, width, 1)

    def attention(name: str, width: int) -> None:
        norm(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.{part}", width, width, 1)

    def middle(name: str, width: int) -> None:
        block(f"{name}.block_1", width, width)
        attention(f"{name}.attn_1", width)
        block(f"{name}.block_2", width, width)

    top, last = WIDTHS[-1], len(WIDTHS) - 1
    conv("encoder.conv_in", 3, WIDTHS[0])
    width = WIDTHS[0]
    for i, wide in enumerate(WIDTHS):
        for j in range(BLOCKS):
            block(f"encoder.down.{i}.block.{j}", width, wide)
            width = wide
            if i in ATTENTION:
                attention(f"encoder.down.{i}.attn.{j}", wide)
        if i != last:
            conv(f"encoder.down.{i}.downsample.conv", wide, wide)
    middle("encoder.mid", top)
    norm("encoder.norm_out", top)
    conv("encoder.conv_out", top, Z_CHANNELS)
    conv("quant_conv", Z_CHANNELS, EMBED, 1)
    state["quantize.embedding.weight"] = 0.5 * torch.randn(CODES, EMBED)
    conv("post_quant_conv", EMBED, Z_CHANNELS, 1)
    conv("decoder.conv_in", Z_CHANNELS, top)
    middle("decoder.mid", top)
    for i in range(last, -1, -1):
        for j in range(BLOCKS + 1):
            block(f"decoder.up.{i}.block.{j}", width, WIDTHS[i])
            width = WIDTHS[i]
            if i in ATTENTION:
                attention(f"decoder.up.{i}.attn.{j}", width)
        if i != 0:
            conv(f"decoder.up.{i}.upsample.conv", width, width)
    norm("decoder.norm_out", width)
    conv("decoder.conv_out", width, 3)
    return state


class Reference:
    """The network of the paper, straight from the names."""

    def __init__(self, state: State) -> None:
        self.s = state

    def conv(self, name: str, x: Tensor, **options: Any) -> Tensor:
        return F.conv2d(x, self.s[f"{name}.weight"], self.s[f"{name}.bias"], **options)

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, GROUPS, self.s[f"{name}.weight"], self.s[f"{name}.bias"], 1e-6)

    def active(self, name: str, x: Tensor) -> Tensor:
        h = self.norm(name, x)
        return h * torch.sigmoid(h)

    def block(self, name: str, x: Tensor) -> Tensor:
        h = self.conv(f"{name}.conv1", self.active(f"{name}.norm1", x), padding=1)
        h = self.conv(f"{name}.conv2", self.active(f"{name}.norm2", h), padding=1)
        return h + (self.conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in self.s else x)

    def attention(self, name: str, x: Tensor) -> Tensor:
        h = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{part}", h).flatten(2) for part in "qkv")
        weights = torch.softmax(torch.einsum("ncl,ncm->nlm", q, k) / x.shape[1] ** 0.5, dim=-1)
        return x + self.conv(f"{name}.proj_out", torch.einsum("nlm,ncm->ncl", weights, v).view_as(x))

    def middle(self, name: str, x: Tensor) -> Tensor:
        x = self.attention(f"{name}.attn_1", self.block(f"{name}.block_1", x))
        return self.block(f"{name}.block_2", x)

    def level(self, name: str, i: int, blocks: int, x: Tensor) -> Tensor:
        for j in range(blocks):
            x = self.block(f"{name}.{i}.block.{j}", x)
            x = self.attention(f"{name}.{i}.attn.{j}", x) if i in ATTENTION else x
        return x

    def encode(self, x: Tensor) -> Tensor:
        x = self.conv("encoder.conv_in", x, padding=1)
        for i in range(len(WIDTHS)):
            x = self.level("encoder.down", i, BLOCKS, x)
            if i < len(WIDTHS) - 1:
                x = self.conv(f"encoder.down.{i}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2)
        x = self.active("encoder.norm_out", self.middle("encoder.mid", x))
        return self.conv("quant_conv", self.conv("encoder.conv_out", x, padding=1))

    def codes(self, images: Tensor) -> Tensor:
        z = self.encode(images).movedim(1, -1)
        return torch.cdist(z.flatten(0, 2), self.s["quantize.embedding.weight"]).argmin(1).view(z.shape[:3])

    def vectors(self, codes: Tensor) -> Tensor:
        return self.s["quantize.embedding.weight"][codes].movedim(-1, 1)

    def decode(self, z: Tensor) -> Tensor:
        x = self.middle("decoder.mid", self.conv("decoder.conv_in", self.conv("post_quant_conv", z), padding=1))
        for i in range(len(WIDTHS) - 1, -1, -1):
            x = self.level("decoder.up", i, BLOCKS + 1, x)
            if i > 0:
                x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
                x = self.conv(f"decoder.up.{i}.upsample.conv", x, padding=1)
        return self.conv("decoder.conv_out", self.active("decoder.norm_out", x), padding=1)


@pytest.fixture
def state() -> State:
    return public_state()


@pytest.fixture
def checkpoint(tmp_path: Path, state: State) -> Path:
    """A file as its training leaves it."""
    beside = {"loss.discriminator.main.0.weight": torch.zeros(4), "loss.perceptual_loss.lin0.weight": torch.ones(2)}
    torch.save({"state_dict": state | beside, "global_step": 7, "optimizer_states": []}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


@torch.no_grad()
def test_public_weights_give_the_outputs_of_an_independent_forward_pass(checkpoint: Path, state: State) -> None:
    ours, reference = load(checkpoint, norm_num_groups=GROUPS), Reference(state)
    assert isinstance(ours, Vqgan) and ours.config == TINY, "everything but the groups follows from the shapes"
    clip = torch.rand(2, 3, 3, 16, 24) * 2 - 1
    images = clip.transpose(1, 2).flatten(0, 1)
    codes = reference.codes(images)
    assert len(codes.unique()) > 3, "a test of the look-up needs several codes"
    assert torch.equal(ours.indices(clip).flatten(0, 1), codes)
    posterior = ours.encode(clip)
    assert tuple(posterior.mean.shape[1:]) == ours.spec.latent_shape(3, 16, 24) == (EMBED, 3, 4, 6)
    assert_close(posterior.mean.transpose(1, 2).flatten(0, 1), reference.vectors(codes), within=NETWORK)
    rebuilt = reference.decode(reference.vectors(codes)).unflatten(0, (2, 3)).transpose(1, 2)
    assert_close(ours.decode(posterior.mean), rebuilt, within=NETWORK)
    assert_close(ours.decode_indices(ours.indices(clip)), rebuilt, within=NETWORK)
    unquantised = torch.randn(1, EMBED, 2, 4, 4)
    assert_close(
        ours.decode(unquantised)[0].transpose(0, 1), reference.decode(unquantised[0].transpose(0, 1)), within=NETWORK
    )


@torch.no_grad()
def test_the_posterior_is_as_good_as_certain_and_a_code_has_its_bits() -> None:
    model = build(TINY)
    posterior = model.encode(torch.rand(1, 3, 1, 8, 8))
    assert_close(posterior.sample(torch.Generator().manual_seed(0)), posterior.mean, within=NETWORK)
    assert model.bits_per_latent == pytest.approx(torch.log2(torch.tensor(float(CODES))).item())
    assert Vqgan(TINY.model_copy(update={"n_embed": 1024})).bits_per_latent == 10.0


@torch.no_grad()
def test_latents_are_shifted_and_scaled_and_decode_undoes_it() -> None:
    plain = Vqgan(TINY)
    scaled = Vqgan(TINY.model_copy(update={"latent_shift": 0.5, "latent_scale": 4.0}))
    scaled.load_state_dict({k: v for k, v in plain.state_dict().items() if not k.startswith("latent_")})
    clip = torch.rand(1, 3, 1, 8, 8)
    a, b = plain.encode(clip).mean, scaled.encode(clip).mean
    assert_close(b, (a - 0.5) * 4.0, within=NETWORK)
    assert_close(scaled.decode(b), plain.decode(a), within=NETWORK)
    assert_close(scaled.decode_indices(scaled.indices(clip)), plain.decode(a), within=NETWORK)


@torch.no_grad()
def test_work_in_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clip = Vqgan(TINY), torch.rand(1, 3, 5, 8, 8)
    torch.nn.init.normal_(model.quantize.embedding.weight)
    whole, rebuilt = model.indices(clip), model.decode(model.encode(clip).mean)
    monkeypatch.setattr(vqgan_module, "PIXELS_AT_ONCE", 2 * 8 * 8)
    monkeypatch.setattr(codebook_module, "DISTANCES_AT_ONCE", 3 * CODES)
    assert torch.equal(model.indices(clip), whole)
    assert_close(model.decode(model.encode(clip).mean), rebuilt, within=NETWORK)


def test_codes_are_found_in_float32_under_autocast() -> None:
    book = codebook_module.Codebook(2, 1)
    with torch.no_grad():
        book.embedding.weight.copy_(torch.tensor([[1.0], [1.001]]))  # one number in bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        found = book.nearest(torch.tensor([1.0009, 1.0001]).view(1, 1, 2, 1, 1))
    assert found.flatten().tolist() == [1, 0]


@torch.no_grad()
def test_it_is_written_in_the_public_layout(tmp_path: Path, state: State, checkpoint: Path) -> None:
    ours = load(checkpoint, norm_num_groups=GROUPS)
    save(ours, tmp_path / "out.safetensors", "vqgan")
    written = load_file(tmp_path / "out.safetensors")
    assert written.keys() == state.keys() and all(torch.equal(written[k], state[k]) for k in state)
    assert load(tmp_path / "out.safetensors").config == TINY
    found = inspect(checkpoint)
    assert found.format == "vqgan" and "norm_num_groups" in found.unknown and not found.problems
    with pytest.raises(InputError, match=r"written to a \.safetensors file"):
        save(ours, tmp_path / "out", "vqgan")


def test_a_gumbel_model_and_a_file_without_a_decoder_are_named(tmp_path: Path, state: State) -> None:
    gumbel = {k: v for k, v in state.items() if not k.startswith("quantize")}
    gumbel |= {"quantize.embed.weight": torch.zeros(4, 2), "quantize.proj.weight": torch.zeros(4, 2, 1, 1)}
    torch.save(gumbel, tmp_path / "gumbel.pt")
    with pytest.raises(InputError, match="a VQGAN with Gumbel quantisation, which is not supported"):
        load(tmp_path / "gumbel.pt")
    torch.save({k: v for k, v in state.items() if k != "decoder.conv_in.bias"}, tmp_path / "part.pt")
    with pytest.raises(InputError, match=r"1 missing: decoder\.conv_in\.bias"):
        load(tmp_path / "part.pt", norm_num_groups=GROUPS)


def test_mistakes_are_named() -> None:
    model = Vqgan(TINY)
    with pytest.raises(InputError, match=r"multiples of 4, got 10 x 8"):
        model.indices(torch.zeros(1, 3, 1, 10, 8))
    with pytest.raises(InputError, match=rf"expected codes 0 to {CODES - 1}, got 0 to {CODES}"):
        model.decode_indices(torch.tensor([0, CODES]).view(1, 1, 1, 2))
    with pytest.raises(InputError, match=r"expected codes \(B, T, H, W\) of integers, got \(1, 2, 2\)"):
        model.decode_indices(torch.zeros(1, 2, 2))
    with pytest.raises(ValidationError, match=r"attn_resolutions among \[256, 128, 64\], got \[16\]"):
        VqganConfig(ch=32, ch_mult=(1, 1, 2), attn_resolutions=(16,))
    with pytest.raises(ValidationError, match="begins with 1"):
        VqganConfig(ch_mult=(2, 2))
    with pytest.raises(ValidationError, match="norm_num_groups=32 divides"):
        VqganConfig(ch=8)
