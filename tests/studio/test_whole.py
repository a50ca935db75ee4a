"""All of it in one go, as a newcomer goes: clips dropped in, two models trained, a video of each, both compared."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from kinolab.runtime.yaml_files import to_yaml
from kinolab.studio import jobs
from kinolab.studio.project import Project
from tests.studio.browsing import WAIT
from tests.studio.test_panels import clip, opened
from tests.training.tiny import autoencoder_recipe, denoiser_recipe

pytestmark = [pytest.mark.wide("chromium"), pytest.mark.timeout(600)]  # three trainings and two videos
DATA = {"kind": "folder", "path": "clips", "frames": 5, "size": 32, "heldout_fraction": 0.25}


def recipes(folder: Path) -> None:
    """An autoencoder on the project's clips, and a denoiser on its latents."""
    folder.mkdir()
    eyes = autoencoder_recipe(steps=3) | {"name": "eyes", "data": DATA}
    model = denoiser_recipe(Path("runs/eyes"), steps=3) | {"name": "model", "data": DATA}
    model["denoiser"]["num_classes"] = 0
    model["samples"] = {"count": 1, "sampler": {"steps": 2}}
    for recipe in (eyes, model):
        (folder / f"{recipe['name']}.yaml").write_text(f"# {recipe['name']}\n{to_yaml(recipe)}")


def ended(folder: Path, count: int) -> None:
    """Wait until so many jobs are there and have ended well."""
    project, end = Project.open(folder), time.monotonic() + 4 * WAIT / 1000
    while True:
        states = {job.id: jobs.state(project, job.id) for job in jobs.all_jobs(project)}
        failed = [jobs.ended(project, name) for name, state in states.items() if state in ("failed", "stopped")]
        assert not failed and time.monotonic() < end, (states, failed)
        if list(states.values()) == ["done"] * count:
            return
        time.sleep(0.1)


def train(page: Any, recipe: str, name: str, rate: str = "") -> None:
    from playwright.sync_api import expect

    again = page.get_by_role("button", name="New training")
    again.click()
    page.get_by_label("Recipe", exact=True).select_option(recipe)
    steps = page.get_by_label(re.compile(r"training\.steps"))
    expect(steps).to_have_value("3", timeout=2 * WAIT)
    page.get_by_label("Name of the run").fill(name)
    if rate:
        page.get_by_label(re.compile(r"training\.learning_rate")).fill(rate)
        page.get_by_label(re.compile(r"training\.learning_rate")).blur()
        expect(page.locator("pre", has_text=f"--set=training.learning_rate={rate}")).to_be_visible()
    page.get_by_role("button", name="Train", exact=True).click()


def test_from_clips_to_a_compared_pair(tmp_path: Path) -> None:
    from playwright.sync_api import expect

    for k in range(4):
        clip(tmp_path / f"clip-{k}.mp4", shift=17 * k)
    folder = tmp_path / "p"
    recipes(folder)
    with opened(folder, "Clips") as page:
        page.locator("input[type=file]").first.set_input_files([tmp_path / f"clip-{k}.mp4" for k in range(4)])
        expect(page.locator("[data-clip]")).to_have_count(4)

        panels = page.get_by_role("navigation", name="Panels")
        panels.get_by_role("link", name="Train").click()
        for count, (recipe, name, rate) in enumerate(
            (("eyes.yaml", "eyes", ""), ("model.yaml", "one", ""), ("model.yaml", "two", "0.02")), 1
        ):
            train(page, recipe, name, rate)
            ended(folder, count)

        panels.get_by_role("link", name="Sample").click()
        for count, name in enumerate(("one", "two"), 1):
            page.get_by_label("Model", exact=True).select_option(f"runs/{name}")
            page.get_by_role("button", name="Make", exact=True).click()
            expect(page.locator("[data-sample]")).to_have_count(count, timeout=4 * WAIT)
        ended(folder, 5)

        panels.get_by_role("link", name="Compare").click()
        made = sorted(path.name for path in (folder / "samples").glob("*.mp4"))
        for name in made:
            page.get_by_role("checkbox", name=f"samples/{name}").check()
        expect(page.locator(".stage video")).to_have_count(2)
        page.get_by_role("button", name="Play", exact=True).click()
        expect(page.locator("[data-drift]")).to_have_attribute("data-drift", re.compile(r"\d"))
        page.get_by_role("button", name="Choose between the two above").click()
        page.get_by_role("button", name="← Left").click()
        expect(page.locator("[data-tally]")).to_contain_text("95% interval")
    asked = [json.loads((folder / "samples" / name).with_suffix(".json").read_text())["request"] for name in made]
    assert sorted(Path(each["model"]).name for each in asked) == ["one", "two"]
