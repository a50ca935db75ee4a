"""The page of a report in Chromium, opened from disk: its policy lets it be drawn, and it asks nobody for anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinolab import video
from kinolab.reports import (
    Card,
    Cell,
    Curves,
    Fold,
    Gallery,
    Histogram,
    Report,
    ScoredClip,
    Section,
    SyncedVideos,
    Table,
    Text,
    WorstFirst,
    write_report,
)
from tests.reports.reading import NASTY
from tests.studio.browsing import WAIT, Watched, chromium

pytestmark = pytest.mark.wide("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a report & 100%")
    for k in range(3):
        frames = np.full((16, 48, 64, 3), 60 * k, np.uint8)
        for t in range(16):
            frames[t, 8:24, 3 * t : 3 * t + 12] = 255
        video.write(folder / "media" / f"v#{k}.mp4", frames, 8.0)
    names = [f"media/v#{k}.mp4" for k in range(3)]
    rows = (("b", Cell.of(2.0, (1.5, 2.5), "noise")), ("a", Cell.of(10.0, (9.0, 11.0))), ("c", None))
    blocks = (
        Text(NASTY, NASTY),
        Curves(
            "loss", {"train": [(k, 2.0**-k) for k in range(9)], "held out": [(0, 1.0), (8, 0.1)]}, "step", "loss", True
        ),
        Histogram("spread", [1.0, 2.0, 2.5, 4.0], "score", {"mean": 2.4}),
        SyncedVideos(NASTY, tuple((NASTY, name) for name in names[:2]), 8.0, 16, names[2], 64.0, {"PSNR": "9 dB"}),
        Table(("name", "score"), rows, "scores"),
        WorstFirst("worst", (ScoredClip(NASTY, {"psnr": 3.0}, names[0], NASTY),), "text"),
        Gallery((Card(NASTY, names[1], None, True, ("left", "right"), {"colours": True}, {"a": "b"}, "kinolab x"),)),
        Fold("more", (Curves("folded", {"a": [(0, 1.0), (1, 2.0)]}, "x", "y"),)),
    )
    write_report(
        Report(NASTY, NASTY, (Section("one", NASTY, blocks), Section("two", "")), {"n": "1"}), folder / "r.html"
    )
    return folder / "r.html"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_is_drawn_from_disk_and_asks_nobody(browser: Any, page: Path, width: int, scheme: str) -> None:
    from playwright.sync_api import expect

    watched = Watched(browser, width, scheme)
    shown = watched.page
    shown.goto(page.as_uri())
    expect(shown.locator("h1")).to_have_text(NASTY, timeout=WAIT)
    expect(shown.locator("script")).to_have_count(2)
    expect(shown.locator(".plot canvas").first).to_be_visible()
    expect(shown.locator("rect[data-count='1']")).to_have_count(4)
    shown.get_by_text("more", exact=True).click()
    expect(shown.locator("details canvas")).to_be_visible()
    assert shown.locator("html").bounding_box()["width"] <= width  # nothing is wider than the page

    player = shown.get_by_role("group", name=NASTY, exact=True)
    player.scroll_into_view_if_needed()
    video = player.locator("video").first
    expect(video).to_have_js_property("readyState", 4)
    player.get_by_role("button", name="One frame on").click()
    player.get_by_role("button", name="One frame on").click()
    expect(player.locator("[data-frame]")).to_have_attribute("data-frame", "2")
    expect(video).to_have_js_property("currentTime", 2.5 / 8)
    player.get_by_role("button", name="Play", exact=True).click()
    expect(player.locator("[data-drift]")).to_have_attribute("data-drift", re.compile(r"\d"))
    player.get_by_role("button", name="Pause", exact=True).click()
    player.focus()
    shown.keyboard.press("d")
    expect(player.locator(".stage")).to_have_attribute("data-view", "difference")

    head = shown.get_by_role("button", name="score", exact=True)
    orders = (["b", "a", "c"], ["a", "b", "c"])  # 2, 10, none; and back: what is not there stands last
    for order in orders:
        head.click()
        expect(shown.locator("tbody td:first-child")).to_have_text(order)

    assert watched.asked and all(url.startswith(page.parent.as_uri() + "/") for url in watched.asked), watched.asked
    assert not watched.said, watched.said
    watched.context.close()
