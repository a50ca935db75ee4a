"""The panel of clips in Chromium, as it is used: folders dropped on it, odd names, copies, two tabs, a telephone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kinolab import video
from kinolab.runtime.yaml_files import read_yaml
from tests.studio.browsing import WAIT
from tests.studio.test_likeness import scene
from tests.studio.test_panels import clip, opened

pytestmark = [pytest.mark.wide("chromium"), pytest.mark.timeout(600)]
ODD = "100% #1 & 'café' \"two\" <img src=x onerror=alert(1)> ?.mp4"
"""A name that an address, a shell and a page would each read otherwise."""


def drop(page: Any, on: Any, paths: list[Path]) -> None:
    """Drop files and folders of the disk on a place of the page, as a file manager does."""
    session = page.context.new_cdp_session(page)
    box = on.bounding_box()
    where = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, **where, "data": data})


def touch(page: Any, begin: tuple[float, float], by: tuple[float, float]) -> None:
    """Drag with a finger."""
    session = page.context.new_cdp_session(page)
    for k in range(6):
        point = {"x": begin[0] + by[0] * k / 5, "y": begin[1] + by[1] * k / 5}
        session.send("Input.dispatchTouchEvent", {"type": "touchMove" if k else "touchStart", "touchPoints": [point]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_folders_are_dropped_with_captions_and_what_is_no_clip_is_said(tmp_path: Path) -> None:
    from playwright.sync_api import expect

    given = tmp_path / "given"
    clip(given / "videos" / "ball.mp4")
    (given / "videos" / "ball.txt").write_text("a white square\n")
    for k, frame in enumerate(scene(3, frames=5)):
        (given / "walk").mkdir(exist_ok=True)
        Image.fromarray(frame).save(given / "walk" / f"{k:04d}.png")
    (given / "broken.mp4").write_bytes(b"no video at all")
    (given / "notes.pdf").write_bytes(b"%PDF")
    folder = tmp_path / "p"
    with opened(folder, "Clips") as page:
        place = page.get_by_role("group", name="Add clips")
        drop(page, place, [given / "videos", given / "walk"])
        expect(page.locator("[data-clip]")).to_have_count(2)
        expect(page.locator("[data-clip='ball.mp4']")).to_contain_text("a white square")
        expect(page.locator("[data-clip='walk']")).to_be_visible()
        drop(page, place, [given / "broken.mp4", given / "notes.pdf"])
        wrong = page.get_by_role("list", name="Files on their way").get_by_role("alert")
        expect(wrong).to_have_count(2)
        expect(wrong.last).to_contain_text("notes.pdf: no video and no image")
    assert sorted(path.name for path in (folder / "clips" / "walk").iterdir()) == [f"{k:04d}.png" for k in range(5)]
    assert (folder / "clips" / "ball.txt").read_text() == "a white square\n"


def test_copies_are_told_and_odd_names_and_two_tabs_lose_nothing(tmp_path: Path) -> None:
    from playwright.sync_api import expect

    folder = tmp_path / "p"
    (folder / "clips").mkdir(parents=True)
    for k, name in enumerate(("a.mp4", ODD)):
        video.write(folder / "clips" / name, scene(k), 8.0)
    small = [np.asarray(Image.fromarray(frame).resize((64, 64))) for frame in scene(0)]
    video.write(folder / "clips" / "small.mp4", small, 8.0, quality=40)
    with opened(folder, "Clips") as page:
        expect(page.locator("[data-clip='small.mp4'] .badge", has_text="alike")).to_be_visible(timeout=3 * WAIT)
        page.get_by_role("button", name="1 looks like another").click()
        expect(page.locator("[data-clip]")).to_have_count(2)
        page.locator("[data-clip='small.mp4']").click()
        expect(page.locator("[data-like='a.mp4']")).to_contain_text("% alike to a.mp4")
        page.get_by_role("link", name="see both in step").click()
        expect(page.locator(".stage video")).to_have_count(2)
        page.get_by_title("Clips (key 1)").click()

        page.locator("[data-clip]", has_text="100%").click()
        editor = page.locator("[data-editor]", has_text="100%")
        expect(editor.locator("video")).to_have_js_property("readyState", 4)
        expect(editor.get_by_role("heading")).to_have_text(ODD)  # a text, and no picture that runs a script
        assert page.locator("img[src=x]").count() == 0
        editor.get_by_label("Caption").fill("an odd one")
        editor.get_by_label("Caption").press("Tab")
        expect(editor.get_by_text("saved")).to_be_visible()

        other = page.context.new_page()  # a second tab sees what the first does, and takes nothing of it back
        other.goto(page.url)
        other.locator("[data-clip]", has_text="100%").click()
        expect(other.locator("[data-editor]").get_by_label("Caption")).to_have_value("an odd one")
        expect(other.get_by_text("of 8 frames")).to_be_visible()
        editor.get_by_role("slider").focus()
        page.keyboard.press("k")
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("s")
        expect(editor.get_by_text("of 2: frames")).to_be_visible()
        expect(other.get_by_text("of 2: frames")).to_be_visible()
        other.get_by_label("Choose what is kept").check()
        expect(page.locator("[data-crop]")).to_be_visible()
        editor.get_by_label("Caption").fill("an odd one, told anew")
        expect(other.locator("[data-editor]").get_by_label("Caption")).to_have_value("an odd one, told anew")
    kept = read_yaml(folder / "data.yaml")["clips"][ODD]
    assert len(kept["parts"]) == 2 and len(kept["crop"]) == 4


def test_on_a_telephone_a_crop_is_dragged_by_finger_and_nothing_moves_by_itself(tmp_path: Path) -> None:
    from playwright.sync_api import expect

    folder = tmp_path / "p"
    clip(folder / "clips" / "clip.mp4", size=(64, 128))
    looks = {"width": 390, "has_touch": True, "is_mobile": True, "reduced_motion": "reduce"}
    with opened(folder, "Clips", **looks) as page:
        expect(page.locator("[data-clip] img")).to_be_visible()
        expect(page.locator("[data-clip] video")).to_have_count(0)
        page.get_by_label("Size", exact=True).fill("64")
        page.locator("[data-clip='clip.mp4']").tap()
        editor = page.locator("[data-editor]")
        expect(editor.get_by_text("of 24 frames")).to_be_visible()
        assert editor.locator("video").evaluate("video => video.paused")
        page.get_by_label("Choose what is kept").check()
        crop = page.locator("[data-crop]")
        crop.scroll_into_view_if_needed()
        box = crop.bounding_box()
        expect(editor.get_by_text("50 % of the picture is lost")).to_be_visible()
        touch(page, (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2), (-200, 0))
        expect(crop).to_have_css("left", "0px")
        corner = crop.locator(".corner").bounding_box()
        assert corner["width"] >= 36  # what a finger finds
        touch(page, (corner["x"] + corner["width"] / 2, corner["y"] + corner["height"] / 2), (-40, -40))
        expect(editor.get_by_text("of the picture is lost")).to_be_visible()
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    left, top, width, height = read_yaml(folder / "data.yaml")["clips"]["clip.mp4"]["crop"]
    assert left == top == 0 and 0.1 < width < 0.45 and height == pytest.approx(2 * width, rel=0.02)


def test_clips_are_curated_stopped_and_gone_on_with_and_thresholds_say_what_they_cost(tmp_path: Path) -> None:
    from playwright.sync_api import expect

    folder = tmp_path / "p"
    for k in range(3):
        clip(folder / "clips" / f"clip-{k}.mp4", shift=9 * k)
    video.write(folder / "clips" / "still.mp4", [scene(5)[0]] * 16, 8.0)
    before = {path.name: path.read_bytes() for path in (folder / "clips").glob("*.mp4")}
    with opened(folder, "Clips") as page:
        page.get_by_role("button", name="Curate", exact=True).click()
        form = page.locator("form[data-form='data curate']")
        form.get_by_label("Folder to write").fill("../out")
        expect(form.get_by_role("alert").filter(has_text="leads out of the project")).to_be_visible()
        expect(form.get_by_role("button", name="Curate")).to_be_disabled()
        form.get_by_label("Folder to write").fill("curated")
        form.get_by_role("button", name="no stills").click()
        expect(form.locator("pre")).to_contain_text("--set=keep.motion.min=0.0005 --dry-run -- clips")
        form.get_by_role("button", name="Curate").click()
        card = page.locator("[data-curate] [data-job*='data-curate']")
        expect(card).to_have_attribute("data-state", "running", timeout=2 * WAIT)
        card.get_by_role("button", name="Stop and save").click()
        expect(card).to_have_attribute("data-state", "stopped")
        card.get_by_role("button", name=re.compile("Resume|Again")).click()
        found = page.locator("[data-curation='curated']")
        expect(found.get_by_text("table only")).to_be_visible(timeout=2 * WAIT)
        expect(found.get_by_role("row", name="motion ≥ 0.0005 1 clip")).to_be_visible()
        found.get_by_text("The clips nearest to motion").click()
        expect(found.get_by_label("still.mp4")).to_have_js_property("readyState", 4)
        assert not (folder / "curated" / "clips").exists()
        form.get_by_label("Only the table").uncheck()
        expect(form.locator("pre")).not_to_contain_text("--dry-run")
        form.get_by_role("button", name="Curate").click()
        expect(found.get_by_text("clips written")).to_be_visible(timeout=2 * WAIT)
    assert len(list((folder / "curated" / "clips").glob("clip-*.mp4"))) == 6  # three clips of two scenes
    assert {path.name: path.read_bytes() for path in (folder / "clips").glob("*.mp4")} == before


def test_nothing_plays_where_nobody_is_at_the_page(tmp_path: Path) -> None:
    """What loops by itself stands after a minute without a sign of anybody, and goes on at the next one."""
    from playwright.sync_api import expect

    folder = tmp_path / "p"
    clip(folder / "clips" / "clip.mp4")
    with opened(folder, "Clips") as page:
        page.clock.install()
        page.reload()
        loops = page.locator("[data-clip] video")
        expect(loops).to_have_count(1)
        page.clock.fast_forward(61_000)
        expect(loops).to_have_count(0)
        page.mouse.move(200, 300)
        expect(loops).to_have_count(1)
