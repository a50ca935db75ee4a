"""Writing public layouts: what comes back, and what is refused because the public code would compute otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from kinolab.autoencoders import ImageAutoencoder, ImageConfig, OdVae, OdVaeConfig
from kinolab.checkpoints import inspect, load, save
from kinolab.denoisers import DiT, DiTConfig, Latte, LatteConfig, SpaceTimeUnet, SpaceTimeUnetConfig, Vdm, VdmConfig
from kinolab.errors import InputError
from tests.closeness import assert_same

LATTE: dict[str, Any] = {"hidden_size": 24, "depth": 2, "num_heads": 3, "input_size": 4, "learned_variance": True}
VDM: dict[str, Any] = {"dim": 8, "dim_mults": (1, 2), "num_heads": 2, "head_dim": 4, "input_size": 4}
MAKE_A_VIDEO: dict[str, Any] = {
    "dim": 8, "dim_mults": (1, 2), "attention": (True, False), "halves_time": (False, True), "depths": (1, 2),
    "num_heads": 2, "head_dim": 4, "input_size": 8, "num_frames": 4,
}  # fmt: skip
IMAGE = ImageConfig(block_out_channels=(8,), layers_per_block=1, norm_num_groups=4)


@pytest.mark.parametrize(
    ("module", "format"),
    [
        (lambda: Latte(LatteConfig(**LATTE, num_classes=3, num_frames=2)), "latte"),
        (lambda: DiT(DiTConfig(**LATTE, num_classes=3)), "dit"),
        (lambda: Vdm(VdmConfig(**VDM, pooled_dim=5, learned_variance=True)), "vdm"),
        (lambda: Vdm(VdmConfig(**VDM, spatial_attention="none", focus=True)), "vdm"),
        (lambda: SpaceTimeUnet(SpaceTimeUnetConfig(**MAKE_A_VIDEO)), "space_time_unet"),
        (lambda: SpaceTimeUnet(SpaceTimeUnetConfig(**MAKE_A_VIDEO, position_bias=False)), "space_time_unet"),
        (lambda: ImageAutoencoder(IMAGE), "autoencoder_kl"),
        (lambda: ImageAutoencoder(IMAGE), "ldm_autoencoder"),
    ],
)
@pytest.mark.slow
def test_what_was_saved_is_loaded_without_being_told_anything(tmp_path: Path, module: Any, format: str) -> None:
    ours = module().half().float()
    path = tmp_path / ("folder" if format == "autoencoder_kl" else "x.safetensors")
    save(ours, path, format)
    back = load(path)
    assert type(back) is type(ours) and back.config == ours.config
    assert_same(back.state_dict(), ours.state_dict())
    found = inspect(path)
    assert found.format == format and found.title.endswith("(written by Kinolab)") and not found.problems
    assert not list(tmp_path.rglob(".writing-*"))


def test_the_names_are_the_public_ones(tmp_path: Path) -> None:
    save(Latte(LatteConfig(**LATTE, num_classes=3)), tmp_path / "x.safetensors", "latte")
    golden = load_file(Path(__file__).parents[1] / "golden" / "latte_class.safetensors")
    public = {k.removeprefix("weights.") for k in golden if k.startswith("weights.")}
    assert set(load_file(tmp_path / "x.safetensors")) == {
        k for k in public if not k.startswith(("blocks.2", "blocks.3"))
    }


@pytest.mark.parametrize(
    ("module", "format", "said"),
    [
        (lambda: Latte(LatteConfig(**{**LATTE, "variant": "joint_block"})), "latte", "no variant=joint_block"),
        (lambda: Latte(LatteConfig(**{**LATTE, "input_size": (4, 8)})), "latte", r"input_size=\(4, 8\)"),
        (lambda: DiT(DiTConfig(**LATTE)), "dit", "class labels"),
        (lambda: Vdm(VdmConfig(**VDM, num_classes=3)), "vdm", "no num_classes=3: its layout"),
        (
            lambda: SpaceTimeUnet(SpaceTimeUnetConfig(**MAKE_A_VIDEO, text_dim=4)),
            "space_time_unet",
            "SpaceTimeUnet has no text_dim=4: its layout",
        ),
        (lambda: DiT(DiTConfig(**LATTE, num_classes=1)), "latte", "holds a Latte, got a DiT"),
        (
            lambda: OdVae(OdVaeConfig(hidden_size=8, hidden_size_mult=(1, 1, 1), norm_num_groups=4)),
            "causal_vae",
            "norm=frame, upsampling=nearest.* other videos",
        ),
        (lambda: ImageAutoencoder(IMAGE), "autoencoder_kl", "written to a folder"),
        (lambda: ImageAutoencoder(IMAGE), "kl", "unknown format 'kl'"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused(tmp_path: Path, module: Any, format: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        save(module(), tmp_path / "x.safetensors", format)
    assert not list(tmp_path.iterdir())
