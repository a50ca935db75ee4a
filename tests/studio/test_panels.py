"""The panels Clips, Sample and Compare, end to end in Chromium: what a person does there becomes files and jobs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinolab import video
from kinolab.runtime.yaml_files import read_yaml, to_yaml
from kinolab.studio import jobs
from kinolab.studio.project import Project
from tests.studio.browsing import WAIT, Watched, chromium, served

pytestmark = pytest.mark.wide("chromium")
WATCH_TEXT = """() => {
  const own = CanvasRenderingContext2D.prototype, draw = own.fillText;
  own.fillText = function (text, ...at) { told(String(text)); return draw.call(this, text, ...at); };
}"""
"""Has every text that is drawn on a canvas told to `told`."""
CENTRE = """() => {
  const canvas = document.querySelector("[data-mask] canvas"), { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  let count = 0, sum = 0;
  for (let k = 0; k < width * height; k += 1) if (data[4 * k + 3] > 0) { count += 1; sum += k % width; }
  return sum / count / width;
}"""
"""Where the middle of what is painted lies, as a share of the width."""
COLOURS = ((220, 40, 40), (40, 60, 220))


def clip(path: Path, frames: int = 24, size: tuple[int, int] = (64, 96), shift: int = 0) -> None:
    """A clip of two scenes: a square that moves on one colour, then on another."""
    pictures = np.zeros((frames, *size, 3), np.uint8)
    for k in range(frames):
        pictures[k] = COLOURS[2 * k // frames]
        pictures[k, 20:36, (shift + 2 * k) % 80 : (shift + 2 * k) % 80 + 16] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    video.write(path, pictures, 8.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(2):
        clip(tmp_path / "p" / "clips" / f"clip-{k}.mp4", shift=9 * k)
    return tmp_path / "p"


@contextmanager
def opened(folder: Path, panel: str, **looks: Any) -> Iterator[Any]:
    """A panel of the page of a studio; at the end no other host was asked, and nothing was complained about.

    looks: of `Watched`, such as its width.
    """
    from playwright.sync_api import expect

    expect.set_options(timeout=WAIT)
    with served(folder) as studio, chromium() as browser:
        watched = Watched(browser, **looks)
        watched.page.goto(studio.url)
        watched.page.get_by_role("navigation", name="Panels").get_by_role("link", name=panel).click()
        yield watched.page
        # What a person has not yet filled in right is answered with 400, which Chromium writes down.
        watched.said = [line for line in watched.said if "status of 400" not in line]
        watched.clean(studio.port)


def test_a_clip_is_dropped_in_cut_cropped_and_captioned_and_its_file_stays(folder: Path, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    clip(tmp_path / "new <b>one.mp4", shift=30)
    before = (folder / "clips" / "clip-0.mp4").read_bytes()
    with opened(folder, "Clips") as page:
        expect(page.locator("[data-clip]")).to_have_count(2)
        page.locator("input[type=file]").first.set_input_files(tmp_path / "new <b>one.mp4")
        expect(page.locator("[data-clip]")).to_have_count(3)
        expect(page.locator("[data-clip='clip-0.mp4'] .badge").first).to_have_text(re.compile("window|not used"))
        page.locator("[data-clip='clip-0.mp4']").click()
        editor = page.locator("[data-editor='clip-0.mp4']")
        expect(editor.get_by_text("of 24 frames")).to_be_visible()
        editor.get_by_role("slider").focus()
        page.keyboard.press("k")
        for _ in range(24):
            page.keyboard.press("ArrowLeft")
        for key in ("ArrowRight", "ArrowRight", "i", "ArrowRight", "ArrowRight", "o"):
            page.keyboard.press(key)
        expect(editor.get_by_text("frames 2 to 4")).to_be_visible()
        editor.get_by_label("Choose what is kept").check()
        expect(editor.get_by_text("33 % of the picture is lost")).to_be_visible()
        editor.get_by_role("button", name="Find scenes").click()
        scenes = editor.locator("[data-scenes] li")
        expect(scenes).to_have_count(2)
        editor.get_by_role("button", name="Merge parts 1 and 2").click()
        expect(scenes).to_have_count(0)
        page.keyboard.press("u")
        page.keyboard.press("u")
        expect(editor.get_by_text("frames 2 to 4")).to_be_visible()
        editor.get_by_label("Caption").fill("a white square <i>moves</i>")
        editor.get_by_label("Caption").blur()
        expect(editor.get_by_text("saved")).to_be_visible()
        page.get_by_role("button", name="Find and replace").click()
        page.get_by_label("Find", exact=True).fill("white")
        page.get_by_label("Replace with").fill("pale")
        page.get_by_role("button", name="Replace in 1").click()
        expect(page.get_by_text("1 caption was changed")).to_be_visible()
    kept = read_yaml(folder / "data.yaml")["clips"]["clip-0.mp4"]
    assert kept["parts"] == [{"start": 0.25, "end": 0.625}]
    assert kept["crop"] == [pytest.approx(1 / 6, rel=1e-4), 0, pytest.approx(2 / 3, rel=1e-4), 1]
    assert (folder / "clips" / "clip-0.txt").read_text() == "a pale square <i>moves</i>\n"
    assert (folder / "clips" / "clip-0.mp4").read_bytes() == before


def test_a_mask_is_painted_and_a_video_is_made_with_it(folder: Path) -> None:
    from playwright.sync_api import expect

    with opened(folder, "Sample") as page:
        page.get_by_role("tab", name="Between frames").focus()  # tabs are gone through by arrows
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("tab", name="Paint a mask")).to_have_attribute("aria-selected", "true")
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_contain_text("a frame back, on")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        page.get_by_label("Model", exact=True).select_option("world")
        page.get_by_label("Clip", exact=True).select_option("clips/clip-0.mp4")
        canvas = page.locator("[data-mask] canvas")
        expect(canvas).to_have_attribute("height", "341")  # of the clip's own shape
        page.get_by_role("button", name="Box", exact=True).click()
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + 12, box["y"] + 12)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
        page.mouse.up()
        mask, frame = page.locator("[data-mask]"), page.locator("[data-mask]").get_by_role("slider", name="Frame")
        expect(mask).to_have_attribute("data-shown", "key")
        frame.fill("10")
        expect(mask).to_have_attribute("data-shown", "held")
        page.get_by_role("button", name="Clear").click()
        canvas.focus()  # by keys alone: a box from the middle to the right and below, drawn twice and once taken back
        for key in (" ", *["Shift+ArrowRight"] * 7, *["Shift+ArrowDown"] * 4):
            page.keyboard.press(key)
        expect(page.get_by_text("A box: arrows open it")).to_be_visible()
        for key in (" ", "b", "[", " ", "Shift+ArrowLeft", "Escape"):
            page.keyboard.press(key)
        painted = page.evaluate(CENTRE)
        page.keyboard.press("u")
        assert 0.7 < page.evaluate(CENTRE) < painted < 0.8
        page.keyboard.press(",")
        expect(frame).to_have_value("9")
        page.keyboard.press("r")
        frame.fill("5")  # between two key frames it is shown as the sampling will have it
        expect(mask).to_have_attribute("data-shown", "between")
        expect(page.get_by_text("on the way between two key frames")).to_be_visible()
        assert 0.3 < page.evaluate(CENTRE) < 0.7
        page.get_by_role("button", name="Use this mask").click()
        expect(page.locator("[data-mask] .badge.yes")).to_contain_text("% is made anew")
        page.locator("[data-option=steps] input").fill("two")
        expect(page.locator("[data-option=steps] [role=alert]")).to_contain_text("expected int")
        page.locator("[data-option=steps] input").fill("2")
        expect(page.get_by_text("kinolab complete")).to_contain_text("--steps=2")
        page.get_by_role("button", name="Make", exact=True).click()
        made = page.locator("[data-sample]")
        expect(made).to_have_count(1, timeout=4 * WAIT)
        page.reload()
        expect(made).to_have_count(1)
        page.get_by_role("button", name="Use settings").click()
        expect(page.locator("[data-option=steps] input")).to_have_value("2")
    record = json.loads(next((folder / "samples").glob("*.json")).read_text())
    assert record["request"]["given"]["task"] == "complete" and record["request"]["sampler"]["steps"] == 2
    assert "samples/given/mask-" in record["request"]["given"]["mask"]


def test_two_videos_play_in_step_and_are_chosen_between_blindly(folder: Path) -> None:
    from playwright.sync_api import expect

    for k in range(2):
        clip(folder / "samples" / f"made-{k}.mp4", shift=11 * k)
    with opened(folder, "Compare") as page:
        for k in range(2):
            page.get_by_role("checkbox", name=f"samples/made-{k}.mp4").check()
        expect(page.locator(".stage video")).to_have_count(2)
        page.get_by_role("button", name="Play", exact=True).click()
        expect(page.locator("[data-drift]")).to_have_attribute("data-drift", re.compile(r"\d"))
        page.keyboard.press("Home")
        page.get_by_role("button", name="One frame on").click()
        page.get_by_role("button", name="Difference").click()
        expect(page.locator(".stage")).to_have_attribute("data-view", "difference")
        page.get_by_role("button", name="Choose between the two above").click()
        page.get_by_role("button", name="← Left").click()
        expect(page.locator("[data-tally]")).to_contain_text("95% interval")
        page.reload()
        expect(page.locator(".stage video")).to_have_count(2)
        worst = {"clips": [{"name": "worst", "scores": {"psnr": 1.0}, "video": "../samples/made-1.mp4"}]}
        (folder / "scores" / "a.json").write_text(json.dumps(worst))  # a file names its videos from where it lies
        page.get_by_role("button", name="worst", exact=True).click()
        expect(page.locator(".stage video")).to_have_count(1)
        expect(page.locator(".stage video")).to_have_js_property("readyState", 4)
    row = json.loads((folder / "samples" / "votes.jsonl").read_text().splitlines()[0])
    assert row["chosen"] == "left" and row["won"] == row["left"]


def test_what_a_recipe_needs_is_made_from_the_page(folder: Path) -> None:
    """A video model on clips of one's own: what it learns on is asked for, made and there, and the training begins."""
    from playwright.sync_api import expect

    from tests.training.tiny import denoiser_recipe

    values = denoiser_recipe(Path("world"), steps=2, save_every=2)
    del values["denoiser"]["num_classes"], values["samples"]["labels"]
    values |= {"name": "mine", "data": {"kind": "cache", "path": "runs/latents"}}
    values["denoiser"] |= {"in_channels": 8, "input_size": 8}
    (folder / "mine.yaml").write_text(to_yaml(values))
    (folder / "broken.yaml").write_text("kind: autoencoder\ntraining: {steps: [1\n")
    with opened(folder, "Train") as page:
        expect(page.locator("[data-need=latents]")).to_be_visible(timeout=2 * WAIT)
        wrong = page.get_by_role("alert", name="What can't be read")
        expect(wrong).to_contain_text("broken.yaml: not valid YAML (line 3)")
        assert str(folder) not in wrong.inner_text()
        expect(page.get_by_role("button", name="Train", exact=True)).to_be_disabled()
        page.get_by_role("button", name="Make the latents").click()
        form = page.locator("[data-form=encode]")
        expect(form.locator("[data-option=frames] input")).to_have_value("17")
        expect(form.locator("pre")).to_contain_text("kinolab encode")
        form.get_by_role("button", name="Make the latents").click()
        expect(page.locator("[data-needs]")).to_have_count(0, timeout=4 * WAIT)
        page.get_by_role("button", name="Train", exact=True).click()
        expect(page.locator("main .badge", has_text=re.compile(r"^\s*finished"))).to_be_visible(timeout=4 * WAIT)
        page.get_by_role("link", name="Sample from it").click()
        expect(page.get_by_label("Model", exact=True)).to_have_value("runs/mine")


def test_an_adapter_is_extracted_and_weights_are_converted_beside_an_open_pack(folder: Path, tiny_model: Path) -> None:
    from playwright.sync_api import expect

    for name in ("one", "two"):
        shutil.copytree(tiny_model, folder / "models" / name)
    project = Project.open(folder)
    jobs.pause(project, True)  # what is asked for is looked at, and not done
    with opened(folder, "Models") as page:
        card = page.locator("article[data-adapters]")
        card.get_by_role("button", name="Extract", exact=True).click()
        form = card.locator("[data-form='lora extract']")
        form.locator("[data-option=base] select").select_option("models/one")
        form.locator("[data-option=tuned] select").select_option("models/two")
        form.locator("[data-option=rank] input").fill("2")
        expect(form.locator("pre")).to_contain_text("--rank=2 -- models/one models/two")
        form.get_by_role("button", name="Extract", exact=True).click()
        expect(form).to_have_count(0)
        page.locator("[data-model='models/one']").get_by_role("button", name="Pack").click()
        page.locator("summary", has_text="Convert public weights").click()
        form = page.locator("[data-form=convert]")
        form.locator("[data-option=source] textarea").fill("models/two")
        form.locator("summary").click()
        form.locator("[data-option=to] select").select_option("public")
        expect(form.locator("pre")).to_contain_text("kinolab convert --out=models/converted --to=public -- models/two")
        form.get_by_role("button", name="Convert").click()
        expect(page.get_by_title("Jobs (key q)")).to_contain_text("2")
    asked = [(job.command, job.values) for job in jobs.all_jobs(project)]
    assert asked == [
        ("lora extract", {"base": "models/one", "tuned": "models/two", "out": "models/adapter", "rank": 2}),
        ("convert", {"source": ["models/two"], "out": "models/converted", "to": "public"}),
    ]  # fmt: skip


def test_a_curve_tells_its_last_value_as_it_grows_and_small_ones_as_they_are(folder: Path) -> None:
    from playwright.sync_api import expect

    run = folder / "runs" / "a"
    run.mkdir(parents=True)

    def write(losses: list[float]) -> None:
        rows = [{"step": k, "kind": "train", "seconds": float(k), "loss": loss} for k, loss in enumerate(losses, 1)]
        (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    write([4e-6, 3e-6])
    with opened(folder, "Train") as page:
        legend = page.locator(".u-legend")
        expect(legend).to_contain_text("0.000003000")
        write([4e-6, 3e-6, 2e-6])
        expect(legend).to_contain_text("0.000002000")
        texts: list[str] = []

        def told(text: str) -> None:
            texts.append(text)

        page.expose_function("told", told)
        page.evaluate(WATCH_TEXT)
        page.get_by_role("button", name="log", exact=True).click()
        page.get_by_role("button", name="log", exact=True).click()
        page.wait_for_timeout(500)
        assert "4e-6" in texts and "2e-6" in texts
