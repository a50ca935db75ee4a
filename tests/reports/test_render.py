"""A report escapes its texts, needs no network, has labels and sort keys, and shows only files that are there."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kinolab.errors import InputError
from kinolab.reports import (
    Block,
    Cell,
    Curves,
    Facts,
    Fold,
    Histogram,
    Report,
    ScoredClip,
    Section,
    SyncedVideos,
    Table,
    Text,
    WorstFirst,
    render,
    write_report,
)
from kinolab.reports.blocks import figures
from tests.reports.reading import NASTY, Reader

SYNCED = SyncedVideos(
    NASTY, (("original", "media/a.mp4"), (NASTY, "media/b#1.mp4")), 8.0, 17, "media/e.mp4", 32.0, {NASTY: NASTY}
)


def report_of(*blocks: Block) -> Report:
    return Report(NASTY, NASTY, (Section(NASTY, NASTY, blocks), Section("second", "")), {NASTY: NASTY}, NASTY)


def everything() -> Report:
    table = Table(("name", "value"), (("x", Cell.of(1.5, (1.0, 2.0), "better")), (NASTY, None)), NASTY)
    clips = (ScoredClip(NASTY, {NASTY: 3.0}, "media/w.mp4", NASTY), ScoredClip("b", {"psnr": math.nan}))
    return report_of(
        Text(NASTY, NASTY),
        Text(NASTY, code=True),
        Facts({NASTY: NASTY}, NASTY),
        Curves(NASTY, {NASTY: [(0, 1.0)]}, "x", "y"),
        Histogram(NASTY, [1.0], "x"),
        SYNCED,
        Fold(NASTY, (table, WorstFirst(NASTY, clips, NASTY))),
    )


def test_every_text_is_escaped_and_the_markup_is_whole() -> None:
    reader = Reader(render(everything()))
    assert len(reader.all("script")) == 1, "only the report's own script"
    assert reader.text.count(NASTY) >= 25
    assert len(reader.all("h1")) == 1 and len(reader.all("h2")) == 2


def test_it_needs_no_network() -> None:
    page = render(everything())
    reader = Reader(page)
    outside = [name for name in reader.files if name.startswith(("http:", "https:", "//", "data:"))]
    assert not outside and "http" not in page and "@import" not in page and "url(" not in page
    assert not reader.all("link")


def test_videos_that_play_as_one_are_in_one_group_with_its_controls() -> None:
    page = render(report_of(SYNCED))
    reader = Reader(page)
    (group,) = reader.all("div", "synced")
    assert group["data-fps"] == "8" and group["data-frames"] == "17" and group["role"] == "group"
    assert [v["src"] for v in reader.all("video")] == ["media/a.mp4", "media/b%231.mp4", "media/e.mp4"]
    assert all("muted" in v and v["aria-label"] and "autoplay" not in v for v in reader.all("video"))
    (slider,) = reader.all("input", "frame")
    assert (slider["min"], slider["max"], slider["aria-label"]) == ("0", "16", "frame")
    assert "1 / 17" in reader.text and "32 of 255" in reader.text
    for part in ("play", "back", "next"):
        assert reader.all("button", part)
    assert '.querySelectorAll(".synced").forEach(synced)' in page
    assert 'group.querySelectorAll("video")' in page and "currentTime" in page


def test_cells_have_what_they_are_sorted_by() -> None:
    rows = (("Beta", Cell.of(10.0, (9.5, 10.5), "noise"), 1), ("alpha", Cell.of(math.nan), 2), ("c", 2.25, None))
    page = render(report_of(Table(("name", "score", "n"), rows)))
    reader = Reader(page)
    assert [cell["data-sort"] for cell in reader.all("td")] == [
        *("beta", "10.0", "1.0"),
        *("alpha", "", "2.0"),
        *("c", "2.25", ""),
    ]
    assert [head.get("class", "") for head in reader.all("th")] == ["", "number", "number"]
    assert all(head["aria-sort"] == "none" and head["scope"] == "col" for head in reader.all("th"))
    assert " 10 <small>(9.50 to 10.5)</small>" in page
    finer = render(report_of(Table(("score",), ((Cell.of(0.12345, (0.1, 0.2)),), (Cell("62.9", 62.9, (56.8, 68.6)),)))))
    assert "0.1235 <small>(0.1000 to 0.2000)</small>" in finer, "as many decimals as the value has"
    assert "62.9 <small>(56.8 to 68.6)</small>" in finer


def test_marks_are_told_by_a_symbol_and_in_words_too() -> None:
    rows = (("a", Cell.of(2.0, (1.9, 2.1), "better")), ("b", Cell.of(1.0, (0.9, 1.1))))
    reader = Reader(render(report_of(Table(("name", "score"), rows))))
    assert len(reader.all("td", "better")) == 1 and not reader.all("td", "noise")
    assert reader.text.count("better beyond noise") == 2, "in the cell for a screen reader, and below the table"
    assert "▲" in reader.text and "≈" not in reader.text


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(InputError, match="2 columns, but a row of 1 cells"):
        Table(("a", "b"), (("x",),))


def test_clips_keep_their_order_and_load_when_they_are_seen() -> None:
    clips = tuple(ScoredClip(f"clip {k}", {"psnr": 10.0 + k}, f"media/{k}.mp4") for k in range(3))
    reader = Reader(render(report_of(WorstFirst("worst", clips))))
    videos = reader.all("video", "lazy")
    assert [v["src"] for v in videos] == ["media/0.mp4", "media/1.mp4", "media/2.mp4"]
    assert all(v["preload"] == "none" and v["tabindex"] == "0" for v in videos), "played by a click or a key"
    assert reader.text.index("clip 0") < reader.text.index("clip 1") < reader.text.index("clip 2")


def test_it_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    page = tmp_path / "out" / "report.html"
    with pytest.raises(InputError, match=r"refers to 'media/a\.mp4', which is no file") as error:
        write_report(report_of(SYNCED), page)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
    (tmp_path / "out" / "media").mkdir(parents=True)
    for name in ("a.mp4", "b#1.mp4", "e.mp4"):
        (tmp_path / "out" / "media" / name).write_bytes(b"x")
    write_report(report_of(SYNCED), page)
    assert sorted(p.name for p in page.parent.iterdir()) == ["media", "report.html"]
    with pytest.raises(InputError, match="no file below"):
        write_report(report_of(SyncedVideos("t", (("a", "../media/a.mp4"),), 8.0, 2)), page.parent / "media" / "r.html")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.0, "3"), (123456.0, "123,456"), (0.87654321, "0.8765"), (27.1234567, "27.12"), (1234.56, "1235"),
        (0.00001234, "1.234e-05"), (-0.5, "-0.5000"), (math.nan, "-"), (None, "-"), (math.inf, "-"),
    ],
)  # fmt: skip
def test_figures_are_for_people(value: float | None, text: str) -> None:
    assert figures(value) == text
