"""Forms of commands in Chromium, each on a real small job: tune on a clip, fewer steps, adapters and their weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from kinolab.autoencoders import ImageConfig
from kinolab.autoencoders import build as build_autoencoder
from kinolab.denoisers import UnetConfig
from kinolab.denoisers import build as build_denoiser
from kinolab.diffusion import DiffusionConfig, SamplerConfig
from kinolab.models import ModelConfig, VideoModel
from tests.studio.browsing import WAIT
from tests.studio.test_panels import clip, opened
from tests.training.test_fit import UNET

pytestmark = [pytest.mark.wide("chromium"), pytest.mark.timeout(600)]
QUICK = "training.device=cpu\ntraining.precision=float32"


def image_model(folder: Path) -> None:
    """A tiny image model, of one frame of 16 x 16."""
    torch.manual_seed(0)
    pixels = ImageConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block_attention=False)
    config = ModelConfig(
        autoencoder=pixels, denoiser=UnetConfig(**UNET), frames=1, size=(16, 16),
        diffusion=DiffusionConfig(schedule="flow", prediction="flow"), sampler=SamplerConfig(name="euler", steps=2),
    )  # fmt: skip
    assert config.denoiser is not None
    VideoModel(config, build_autoencoder(pixels), build_denoiser(config.denoiser)).save(folder)


def video_model(folder: Path, seed: int) -> None:
    """A tiny model of five frames that takes neither words nor labels."""
    torch.manual_seed(seed)
    pixels = ImageConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block_attention=False)
    config = ModelConfig(
        autoencoder=pixels, frames=5, size=(16, 16), sampler=SamplerConfig(steps=2),
        denoiser={
            "kind": "latte", "hidden_size": 16, "depth": 2, "num_heads": 2, "in_channels": 4, "input_size": 8,
            "num_frames": 5, "patch_size": 2,
        },
    )  # fmt: skip
    assert config.denoiser is not None
    VideoModel(config, build_autoencoder(pixels), build_denoiser(config.denoiser)).save(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(2):
        clip(tmp_path / "p" / "clips" / f"clip-{k}.mp4", shift=9 * k)
    return tmp_path / "p"


def done(page: Any, command: str) -> None:
    """Wait until the newest job of a command, by the name of its folder, has ended well."""
    from playwright.sync_api import expect

    job = page.locator(f"#queue [data-job*='{command}']").first
    expect(job).to_have_attribute("data-state", re.compile("done|failed"), timeout=4 * WAIT)
    assert job.get_attribute("data-state") == "done", job.inner_text()


def write(form: Any, option: str, text: str) -> None:
    field = form.locator(f"[data-option={option}]").locator("input, textarea")
    field.fill(text)
    field.blur()


def test_a_model_is_tuned_on_a_clip_and_one_is_made_for_fewer_steps(folder: Path) -> None:
    from playwright.sync_api import expect

    image_model(folder / "models" / "image")
    video_model(folder / "models" / "teacher", 0)
    with opened(folder, "Train") as page:
        page.keyboard.press("q")
        page.get_by_role("tab", name="Tune on a clip").click()
        form = page.locator("[data-form=fit]")
        form.locator("[data-option=model] select").select_option("models/image")
        for option, text in (("prompt", ""), ("steps", "2"), ("frames", "4"), ("lora", "2")):
            write(form, option, text)
        form.locator("summary").click()
        write(form, "label", "1")
        write(form, "setting", QUICK)
        expect(form.locator("pre")).to_contain_text("kinolab fit --out=runs/fit-clip-0 --label=1 --model=models/image")
        form.get_by_role("button", name="Tune", exact=True).click()
        done(page, "fit")
        expect(page.locator("main .badge", has_text="finished")).to_be_visible()

        page.get_by_role("button", name="New training").click()
        page.get_by_role("tab", name="Fewer steps").click()
        form = page.locator("[data-form=distill]")
        form.locator("[data-option=model] select").select_option("models/teacher")
        form.locator("[data-option=method] select").select_option("progressive")
        form.locator("[data-option=data] select").select_option("clips")
        write(form, "steps", "1")
        write(form, "out", "runs/student")
        form.locator("summary").click()
        write(form, "setting", f"{QUICK}\ntraining.steps=5\ntraining.batch_size=1")
        form.get_by_role("button", name="Distil", exact=True).click()
        done(page, "distill")
        expect(page.locator("main .badge", has_text="finished")).to_be_visible()
    assert (folder / "runs" / "fit-clip-0" / "adapter").is_dir()
    assert (folder / "runs" / "student" / "model" / "model.yaml").is_file()


def test_an_adapter_is_extracted_converted_and_sampled_with_its_weight(folder: Path) -> None:
    from playwright.sync_api import expect

    for seed, name in enumerate(("one", "two")):
        video_model(folder / "models" / name, seed)
    with opened(folder, "Models") as page:
        page.keyboard.press("q")
        card = page.locator("article[data-adapters]")
        card.get_by_role("button", name="Extract", exact=True).click()
        form = card.locator("[data-form='lora extract']")
        form.locator("[data-option=base] select").select_option("models/one")
        form.locator("[data-option=tuned] select").select_option("models/two")
        write(form, "rank", "2")
        form.get_by_role("button", name="Extract", exact=True).click()
        done(page, "lora-extract")
        expect(card.locator("li", has_text="models/adapter")).to_be_visible()
        card.get_by_role("button", name="Convert", exact=True).click()
        form = card.locator("[data-form='lora convert']")
        form.locator("[data-option=model] select").select_option("models/one")
        expect(form.locator("pre")).to_contain_text("kinolab lora convert --model=models/one --out=models/adapter")
        form.get_by_role("button", name="Convert", exact=True).click()
        done(page, "lora-convert")
        expect(card.locator("li", has_text="models/adapter.safetensors")).to_be_visible()

        page.get_by_title("Sample (key 3)").click()
        page.get_by_label("Model", exact=True).select_option("models/one")
        mine = page.locator("fieldset[data-adapters] li", has=page.get_by_title("models/adapter", exact=True))
        mine.get_by_role("checkbox").check()
        mine.get_by_role("slider").fill("0.5")
        expect(page.get_by_text("kinolab generate")).to_contain_text("--lora=models/adapter:0.5")
        page.get_by_role("button", name="Make", exact=True).click()
        expect(page.locator("[data-sample]")).to_have_count(1, timeout=4 * WAIT)
    record = json.loads(next((folder / "samples").glob("*.json")).read_text())
    assert [(use["path"], use["weight"]) for use in record["request"]["lora"]] == [("models/adapter", 0.5)]
