"""TATS's autoencoder against a forward pass written from the names of its public layout, its codes, and its reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from kinolab import video
from kinolab.autoencoders import Tats, TatsConfig, build
from kinolab.checkpoints import inspect, load, save
from kinolab.errors import InputError
from kinolab.generation.reconstruct import can_stream, reconstruct
from kinolab.generation.reconstruct_report import ReconstructConfig
from kinolab.models import load_autoencoder, save_autoencoder
from kinolab.tasks.mask import fold
from tests.closeness import NETWORK, assert_close

HIDDEN, CODES, DIM, GROUPS = 4, 11, 6, 2
STRIDES = ((2, 2, 2), (1, 2, 2))
"""downsample (2, 4, 4): time is halved at the first level only."""
TINY = TatsConfig(
    n_hiddens=HIDDEN, downsample=(2, 4, 4), embedding_dim=DIM, n_codes=CODES, norm_num_groups=GROUPS
)  # fmt: skip
State = dict[str, Tensor]


def public_state(norm_type: str) -> State:
    """Random weights under the names of the public code."""
    state: State = {}

    def conv(name: str, width_in: int, width: int, kernel: int, *, transposed: bool = False) -> None:
        shape = (width_in, width) if transposed else (width, width_in)
        state[f"{name}.weight"] = torch.randn(*shape, kernel, kernel, kernel) / (width_in * kernel**3) ** 0.5
        state[f"{name}.bias"] = 0.1 * torch.randn(width)

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = 1 + 0.2 * torch.randn(width), 0.2 * torch.randn(width)
        if norm_type == "batch":
            state[f"{name}.running_mean"] = 0.3 * torch.randn(width)
            state[f"{name}.running_var"] = 0.5 + torch.rand(width)
            state[f"{name}.num_batches_tracked"] = torch.tensor(9)

    def residual(name: str, width: int) -> None:
        for k in (1, 2):
            norm(f"{name}.norm{k}", width)
            conv(f"{name}.conv{k}.conv", width, width, 3)

    top = 4 * HIDDEN
    conv("encoder.conv_first.conv", 3, HIDDEN, 3)
    for i in range(2):
        conv(f"encoder.conv_blocks.{i}.down.conv", HIDDEN << i, HIDDEN << (i + 1), 4)
        residual(f"encoder.conv_blocks.{i}.res", HIDDEN << (i + 1))
    norm("encoder.final_block.0", top)
    conv("pre_vq_conv.conv", top, DIM, 1)
    state["codebook.embeddings"] = 0.5 * torch.randn(CODES, DIM)
    conv("post_vq_conv.conv", DIM, top, 1)
    norm("decoder.final_block.0", top)
    for i, (width_in, width) in enumerate([(top, top), (top, top // 2)]):
        conv(f"decoder.conv_blocks.{i}.up.convt", width_in, width, 4, transposed=True)
        residual(f"decoder.conv_blocks.{i}.res1", width)
        residual(f"decoder.conv_blocks.{i}.res2", width)
    conv("decoder.conv_last.conv", top // 2, 3, 3)
    return state


class Reference:
    """The network of the paper on pixels in [-0.5, 0.5], straight from the names."""

    def __init__(self, state: State, norm_type: str) -> None:
        self.s, self.norm_type = state, norm_type

    @staticmethod
    def padded(x: Tensor, kernel: int, stride: tuple[int, int, int]) -> Tensor:
        """The border repeated, kernel - stride more in each dimension, the odd one in front."""
        for dim, s in zip((2, 3, 4), stride, strict=True):
            more = kernel - s
            first, last = x.narrow(dim, 0, 1), x.narrow(dim, x.shape[dim] - 1, 1)
            x = torch.cat([first] * (more - more // 2) + [x] + [last] * (more // 2), dim)
        return x

    def conv(self, name: str, x: Tensor, stride: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
        weight = self.s[f"{name}.weight"]
        return F.conv3d(self.padded(x, weight.shape[-1], stride), weight, self.s[f"{name}.bias"], stride)

    def transposed(self, name: str, x: Tensor, stride: tuple[int, int, int]) -> Tensor:
        full = F.conv_transpose3d(
            self.padded(x, 4, stride), self.s[f"{name}.weight"], self.s[f"{name}.bias"], stride
        )  # fmt: skip
        return full[:, :, 3:-3, 3:-3, 3:-3]

    def active(self, name: str, x: Tensor) -> Tensor:
        weight, bias = (self.s[f"{name}.{part}"].view(-1, 1, 1, 1) for part in ("weight", "bias"))
        if self.norm_type == "batch":
            mean, var = (self.s[f"{name}.running_{part}"].view(-1, 1, 1, 1) for part in ("mean", "var"))
            h = (x - mean) / torch.sqrt(var + 1e-5)
        else:
            grouped = x.unflatten(1, (GROUPS, -1))
            var, mean = torch.var_mean(grouped, dim=(2, 3, 4, 5), keepdim=True, correction=0)
            h = ((grouped - mean) / torch.sqrt(var + 1e-6)).flatten(1, 2)
        h = h * weight + bias
        return h * torch.sigmoid(h)

    def residual(self, name: str, x: Tensor) -> Tensor:
        h = self.conv(f"{name}.conv1.conv", self.active(f"{name}.norm1", x))
        return x + self.conv(f"{name}.conv2.conv", self.active(f"{name}.norm2", h))

    def vectors(self, x: Tensor) -> Tensor:
        """What is quantised, (B, T, H, W, D)."""
        x = self.conv("encoder.conv_first.conv", x)
        for i, stride in enumerate(STRIDES):
            x = self.residual(
                f"encoder.conv_blocks.{i}.res", self.conv(f"encoder.conv_blocks.{i}.down.conv", x, stride)
            )
        return self.conv("pre_vq_conv.conv", self.active("encoder.final_block.0", x)).movedim(1, -1)

    def codes(self, x: Tensor) -> Tensor:
        z = self.vectors(x)
        return torch.cdist(z.flatten(0, 3), self.s["codebook.embeddings"]).argmin(1).view(z.shape[:4])

    def decode(self, codes: Tensor) -> Tensor:
        x = self.conv("post_vq_conv.conv", self.s["codebook.embeddings"][codes].movedim(-1, 1))
        x = self.active("decoder.final_block.0", x)
        for i, stride in enumerate(STRIDES):
            x = self.transposed(f"decoder.conv_blocks.{i}.up.convt", x, stride)
            x = self.residual(f"decoder.conv_blocks.{i}.res2", self.residual(f"decoder.conv_blocks.{i}.res1", x))
        return self.conv("decoder.conv_last.conv", x)


def write_checkpoint(path: Path, state: State) -> Path:
    beside = {
        "image_discriminator.model0.0.weight": torch.zeros(3), "video_discriminator.model0.0.weight": torch.zeros(3),
        "perceptual_model.net.slice1.0.weight": torch.zeros(3),
        "codebook.N": torch.zeros(CODES), "codebook.z_avg": torch.zeros(CODES, DIM),
    }  # fmt: skip
    torch.save({"state_dict": state | beside, "global_step": 7, "epoch": 1}, path)
    return path


@pytest.mark.parametrize("norm_type", ["batch", "group"])
@torch.no_grad()
def test_public_weights_give_the_outputs_of_an_independent_forward_pass(tmp_path: Path, norm_type: str) -> None:
    state = public_state(norm_type)
    reference, clip = Reference(state, norm_type), torch.rand(2, 3, 6, 8, 12) * 2 - 1
    found = reference.vectors(clip / 2).flatten(0, 3)
    state["codebook.embeddings"] = found[torch.randperm(len(found))[:CODES]] + 0.01 * torch.randn(CODES, DIM)
    groups: dict[str, Any] = {"norm_num_groups": GROUPS} if norm_type == "group" else {}
    ours = load(write_checkpoint(tmp_path / "vqgan.ckpt", state), downsample=[2, 4, 4], **groups)
    assert isinstance(ours, Tats) and ours.config.norm_type == norm_type
    codes = reference.codes(clip / 2)
    assert len(codes.unique()) == CODES, "a test of the look-up needs several codes"
    assert torch.equal(ours.indices(clip), codes)
    mean = ours.encode(clip).mean
    assert tuple(mean.shape[1:]) == ours.spec.latent_shape(6, 8, 12) == (DIM, 3, 2, 3)
    assert torch.equal(mean, state["codebook.embeddings"][codes].movedim(-1, 1))
    rebuilt = 2 * reference.decode(codes)
    assert rebuilt.shape == clip.shape
    assert_close(ours.decode(mean), rebuilt, within=NETWORK)
    assert_close(ours.decode_indices(codes), rebuilt, within=NETWORK)
    assert_close(ours.train().decode(mean), rebuilt, within=NETWORK)


def test_strides_follow_the_published_shape() -> None:
    published = TatsConfig()
    assert [published.strides(i) for i in range(published.levels)] == [(2, 2, 2), (2, 2, 2), (1, 2, 2)]
    assert TatsConfig(downsample=(8, 2, 2)).strides(2) == (2, 1, 1)


def test_the_frame_rule_is_multiples_and_time_is_seen_both_ways() -> None:
    model = build(TINY).eval()
    torch.nn.init.normal_(model.get_submodule("codebook.embedding").weight)  # type: ignore[arg-type]
    assert model.spec.frame_rule == "2*k" and not model.spec.causal
    assert model.bits_per_latent == pytest.approx(3.459431618637297)
    with pytest.raises(InputError, match=r"expected 2\*k frames, got 5; use 4 or 6"):
        model.encode(torch.zeros(1, 3, 5, 8, 8))
    with pytest.raises(InputError, match="expected codes 0 to 10, got -1 to 0"):
        model.decode_indices(torch.tensor([-1, 0]).view(1, 1, 1, 2))  # type: ignore[operator]
    with pytest.raises(InputError, match=r"looks ahead in time.*use decode\(\)"):
        model.decode_stream(iter(()))
    latents = torch.randn(1, DIM, 3, 2, 2)
    other = latents.clone()
    other[:, :, 2] += 1
    with torch.no_grad():
        change = (model.decode(latents) - model.decode(other)).abs().amax((0, 1, 3, 4))
    assert change[0] > 0, "the first frame sees the last latent"


def test_a_file_tells_what_its_shapes_tell(tmp_path: Path) -> None:
    state = public_state("batch")
    found = inspect(write_checkpoint(tmp_path / "x.ckpt", state))
    assert found.format == "tats" and found.config["downsample"] == [4, 4, 4] and not found.problems
    assert "time by 4" in found.assumed["downsample"]
    ours = load(tmp_path / "x.ckpt", downsample=[2, 4, 4])
    assert ours.config == TINY.model_copy(update={"norm_num_groups": 32})
    save(ours, tmp_path / "out.safetensors", "tats")
    written = load_file(tmp_path / "out.safetensors")
    assert written.keys() == state.keys() and all(torch.equal(written[k], state[k]) for k in state)
    assert load(tmp_path / "out.safetensors").config == ours.config
    del state["decoder.final_block.0.running_var"]
    with pytest.raises(InputError, match=r"batch normalisation lacks 1: decoder\.final_block\.0\.running_var"):
        load(write_checkpoint(tmp_path / "y.ckpt", state))
    with pytest.raises(InputError, match=r"pass norm_num_groups=\.\.\. \(32 groups"):
        load(write_checkpoint(tmp_path / "z.ckpt", public_state("group")))


def test_it_is_measured_in_groups_of_whole_latents(tmp_path: Path) -> None:
    model = Tats(TINY).eval()
    save_autoencoder(model, tmp_path / "model")
    clip = np.random.default_rng(0).integers(0, 255, (11, 16, 12, 3), dtype=np.uint8)
    video.write(tmp_path / "c.mkv", clip, 8, lossless=True)
    loaded = load_autoencoder(tmp_path / "model")
    assert not can_stream(loaded)

    def measured(**fields: object) -> tuple[int, tuple[int, ...], tuple[str, ...]]:
        config = ReconstructConfig.model_validate({"autoencoder": str(tmp_path / "model"), **fields})
        report = reconstruct(tmp_path / "c.mkv", tmp_path / "r.mkv", loaded, config)
        return report.frames, report.latent_shape, report.notes

    frames, shape, notes = measured()
    assert (frames, shape) == (10, (DIM, 5, 4, 3))
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["bits_per_pixel"] == pytest.approx(np.log2(CODES) * 5 * 4 * 3 / (10 * 16 * 12))
    assert "no exact stream" in notes[0] and "the last 1 frame left out: the autoencoder takes 2*k frames" in notes[1]
    assert measured(tile=4)[:2] == (10, (DIM, 5, 4, 3))
    assert measured(frames=7)[0] == 6
    with pytest.raises(InputError, match=r"tile: expected 2\*k frames, got 5; use 4"):
        measured(tile=5)
    video.write(tmp_path / "c.mkv", clip[:1], 8, lossless=True)
    with pytest.raises(InputError, match=r"at least 2 frames, got 1: the autoencoder takes 2\*k frames"):
        measured()


def test_tasks_with_a_given_part_are_refused() -> None:
    with pytest.raises(InputError, match="tasks need an autoencoder whose first frame has a latent of its own"):
        fold(torch.zeros(1, 1, 4, 8, 8), Tats(TINY).spec)


def test_configs_are_checked() -> None:
    with pytest.raises(ValidationError, match="powers of 2, height and width alike"):
        TatsConfig(downsample=(4, 8, 4))
    with pytest.raises(ValidationError, match="powers of 2"):
        TatsConfig(downsample=(3, 8, 8))
    with pytest.raises(ValidationError, match="norm_num_groups that divides 8, got 32"):
        TatsConfig(n_hiddens=4, norm_type="group")
