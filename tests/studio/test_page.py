"""The page in Chromium: a training from its form on, over reloads and kills; models; that no other host is asked."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kinolab.runtime.yaml_files import to_yaml
from tests.studio.browsing import WAIT, Served, Watched, chromium, end_queue, served
from tests.training.tiny import autoencoder_recipe

pytestmark = pytest.mark.wide("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "p"
    path.mkdir()
    recipe = autoencoder_recipe(steps=4000, save_every=4000, evaluate_every=10, sample_every=10, log_every=1)
    (path / "small.yaml").write_text("# A small autoencoder\n" + to_yaml(recipe))
    return path


def points(page: Any) -> int:
    return int(page.locator(".plot").first.get_attribute("data-points") or 0)


def until(what: Any, seconds: float = WAIT / 1000) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


def test_train_from_the_form_over_reload_and_kill_to_stop_and_resume(browser: Any, folder: Path) -> None:
    from playwright.sync_api import expect

    with served(folder) as studio:
        watched = Watched(browser)
        page = watched.page
        page.goto(studio.url)
        expect(page).to_have_url(f"http://127.0.0.1:{studio.port}/")
        page.get_by_title("Train (key 2)").click()
        steps = page.get_by_label(re.compile(r"training\.steps"))
        expect(steps).to_have_value("4000", timeout=2 * WAIT)
        steps.fill("none")
        steps.blur()
        expect(page.get_by_role("alert").filter(has_text="training.steps")).to_be_visible()
        expect(page.get_by_role("button", name="Train", exact=True)).to_be_disabled()
        steps.fill("3000")
        steps.blur()
        expect(page.locator("pre", has_text="--set=training.steps=3000")).to_be_visible()
        page.get_by_role("button", name="Train", exact=True).click()
        expect(page.locator("[data-state=running]").first).to_be_visible(timeout=2 * WAIT)
        expect(page.locator(".plot").first).to_be_visible(timeout=2 * WAIT)

        page.reload()
        expect(page.locator(".plot").first).to_be_visible()
        before = points(page)
        assert before > 0
        until(lambda: points(page) > before)

        other = Watched(browser)  # a second tab sees the same
        other.page.goto(studio.url)
        other.page.get_by_title("Train (key 2)").click()
        expect(other.page.locator("main [data-state=running]").first).to_be_visible()

        studio.kill()  # the training goes on without a server, and the page when there is one again
        expect(page.get_by_text("The studio does not answer")).to_be_visible()
        again = Served(folder, studio.port)
        try:
            expect(page.get_by_text("The studio does not answer")).to_be_hidden(timeout=WAIT)
            expect(page.locator("main [data-state=running]").first).to_be_visible()
            before = points(page)
            until(lambda: points(page) > before)

            page.get_by_role("button", name="Save now").click()
            until(lambda: any((folder / "runs" / "small" / "checkpoints").glob("*")))
            other.page.get_by_role("button", name="Stop and save").click()
            expect(page.get_by_role("button", name="Resume")).to_be_visible(timeout=WAIT)
            page.get_by_role("button", name="Resume").click()
            expect(page.get_by_role("button", name="Stop and save")).to_be_visible(timeout=2 * WAIT)
            # What the page said of the lost server is Chromium's own line about it.
            lost = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET")
            watched.said = [line for line in watched.said if not any(word in line for word in lost)]
            watched.clean(studio.port)
        finally:
            again.close()


def test_a_job_that_is_killed_has_failed_on_the_page(browser: Any, folder: Path) -> None:
    from playwright.sync_api import expect

    from kinolab.studio import jobs
    from kinolab.studio.project import Project

    with served(folder) as studio:
        watched = Watched(browser)
        project = Project.open(folder)
        job = jobs.add(project, "train", {"recipe": "small.yaml", "run": "runs/small"}, "train small")
        watched.page.goto(studio.url)
        watched.page.keyboard.press("q")
        card = watched.page.locator(f"[data-job='{job.id}']")
        expect(card).to_have_attribute("data-state", "running", timeout=2 * WAIT)
        known = jobs.process(project, job.id)
        assert known is not None and known.kill_group()
        expect(card).to_have_attribute("data-state", "failed")
        watched.clean(studio.port)
    end_queue(folder)


def test_models_are_listed_inspected_and_packed(browser: Any, folder: Path) -> None:
    from playwright.sync_api import expect

    with served(folder) as studio:
        watched = Watched(browser, width=390, scheme="dark")
        page = watched.page
        page.goto(f"{studio.url}#/models")
        card = page.locator("[data-model=world]")
        expect(card.get_by_text("17 frames")).to_be_visible()
        card.get_by_role("button", name="Inspect").click()
        expect(card.locator("pre", has_text="parameters")).to_be_visible(timeout=2 * WAIT)
        card.get_by_role("button", name="Pack").click()
        expect(card.locator("pre", has_text="kinolab pack")).to_be_visible()
        card.locator("form").get_by_role("button", name="Pack").click()
        expect(page.locator("[data-model='models/world-small']")).to_be_visible(timeout=2 * WAIT)
        assert (folder / "models" / "world-small" / "model.yaml").is_file()
        for place in ("header", "main"):  # nothing is wider than a telephone
            box = page.locator(place).first.bounding_box()
            assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390
        watched.clean(studio.port)
