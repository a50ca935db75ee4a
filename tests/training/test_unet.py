"""The U-Net and AnimateDiff through a recipe: trained, sampled from the model folder, the image model left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kinolab.checkpoints.pipelines import animated
from kinolab.denoisers import MotionConfig, MotionModules
from kinolab.models import VideoModel, save_autoencoder
from tests.closeness import assert_same
from tests.outside.commands import run
from tests.tiny_model import tiny_model
from tests.training.tiny import denoiser_recipe

pytestmark = pytest.mark.slow
UNET: dict[str, Any] = {
    "in_channels": 4, "input_size": 8, "block_out_channels": [8, 16], "layers_per_block": 1, "attention_levels": [0],
    "num_heads": 2, "norm_groups": 4, "num_classes": 6,
}  # fmt: skip


def trained(folder: Path, name: str, denoiser: dict[str, Any], **more: Any) -> VideoModel:
    recipe = denoiser_recipe(folder / "autoencoder", steps=3)
    recipe |= {"denoiser": denoiser, "samples": {"labels": [0], "sampler": {"steps": 2}}, **more}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    said = run("train", folder / f"{name}.yaml", "--run", folder / name)
    assert (folder / name / "model").exists(), said
    run("generate", "--model", folder / name, "--label", 1, "--steps", 2, "--out", folder / f"{name}.webp")
    return VideoModel.load(folder / name, device="cpu", precision="float32")


@pytest.mark.wide
def test_an_image_unet_and_the_motion_modules_under_it(tmp_path: Path) -> None:
    save_autoencoder(tiny_model(text=False).autoencoder, tmp_path / "autoencoder")
    image = trained(tmp_path, "image", {"kind": "unet", **UNET}, frames_per_clip=1)
    assert image.denoiser.get_parameter("conv_out.weight").any()
    video = {"kind": "animatediff", **UNET, "motion_heads": 2}
    initial = {"path": str(tmp_path / "start"), "method": "weights"}
    fields = {name: value for name, value in video.items() if name not in ("kind", "num_classes")}
    modules = MotionModules(MotionConfig(**fields))
    animated(image, modules, "").save(tmp_path / "start")
    model = trained(tmp_path, "video", video, initial=initial, trained="temporal")
    before, after = image.denoiser.state_dict(), model.denoiser.state_dict()
    assert_same({name: after[name] for name in before}, dict(before))
    time = [name for name in after if name not in before and name.endswith("proj_out.weight")]
    assert time and all(bool(after[name].any()) for name in time)
    assert torch.isfinite(model.generate(label=1, frames=5, sampler={"steps": 2})).all()
